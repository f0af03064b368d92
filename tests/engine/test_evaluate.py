"""Evaluation on the real engine: known accuracy, one growing collection of samples, resuming."""

import json
from pathlib import Path

import pyarrow.compute as pc
import pytest

from icpo_core.evaluation import steerability
from icpo_core.evaluation.benchmarks import Benchmark, read
from icpo_core.evaluation.budgets import at_budget
from icpo_core.evaluation.evaluator import Evaluator, stored
from icpo_core.evaluation.exploration import explore
from icpo_core.evaluation.protocol import Protocol
from icpo_core.evaluation.samples import LABEL, keys_of
from icpo_core.evaluation.scores import scores
from icpo_core.evaluation.steerability import Advice
from icpo_core.evaluation.target import Target
from icpo_core.grading.grade import GradingRules
from icpo_core.run.evaluations import target
from icpo_core.store import tables


@pytest.fixture(scope="module")
def base(small: Path) -> Target:
    return target(str(small / "base"))


@pytest.fixture(scope="module")
def heldout(small: Path) -> Benchmark:
    return read("heldout", str(small / "heldout.parquet"))


def changed(protocol: Protocol, **sampling) -> Protocol:
    """The protocol with other sampling, also where the benchmark has its own."""
    own = protocol.sampling.model_copy(update=sampling)
    return protocol.model_copy(update={"sampling": own, "benchmarks": {}})


def evaluate(engine: Evaluator, folder: Path, protocol: Protocol, who: Target, what: Benchmark):
    engine.root = folder
    engine.follow(protocol)
    return engine.evaluate(who, what)


def test_a_known_accuracy_is_reproduced_in_20_repetitions(
    engine, small_protocol, base, heldout, small, tmp_path
):
    """The recipe's accuracy is computed by teacher forcing, without sampling anything. Samples of
    one number are a repetition: each has a seed of its own."""
    recipe = json.loads((small / "base" / "recipe.json").read_text())
    known = recipe["figures"]["zero_shot_accuracy"]
    done = evaluate(engine, tmp_path, changed(small_protocol, samples=20), base, heldout)
    table = done.read(*tables.TABLES["samples"].names)
    assert len(set(table["seed"].to_pylist())) == table.num_rows == 20 * 300
    asked, intervals = engine.questions(base, heldout), []
    for number in range(20):
        one = table.filter(pc.equal(table["sample_index"], number))
        intervals.append(scores(one, asked)["heldout"]["interval"])
    inside = sum(low <= known <= high for low, high in intervals)
    assert inside >= 18, intervals
    assert all(high - low < 0.12 for low, high in intervals)


def test_no_sample_is_made_twice(engine, small_protocol, base, heldout, tmp_path, monkeypatch):
    """avg@1 of some, then avg@4 of more: the first are kept, seeds hang on problem and number."""
    few = evaluate(engine, tmp_path, changed(small_protocol, limit=20), base, heldout)
    assert (few.made, few.figures["problems"]) == (20, 20)
    more = evaluate(engine, tmp_path, changed(small_protocol, limit=30, samples=4), base, heldout)
    assert (more.made, more.figures["samples"]) == (100, 120)
    assert more.folder == few.folder

    def refuse(*_: object) -> None:
        raise AssertionError("the engine was asked")

    monkeypatch.setattr(engine, "engines", refuse)
    again = evaluate(engine, tmp_path, changed(small_protocol, limit=30, samples=4), base, heldout)
    assert (again.made, again.figures) == (0, more.figures)
    # Fewer than are there need no engine either.
    two = evaluate(engine, tmp_path, changed(small_protocol, limit=25, samples=2), base, heldout)
    assert (two.made, two.figures["samples"], two.rewards.num_rows) == (0, 50, 50)
    # Other grading rules judge the same samples again.
    rules = GradingRules(extraction="boxed_or_last")
    lenient = changed(small_protocol, limit=20).model_copy(update={"grading": rules})
    other = Evaluator(tmp_path, lenient, lambda what, done, all_: None)
    monkeypatch.setattr(other, "engines", refuse)
    with other:
        regraded = other.evaluate(base, heldout)
    assert regraded.made == 0
    assert regraded.folder != few.folder
    assert regraded.folder.name.rpartition("-")[0] == few.folder.name.rpartition("-")[0]
    assert sorted(record.config["samples"] for _, record in stored(tmp_path)) == [1, 1, 2, 4]


def test_what_died_goes_on_and_makes_the_same(
    engine, small_protocol, base, heldout, tmp_path, monkeypatch
):
    """The engine dies at its second shard; a part is damaged; the result is the same."""
    shards = small_protocol.process.model_copy(update={"shard": 16})
    rules = changed(small_protocol, limit=24, samples=2)
    small_shards = rules.model_copy(update={"process": shards})
    whole = evaluate(engine, tmp_path / "whole", rules, base, heldout)
    samples = {
        key: row
        for row in whole.read(*tables.TABLES["samples"].names).drop_columns("seconds").to_pylist()
        for key in [(row["prompt_id"], row["sample_index"])]
    }

    def dying(who: Target):
        engines = Evaluator.engines(other, who)

        class Dying:
            def sample_all(self, jobs, say, around):
                engines.sample_all(jobs[:1], say, around)
                raise RuntimeError("the engine died")

        return Dying()

    other = Evaluator(tmp_path / "died", small_shards, lambda what, done, all_: None)
    other._engines, other._architecture = engine._engines, engine._architecture
    made: list[object] = []
    monkeypatch.setattr(other, "engines", lambda who: made[0])
    made.append(dying(base))
    with pytest.raises(RuntimeError, match="the engine died"):
        other.evaluate(base, heldout)
    folder = next((tmp_path / "died").glob("heldout-*"))
    assert len(list(folder.glob(f"samples-heldout-{LABEL}.parquet"))) == 1
    assert not list(folder.glob("*.manifest.json"))

    engine.root, kept = tmp_path / "died", engine.protocol
    engine.protocol = small_shards
    done = engine.evaluate(base, heldout)
    assert done.made == 32
    found = done.read(*tables.TABLES["samples"].names).drop_columns("seconds").to_pylist()
    assert {(row["prompt_id"], row["sample_index"]): row for row in found} == samples
    assert done.figures == whole.figures

    part = sorted(done.folder.glob("samples-heldout-*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:-100])
    assert engine.find(base, heldout) is None
    mended = engine.evaluate(base, heldout)
    assert (mended.made, mended.figures) == (16, whole.figures)
    # A part that was written but not judged is judged, not sampled.
    table = tables.read("samples", part)
    generations = table.select(tables.TABLES["generations"].names)
    mark = tables.part_fingerprint(part)
    part.unlink()
    tables.write(
        "generations", generations, folder / f"generations-heldout-{'0' * 12}.parquet", mark
    )
    assert engine.evaluate(base, heldout).made == 0
    engine.protocol = kept


def test_samples_are_of_the_contract_and_the_prompts_are_the_model_s(
    engine, small_protocol, base, heldout, tmp_path
):
    done = evaluate(engine, tmp_path, changed(small_protocol, limit=8), base, heldout)
    [path] = done.folder.glob("samples-*.parquet")
    table = tables.read("samples", path)
    assert table.schema.names == tables.TABLES["samples"].names
    assert set(table["policy_version"].to_pylist()) == {base.version}
    assert keys_of(table) == [(one.id, 0) for one in heldout.problems[:8]]
    texts = base.tokenizer.batch_decode(table["response_ids"].to_pylist(), skip_special_tokens=True)
    assert texts == table["response"].to_pylist()
    gold = {one.id: one.answer for one in heldout.problems}
    assert table["gold"].to_pylist() == [gold[one] for one in table["prompt_id"].to_pylist()]
    right = pc.equal(table["status"], "correct").to_pylist()
    assert right == [reward == 1.0 for reward in table["reward"].to_pylist()]
    asked = tables.read("questions", done.folder / "questions-heldout.parquet")
    assert asked["prompt"][0].as_py() == f"Q:{heldout.problems[0].problem}\nA:"


def test_a_private_benchmark_leaves_no_text_behind(engine, small_protocol, base, tmp_path):
    """Nothing but the samples' own file knows what was asked."""
    from icpo_core.evaluation.benchmarks import Problem

    secret = "3+4*5-6+7*8"
    problems = tuple(
        Problem(f"r{at}", secret, "AB"[at % 2], None, None, None, ("1", "2")) for at in range(4)
    )
    chosen = Benchmark("gpqa-diamond", problems, "choice", private=True)
    done = evaluate(engine, tmp_path, changed(small_protocol), base, chosen)
    assert done.figures["problems"] == 4
    assert not list(done.folder.glob("questions-*"))
    for path in tmp_path.rglob("*.json"):
        assert secret not in path.read_text()


def test_budgets_of_one_run_are_runs_at_each_budget(
    engine, small_protocol, base, heldout, tmp_path
):
    """Sample by sample: tokens, text, why it ended, verdict; and every figure."""
    budgets = [1, 8, 9, 10, 11, 14, 64]
    free = {"limit": 24, "samples": 4, "temperature": 1.3, "seed": 5}
    rules = changed(small_protocol, max_tokens=64, budgets=budgets, **free)
    whole = evaluate(engine, tmp_path, rules, base, heldout)
    cuts = engine.at_budgets(base, heldout, whole)
    assert list(cuts) == budgets
    names = [name for name in tables.TABLES["samples"].names if name != "seconds"]
    ids = {one: at for at, one in enumerate(whole.ids)}

    def rows(table):
        return sorted(
            table.select(names).to_pylist(),
            key=lambda row: (ids[row["prompt_id"]], row["sample_index"]),
        )

    asked = engine.questions(base, heldout)
    truncated = []
    for budget in budgets:
        alone = changed(small_protocol, max_tokens=budget, **free)
        done = evaluate(engine, tmp_path, alone, base, heldout)
        table = at_budget(
            whole.read(*tables.TABLES["samples"].names), budget, base.tokenizer, asked,
            engine.judges(heldout), heldout.rows,
        )  # fmt: skip
        assert rows(table) == rows(done.read(*names)), budget
        assert cuts[budget] == done.figures, budget
        truncated.append(done.figures["truncated"])
    assert truncated[0] == 1.0
    assert 0.0 < truncated[3] < 1.0, "no budget cuts some and leaves some"
    # Found again, without judges.
    engine.follow(rules)
    assert engine.at_budgets(base, heldout, whole) == cuts
    assert len(list(whole.folder.glob("budgets-*.json"))) == 1


@pytest.fixture
def icpo(engine, base, monkeypatch, capsys):
    """`icpo` as typed, with the engine of this file."""
    from icpo.flows.cli import main

    class Borrowed(Evaluator):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            self._engines, self._architecture = engine._engines, engine._architecture

        def close(self) -> None:
            self._engines = None
            super().close()

    engine.engines(base)
    monkeypatch.setattr("icpo.flows.ui.table.Evaluator", Borrowed)

    def run(*words: object) -> str:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        found = capsys.readouterr()
        assert not stop.value.code, found.err
        return found.out

    return run


TINY = """[sampling]
samples = 2
max_tokens = 16
{}
[prompting]
format = "raw"
question_template = "Q:{{problem}}\\nA:"
[engine]
max_model_len = 512
dtype = "float32"
"""


def test_protocols_judges_and_budgets_stand_side_by_side(icpo, small, tmp_path):
    sampled, greedy = tmp_path / "sampled.toml", tmp_path / "greedy.toml"
    sampled.write_text(TINY.format("temperature = 1.0\nbudgets = [4, 12]"))
    greedy.write_text(TINY.format("temperature = 0.0"))
    words = [
        "eval", small / "base", "--bench", small / "heldout.parquet", "--limit", 12,
        "--protocol", sampled, greedy, "--judges", "math", "math-verify", "--out", tmp_path / "out",
    ]  # fmt: skip
    found = json.loads(icpo(*words, "--json"))
    names = [one["target"] for one in found["targets"]]
    assert names == [f"{small / 'base'}, sampled", f"{small / 'base'}, greedy"]
    first, second = (one["benchmarks"]["heldout"] for one in found["targets"])
    assert list(first["budgets"]) == ["4", "12"]
    assert first["budgets"]["4"]["accuracy"] <= first["budgets"]["12"]["accuracy"]
    assert second["budgets"] == {}
    assert [list(one["judges"]) for one in (first, second)] == [["math-verify"]] * 2
    assert first["judges"]["math-verify"]["share"] > 0.9
    assert first["cost"]["tokens"] == first["cost"]["made"] > 0 < first["cost"]["seconds"]
    assert found["comparisons"][names[1]]["heldout"]["problems"] == 12
    shown = icpo(*words, "--budgets", 4, "--write", "lighteval", "lm-eval", "inspect")
    for name in first, second:
        kinds = [path for path in Path(name["folder"]).iterdir() if path.is_dir()]
        assert sorted(path.name for path in kinds) == ["inspect", "lighteval", "lm-eval"]
    assert "at 4 tokens" in shown
    assert "judged by math-verify" in shown
    assert "avg@2" in shown


def test_every_new_benchmark_is_evaluated_from_the_command_line(icpo, small, tmp_path):
    """`icpo eval` on made rows of each shape."""
    from made_rows import NEW, write

    files = [f"{name}={write(name, tmp_path)}" for name in NEW]
    protocol = tmp_path / "tiny.toml"
    protocol.write_text(TINY.format("limit = 2"))
    words = ["eval", small / "base", "--bench", *files, "--protocol", protocol]
    words += ["--after", "2025-06", "--out", tmp_path / "out"]
    found = json.loads(icpo(*words, "--json"))["targets"][0]["benchmarks"]
    assert list(found) == list(NEW)
    for name, figures in found.items():
        assert (figures["problems"], figures["samples"], figures["made"]) == (2, 4, 4), name
    assert found["aime2026"]["older"] is False
    assert found["gsm-plus"]["older"] is True
    assert found["beyondaime"]["older"] is None
    shown = icpo(*words)
    assert "public by 2025-06" in shown
    assert "found again" in shown


def test_the_small_model_is_steerable(
    engine, small_protocol, small, base, heldout, tmp_path, monkeypatch
):
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
    drawn = heldout.drawn(48, 0)
    found = steerability.probe(engine, base, drawn, [0, 1])
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
    again = steerability.probe(engine, base, drawn, [0, 1])
    assert again.as_json() == found.as_json()
    monkeypatch.undo()
    # Examples go far and find much; heat goes far and finds little.
    bare, steered, hot = explore(engine, base, drawn, [0, 1], [1.5])
    assert bare.evaluation.folder == found.shots[0].evaluation.folder
    assert steered.evaluation.made == bare.evaluation.made == 0 < hot.evaluation.made
    assert bare.distance is None
    assert bare.gained.share < 0.5
    assert steered.gained.share > 0.8 > 0.5 > hot.gained.share
    assert steered.gained.interval[0] > hot.gained.interval[1]
    assert steered.distance > hot.distance > 0
