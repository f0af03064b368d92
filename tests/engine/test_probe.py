"""Steerability of the small model, which was made to be steered."""

from icpo_core.evaluation import steerability
from icpo_core.evaluation.benchmarks import read
from icpo_core.evaluation.exploration import explore
from icpo_core.evaluation.steerability import Advice
from icpo_core.run.evaluations import target


def test_the_small_model_is_steerable(engine, small_protocol, small, tmp_path, monkeypatch):
    """It is made so: 25% without and nearly all with one example, a worked solution at 2.5e-4."""
    prompting = small_protocol.prompting.model_copy(
        update={"demonstrations": str(small / "demonstrations.parquet")}
    )
    sampling = small_protocol.sampling.model_copy(update={"samples": 2})
    engine.root = tmp_path
    engine.follow(
        small_protocol.model_copy(
            update={"prompting": prompting, "sampling": sampling, "benchmarks": {}}
        )
    )
    drawn = read("heldout", str(small / "heldout.parquet")).drawn(48, 0)
    found = steerability.probe(engine, target(str(small / "base")), drawn, [0, 1])
    assert found.advice is Advice.STEER, found.sentence
    bare, one = found.shots
    assert 0.1 < bare.evaluation.figures["accuracy"] < 0.45
    assert one.evaluation.figures["accuracy"] > 0.9
    assert one.gained is not None
    assert one.gained > 0.9
    assert (bare.shown, one.shown) == (0.0, 1.0)
    assert one.evaluation.figures["mean_tokens"] > 2 * bare.evaluation.figures["mean_tokens"]
    assert bare.diversity is not None
    assert found.reach is not None
    # The recipe's worked probability, by teacher forcing in another framework: 2.5e-4.
    assert 1e-4 < found.reach.rarest < 1e-3
    assert found.reach.whole < found.reach.rarest < found.reach.token
    # Known now: nothing is sampled or scored again.
    monkeypatch.setattr(engine, "engines", None)
    again = steerability.probe(engine, target(str(small / "base")), drawn, [0, 1])
    assert again.as_json() == found.as_json()
    monkeypatch.undo()
    # Examples go far and find much; heat goes far and finds little.
    bare, steered, hot = explore(engine, target(str(small / "base")), drawn, [0, 1], [1.5])
    assert bare.evaluation.folder == found.shots[0].evaluation.folder
    assert steered.evaluation.made == bare.evaluation.made == 0 < hot.evaluation.made
    assert bare.distance is None
    assert bare.gained.share < 0.5
    assert steered.gained.share > 0.8 > 0.5 > hot.gained.share
    assert steered.gained.interval[0] > hot.gained.interval[1]
    assert steered.distance > hot.distance > 0
