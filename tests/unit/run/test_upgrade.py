"""A run that v0.1.0 stored: what it finished stays, and it goes on to the same results.

`tests/data/run-9696e7e.tar.gz` holds a run that was killed after iteration 2 of 3, and what the
program of that commit made of it when it went on (`expected.json`); `make_run.py` made both.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
import stubs
from places import TESTS

from icpo_core.common.files import canonical_digest
from icpo_core.run import integrity, plan
from icpo_core.run.run import Run
from icpo_core.store.batch import order
from icpo_core.store.tables import Origin, content_digest


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


def as_one_file(run: Run) -> str:
    """Content digest of `select` 3, had it written its batch and rejects in one file each."""
    store = run.store
    prompts = store.table("prompts", 3, "prompts")["prompt_id"].to_pylist()
    batch = store.table("select", 3, "batch")
    rejects = store.table("select", 3, "rejects")
    keys = zip(
        (prompts.index(one) for one in rejects["prompt_id"].to_pylist()),
        (list(Origin).index(one) for one in rejects["origin"].to_pylist()),
        rejects["sample_index"].to_pylist(),
        strict=True,
    )
    ranks = [row for _, row in sorted((key, row) for row, key in enumerate(keys))]
    whole = {
        "batch": batch.take(order(batch)).drop_columns(["place"]),
        "rejects": rejects.take(pa.array(ranks, pa.int64())),
    }
    found = {f"{name}.parquet": content_digest(name, data) for name, data in whole.items()}
    manifest = store.manifest("select", 3)
    assert manifest is not None
    return canonical_digest(found | {"summary.json": manifest.record("summary.json").digest})


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
    digests = stubs.digests(root)
    # Of two parts of rollouts there are two of the batch now, so it bears another digest, and what
    # is named after it another name. Rows, summary and weights are the same.
    whole = as_one_file(run)
    assert whole == expected["digests"]["it-0003/select"]
    named_after = {"it-0003/select", "it-0003/checkpoint", "state"}
    assert digests.keys() == expected["digests"].keys()
    for place in digests.keys() - named_after:
        assert digests[place] == expected["digests"][place], place
    assert integrity.check(run.paths) == []
