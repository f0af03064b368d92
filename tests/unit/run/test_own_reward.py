"""A reward from a folder outside the project: a run learns from it, and shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import stubs

from icpo.flows import cli
from icpo.tasks import pages
from icpo_core.config import override
from icpo_core.evaluation import protocol
from icpo_core.evaluation.benchmarks import read
from icpo_core.evaluation.evaluator import Evaluator
from icpo_core.grading.grade import Question
from icpo_core.run import evaluations, metrics, plan
from icpo_core.run.run import Run
from icpo_core.run.session import Observer
from icpo_core.store import tables
from icpo_core.store.work import Standing
from icpo_core.views.report.gather import gather

PARITY = r"""
import re
import time


def parity(response, answer, row):
    if row["prompt_id"] == HANGS:
        time.sleep(60)
    found = re.search(r"\\boxed\{(-?\d+)\}", response)
    if found is None:
        return None
    same = (int(found[1]) - int(answer)) % 2 == 0
    return {"number": 0.25, "parity": 0.75 * same}
"""


SMALL = ("run.iterations=2", "rollout.shards=1", "evaluate.every=0", "checkpoint.state_every=2")


class Watched(Observer):
    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int, int]] = []

    def progress(self, stage: str, iteration: int, done: int, all_: int) -> None:
        self.seen.append((stage, iteration, done, all_))


def stale(run: Run) -> dict[tuple[str, int], str]:
    found = {(one.stage, one.iteration): one.status for one in plan.plan(run)}
    return {key: s.reason for key, s in found.items() if s.standing is Standing.STALE}


def trained(run: Run, observer: Observer | None = None) -> list[str]:
    """The run, trained on; places of what was made."""
    with stubs.stubbed(run, observer=observer) as session:
        return stubs.made(stubs.train(session, rerun=True))


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit):
        cli.main([str(word) for word in words])
    return capsys.readouterr().out


def test_a_reward_of_a_dozen_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "elsewhere" / "mine.py"
    mine.parent.mkdir()
    mine.write_text(PARITY.replace("HANGS", "None"))
    spec = f"verify.verifier={mine}:parity"
    config = stubs.configuration(
        tmp_path, "run", *SMALL, spec, "verify.seconds=1", "verify.max_failure_rate=0.5"
    )
    watched = Watched()
    run = Run.of(config)
    trained(run, watched)

    # Its rewards are what the policy learns from, and every view has them.
    run = Run.read(run.paths.root)
    rows = run.store.table("verify", 1, "verdicts").to_pylist()
    assert {row["reward"] for row in rows} == {0.25, 1.0}
    assert {row["status"] for row in rows} == {"wrong", "correct"}
    for row in rows:
        assert row["reward"] == row["reward/number"] + row["reward/parity"]
    batch = run.store.table("select", 1, "batch").to_pylist()
    assert {row["reward"] for row in batch} == {0.25, 1.0}
    verified = [one for one in watched.seen if one[:2] == ("verify", 1)]
    assert verified[-1][2] == verified[-1][3] > 0
    figures = metrics.read(run.paths)[-1]
    assert figures["reward/number"] == 0.25
    assert figures["reward/number"] + figures["reward/parity"] == pytest.approx(
        figures["reward/on_policy"]
    )
    shown = said(capsys, "show", run.paths.root, "--iteration", "1", "--prompt", "1")
    assert "correct (parity)" in " ".join(shown.split())
    assert "number 0.25 parity 0.75" in " ".join(shown.split())
    group = json.loads(said(capsys, "show", run.paths.root, "--iteration", "1", "--json"))
    group = group["prompts"][0]
    assert group["rollouts"][0]["rewards"].keys() == {"number", "parity"}
    page = pages.rollouts(run.paths, 1)
    assert "reward 1 (number 0.25, parity 0.75)" in page
    report = gather([run.paths.root], tmp_path)["runs"][0]
    assert "reward/parity" in report["figures"]
    excerpt = report["rollouts"][0]["groups"][0]["rows"][0]
    assert excerpt["rewards"].keys() == {"number", "parity"}

    # An edit judges again, and reruns what follows; nothing before. One that hangs costs its rows.
    assert stale(run) == {}
    hangs = rows[6]["prompt_id"]
    mine.write_text(PARITY.replace("HANGS", repr(hangs)))
    again = Run.read(run.paths.root)
    assert "verify.verifier" in stale(again)["verify", 1]
    assert {stage for stage, _ in stale(again)} == {"verify"}
    made = trained(again)
    assert not {"it-0001/prompts", "it-0001/rollout"} & set(made)
    assert {"it-0001/verify", "it-0001/select", "it-0001/update"} <= set(made)
    judged = Run.read(run.paths.root).store.table("verify", 1, "verdicts").to_pylist()
    for before, after in zip(rows, judged, strict=True):
        if after["prompt_id"] == hangs:
            assert (after["status"], after["detail"]) == ("timeout", "over 1 s")
        else:
            assert {**before, "seconds": 0} == {**after, "seconds": 0}


def test_a_reward_that_fails_everywhere_stops_the_run(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def broken(response, answer, row):\n    return row['colour']\n")
    run = Run.of(stubs.configuration(tmp_path, "run", *SMALL, f"verify.verifier={mine}:broken"))
    with pytest.raises(ValueError, match=r"16 of 16 .*line 2: KeyError: 'colour'"):
        trained(run)


SECRET = """
def found(response, answer, row):
    assert row["extra"]["word"] == "xyzzy-" + row["prompt_id"]
    return row["extra"]["worth"] / 2
"""


def test_what_a_data_set_says_to_the_verifier_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(SECRET)
    stubs.problem_sets(tmp_path / "data")
    problems = tables.read("problems", tmp_path / "data" / "train.parquet").to_pylist()
    lines = [
        json.dumps(row | {"extra": {"word": f"xyzzy-{row['id']}", "worth": n % 2}})
        for n, row in enumerate(problems)
    ]
    (tmp_path / "secret.jsonl").write_text("\n".join(lines))
    runs = {}
    for name, changes in (
        ("plain", []),
        ("secret", [f"prompts.problems={tmp_path}/secret.jsonl", f"verify.verifier={mine}:found"]),
    ):
        config = stubs.configuration(tmp_path, name, *SMALL, "run.iterations=1", *changes)
        trained(Run.of(config))
        runs[name] = Run.read(tmp_path / "runs" / name)
    plain, secret = (run.store.table("prompts", 1, "prompts") for run in runs.values())
    assert "extra" not in plain.column_names
    assert all("xyzzy" in one for one in secret["extra"].to_pylist())
    assert secret.drop_columns(["extra"]).equals(plain)  # text and token ids
    rewards = runs["secret"].store.table("verify", 1, "verdicts")["reward"].to_pylist()
    assert set(rewards) == {0.0, 0.5}


NAMED = """
def named(response, answer, row):
    return 0.5 * (row["extra"]["word"] == row["prompt_id"] and row["tokens"] > 0)
"""


def test_an_evaluation_is_judged_as_training_is(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(NAMED)
    stubs.problem_sets(tmp_path / "data")
    rows = tables.read("problems", tmp_path / "data" / "train.parquet").to_pylist()
    for n, row in enumerate(rows):
        row["extra"] = {"word": row["id"] if n % 4 else "another"}
        del row["answer"]  # what is right is for the verifier to say
    (tmp_path / "named.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = (f"verify.verifier={mine}:named", "verify.right_from=0.5", "evaluate.every=1")
    named = f"prompts.problems={tmp_path}/named.jsonl"
    benchmark = f'evaluate.benchmarks=[{{name="named", problems="{tmp_path}/named.jsonl"}}]'
    config = stubs.configuration(
        tmp_path, "run", *SMALL, *spec, named, benchmark, "run.iterations=1"
    )
    run = Run.of(config)
    trained(run)

    samples = run.store.table("evaluate", 1, "samples").to_pylist()
    right = {row["id"]: row["extra"]["word"] == row["id"] for row in rows}
    assert len(samples) == len(rows)
    for row in samples:
        assert row["reward"] == right[row["prompt_id"]]  # and not 0.5
        assert row["status"] == ("correct" if row["reward"] else "wrong")

    # An edit judges the evaluation again; so does another verifier.
    mine.write_text(NAMED + "\n")
    assert "verify.verifier" in stale(Run.read(run.paths.root))["evaluate", 1]
    mine.write_text(NAMED)
    assert stale(Run.read(run.paths.root)) == {}
    assert stale(Run.of(override(config, ["verify.right_from=0.25"])))["evaluate", 1]
    assert stale(Run.of(override(config, ["evaluate.verifier=math"])))["evaluate", 1]

    # `icpo eval` of the run asks the same, and takes the samples of one for the other.
    target, heldout = evaluations.of_run(run, 1), read("named", f"{tmp_path}/named.jsonl")
    own = Evaluator(tmp_path / "evaluations", protocol.load("run", run=config), lambda *_: None)
    with own, own.judges(heldout) as judges:
        asked = own.work(target, heldout)
        assert asked.inputs["verifier"]
        questions = [Question("", "x", False, row | {"tokens": 3}) for row in heldout.rows.values()]
        found = [one.status == "correct" for one in judges.judge(questions)]
        assert found == list(right.values())
    plain = protocol.load("run", ["judging.verifier=math"], config)
    assert Evaluator(tmp_path, plain, lambda *_: None).work(target, heldout).mark != asked.mark
