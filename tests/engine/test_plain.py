"""`icpo train --plain`: a run without anything of Prefect, with real engines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
from places import DEMO, ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from icpo_core.common import files
from icpo_core.run.run import Run
from icpo_core.views import export

SECONDS = 400
MARK = "ICPO_PLAIN"
"""Variable that all processes of the run inherit."""
REFUSE = '''
"""Python imports this first in every process of the run: none of them can have Prefect."""
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "prefect":
            raise AssertionError(f"{name} is imported")


sys.meta_path.insert(0, Refuse())
'''


def living(mark: str) -> list[str]:
    """Command lines of the processes that have the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get(MARK) == mark
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_a_plain_run_is_whole_and_has_no_prefect(tmp_path: Path) -> None:
    """It trains, evaluates and says how it went; no server, no process left, nothing at home."""
    first = tmp_path / "first"
    first.mkdir()
    (first / "sitecustomize.py").write_text(REFUSE)
    home = tmp_path / "home"
    environment = {
        **os.environ,
        MARK: str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(first), str(ROOT)]),
        "PREFECT_HOME": str(home),
    }

    def icpo(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "icpo", *words], env=environment, cwd=tmp_path,
            capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip

    refused = [sys.executable, "-c", "import prefect"]
    assert subprocess.run(refused, env=environment, capture_output=True).returncode == 1

    changes = ["run.iterations=1", "prompts.batch_size=4", f"run.directory={tmp_path / 'runs'}"]
    words = [word for change in changes for word in ("-o", change)]
    done = icpo("train", str(DEMO), "--plain", "--run", "plain", *words)
    assert done.returncode == 0, done.stderr
    assert "newest model" in done.stdout
    assert "Prefect" not in done.stdout + done.stderr
    assert not living(str(tmp_path))
    assert not home.exists()

    run = Run.read(tmp_path / "runs" / "plain")
    for stage in ("prompts", "rollout", "verify", "select", "update", "evaluate", "checkpoint"):
        made = run.store.finished(stage, 1)
        assert made is not None, stage
        assert made.prefect == {}

    # What it made is a model for others: `icpo push-model`.
    out = export.write(run, 1, tmp_path / "out", tmp_path / "none", "mit")
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert files.model_digest(out) == run.policy(1).version
    asked = tokenizer("Q:1+2\nA:", return_tensors="pt")
    assert model(**asked).logits.isfinite().all()
    assert "after 1 of 1 iterations" in (out / "README.md").read_text()
    checked = icpo("check", str(run.paths.root), "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert json.loads(checked.stdout) == []
