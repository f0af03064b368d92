"""The flow with a newer Prefect than vLLM allows; engine and trainer where vLLM is."""

import json
from pathlib import Path

import pytest
from strangers import Stranger, programs, wheel_in

PREFECT = "3.9.1"


@pytest.mark.timeout(3000)
def test_two_iterations_across_both(tmp_path: Path) -> None:
    wheel = wheel_in(tmp_path)
    engine = programs(tmp_path, "engine", f"{wheel}[cpu]")
    made = Stranger(tmp_path, programs(tmp_path, "flow", str(wheel), f"prefect=={PREFECT}"))
    there = "import importlib.util as u, prefect; print(prefect.__version__, u.find_spec('torch'))"
    assert made.run("python", "-c", there) == f"{PREFECT} None\n"
    made.run("icpo", "init", "demo")
    made.folder = tmp_path / "demo"
    changes = ["run.iterations=2", "evaluate.every=0"]
    changes += [f"{stage}.python={engine / 'python'}" for stage in ("rollout", "update")]
    more = [word for one in changes for word in ("-o", one)]
    done = json.loads(made.run("icpo", "train", "--json", *more))
    made.run("icpo", "check", done["run"])
