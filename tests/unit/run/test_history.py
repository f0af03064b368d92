"""Evaluations over checkpoints: the best before, a fall, and that it is told during training."""

import numpy as np
import pytest
from shown import evaluated

from icpo.flows.services import alarms
from icpo_core.config import load
from icpo_core.run.evaluations import against_best, history
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.store import tables


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
    points = history(run, run.paths.root / "nothing")
    assert [one.iteration for one in points] == [0, 10, 20, 30]


def test_a_fall_in_training_is_an_event(run, monkeypatch):
    from shown import put

    told = []
    monkeypatch.setattr(alarms, "raise_alarm", lambda *facts: told.append(facts))
    words = "heldout fell from 90.0% (iteration 10) to 40.0%, p = 0.0001"
    put(run, "evaluate", 20, {}, facts={"accuracy/heldout": 0.4, "fallen": {"heldout": words}})
    look = alarms.Alarms(run, [])
    look.look(20, {"accuracy/heldout": 0.4})
    look.look(21, {})
    assert told == [(alarms.FELL, "h", 20, words, 0.4)]
