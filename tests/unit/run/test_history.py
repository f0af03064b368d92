"""Evaluations over checkpoints: the best before, a fall, and that it is told during training."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import stubs
from shown import evaluated, put

from icpo.flows.services import alarms
from icpo_core.common.files import write_json
from icpo_core.config import load
from icpo_core.evaluation.evaluator import STAGE
from icpo_core.evaluation.steerability import NAME
from icpo_core.run.evaluations import against_best, history
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.store import manifest, tables
from icpo_core.store.manifest import Manifest


@pytest.fixture
def run(root, tmp_path):
    changes = [f"run.directory={tmp_path}", "run.trackers=[]", "run.iterations=30"]
    with Session(Run.of(load(root / "configs" / "demo.toml", changes, "h"))) as session:
        session.keep_config()
        yield session.run


def samples(run: Run, number: int):
    return tables.read("samples", run.paths.stage("evaluate", number) / "samples.parquet")


def test_an_evaluation_is_held_against_the_best_before_it(run):
    rng = np.random.default_rng(0)
    for number, accuracy in ((0, 0.3), (10, 0.95), (20, 0.8), (30, 0.4)):
        evaluated(run, number, accuracy, rng)
    assert against_best(run, 0, "heldout", samples(run, 0)) is None
    assert against_best(run, 10, "other", samples(run, 10)) is None
    rise = against_best(run, 10, "heldout", samples(run, 10))
    assert rise is not None
    assert (rise.iteration, rise.fell) == (0, False)
    same = against_best(run, 20, "heldout", samples(run, 20))
    assert same is not None
    assert same.iteration == 10
    fall = against_best(run, 30, "heldout", samples(run, 30))
    assert fall is not None
    # Against the best of all before, not the last.
    assert (fall.iteration, fall.fell) == (10, True)
    assert fall.words.startswith("fell from ")
    assert "(iteration 10)" in fall.words
    lost = fall.comparison.lost
    assert f"; lost {len(lost)} problems ({lost[0]}, " in fall.words
    points = history(run, run.paths.root / "nothing")
    assert [one.iteration for one in points] == [0, 10, 20, 30]


def test_what_is_evaluated_beside_a_run_stands_where_its_weights_came_first(run, tmp_path):
    """Updates without a signal leave the base weights; and a probe is no evaluation of the run."""
    for number in (1, 2):
        put(run, "update", number, {}, policy_version=run.base_version)
    put(run, "update", 3, {}, policy_version="learned")
    folder = tmp_path / "evaluations" / "one"
    for name, protocol, version in (
        ("base", "exact", run.base_version), ("third", "exact", "learned"),
        ("asked", NAME, run.base_version),
    ):  # fmt: skip
        made = Manifest(
            stage=STAGE, iteration=0, fingerprint="f", inputs={"model": version},
            config={"benchmark": "heldout"}, config_hash="c", code_version=1, seed=0, files=[],
            parents={}, facts={"protocol": protocol}, libraries={}, prefect={}, git={}, started=0.0,
            seconds=1.0,
        )  # fmt: skip
        manifest.write(folder / f"{name}.manifest.json", made)
        write_json(folder / f"{name}.json", {"accuracy": 0.5})
    points = history(run, folder.parent)
    assert [(one.protocol, one.iteration) for one in points] == [
        ("exact base", 0), ("exact third", 3),
    ]  # fmt: skip


def test_a_fall_in_training_is_an_event(run, monkeypatch):
    told = []
    monkeypatch.setattr(alarms, "raise_alarm", lambda *facts: told.append(facts))
    words = "heldout fell from 90.0% (iteration 10) to 40.0%, p = 0.0001"
    put(run, "evaluate", 20, {}, facts={"accuracy/heldout": 0.4, "fallen": {"heldout": words}})
    look = alarms.Alarms(run, [])
    look.look(20, {"accuracy/heldout": 0.4})
    look.look(21, {})
    assert told == [(alarms.FELL, "h", 20, words, 0.4)]


def test_a_run_is_looked_at_though_its_base_model_is_gone(tmp_path: Path) -> None:
    """Moved, or on another machine: what the run recorded of it is enough."""
    base = tmp_path / "base"
    shutil.copytree(stubs.SMALL / "base", base)
    run = Run.of(stubs.configuration(tmp_path, "run", f"model.path={base}", "evaluate.every=3"))
    with stubs.stubbed(run) as session:
        stubs.train(session)
    before = history(run, tmp_path / "evaluations")
    assert [one.iteration for one in before] == [0, 3]
    shutil.rmtree(base)
    assert history(Run.read(run.paths.root), tmp_path / "evaluations") == before
