"""A run that v0.1.0 stored: what it finished stays, and it goes on to the same results.

`tests/data/run-9696e7e.tar.gz` holds a run that was killed after iteration 2 of 3, and what the
program of that commit made of it when it went on (`expected.json`); `make_run.py` made both.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import stubs
from places import TESTS

from icpo_core.run import integrity, plan
from icpo_core.run.run import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(TESTS / "data" / "run-9696e7e.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def moved(folder: Path) -> list[str]:
    """Where the sources are now; what else the run was made with is in its `config.json`."""
    data = folder / "data"
    return [
        f"model.path={stubs.SMALL / 'base'}",
        f"prompts.problems={data}/train.parquet",
        f"prompts.demonstrations={data}/demonstrations.parquet",
        f'prompts.exclude=["{data}/heldout.parquet"]',
        f'evaluate.benchmarks=[{{name="heldout", problems="{data}/heldout.parquet"}}]',
    ]


@pytest.mark.parametrize("how", ["by its folder", "by its configuration"])
def test_a_run_of_v010_goes_on_as_if_nothing_had_changed(how: str, folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    root = folder / "runs" / "run"
    if how == "by its folder":
        run = Run.named(root, moved(folder))
    else:
        run = Run.of(stubs.configuration(folder))
    assert run.paths.root.samefile(root)
    steps = plan.plan(run)
    assert len(steps) == 1 + 6 + 7 + 7
    undone = [(one.stage, one.iteration, one.status.reason) for one in steps if not one.status.done]
    assert {number for _, number, _ in undone} == {3}, undone
    assert len(undone) == 7
    assert integrity.check(run.paths) == []
    manifests = {path: path.read_bytes() for path in root.glob("it-*/*/manifest.json")}

    ledger = folder / "ledger"
    with stubs.stubbed(run, ledger) as session:
        made = stubs.made(stubs.train(session))
    assert made == expected["made"]
    assert all(place.startswith("it-0003/") for place in made)
    # One step and the samples of one iteration and its evaluation; no state is come to by replay.
    done = ledger.read_text().splitlines()
    assert Counter(line.partition(" ")[0] for line in done) == {"sample": 4 * 4 + 6, "step": 1}
    assert "step 3" in done
    assert {path: path.read_bytes() for path in manifests} == manifests
    assert stubs.digests(root) == expected["digests"]
    assert integrity.check(run.paths) == []
