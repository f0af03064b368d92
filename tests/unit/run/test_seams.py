"""What a run does with an advantage, a loss and a verifier that its configuration names."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import stubs
from places import SMALL as SMALL_DATA

from icpo_core.common.files import read_json, write_json
from icpo_core.run import checkpoints, metrics, plan, sources
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.run.session import Observer, Session
from icpo_core.run.stages import rollout
from icpo_core.store import tables
from icpo_core.store.work import Standing
from icpo_core.workers.jobs import Update

ADVANTAGE = "def centred(groups):\n    return groups.centred_N\n"
LOSS = """
def plain(inputs, settings):
    return -inputs.advantages() * inputs.logprobs_BT
"""
SMALL = ("run.iterations=2", "evaluate.every=0", "checkpoint.state_every=2")


def trained(folder: Path, *changes: str) -> Run:
    run = Run.of(stubs.configuration(folder, "run", *SMALL, *changes))
    with stubs.stubbed(run) as session:
        stubs.train(session, rerun=True)
    return Run.read(run.paths.root)


def stale(run: Run) -> dict[tuple[str, int], str]:
    found = plan.plan(run)
    standings = {(one.stage, one.iteration): one.status for one in found}
    return {key: s.reason for key, s in standings.items() if s.standing is Standing.STALE}


def test_an_edited_advantage_reruns_what_it_made(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(ADVANTAGE)
    run = trained(tmp_path, f"select.advantage={mine}:centred")
    rows = run.store.table("select", 1, "batch").to_pylist()
    for group in {row["prompt_id"] for row in rows}:
        members = [row for row in rows if row["prompt_id"] == group]
        mean = sum(row["shaped_reward"] for row in members) / len(members)
        for row in members:
            assert row["advantage"] == pytest.approx(row["shaped_reward"] - mean)
    assert stale(run) == {}

    mine.write_text(ADVANTAGE.replace("groups.centred_N", "2 * groups.centred_N"))
    again = Run.read(run.paths.root)
    assert set(stale(again)) == {("select", 1), ("select", 2)}
    assert "select.advantage" in stale(again)["select", 1]


def test_batches_are_not_replayed_with_another_loss(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(LOSS)
    run = trained(tmp_path, f"loss.policy={mine}:plain", "run.iterations=1")
    mine.write_text(LOSS.replace("-inputs", "-2 * inputs"))
    assert set(stale(Run.read(run.paths.root))) == {("update", 1)}
    with stubs.stubbed(Run.read(run.paths.root)) as session:
        (session.run.paths.stage("checkpoint", 1) / "state" / "state.json").unlink()
        with pytest.raises(ValueError, match=r"not what update 1 learned with.*put the file back"):
            checkpoints.restore(session, 1, 2)


def test_a_missing_source_is_said_before_anything_starts(tmp_path: Path) -> None:
    run = Run.of(stubs.configuration(tmp_path, "run", f"select.advantage={tmp_path}/none.py:x"))
    with pytest.raises(ValueError, match=r"select\.advantage.*none\.py"):
        sources.require(run)
    with Session(run) as session, pytest.raises(ValueError, match=r"none\.py"):
        session.prepare(1)


def test_the_verifier_that_is_named_judges(tmp_path: Path) -> None:
    by_value = trained(tmp_path / "math")
    by_letter = trained(tmp_path / "choice", "verify.verifier=choice")
    first, second = (
        run.store.table("verify", 1, "verdicts")["status"].to_pylist()
        for run in (by_value, by_letter)
    )
    assert "correct" in first
    assert "correct" not in second


def test_ids_that_no_token_has_are_counted(tmp_path: Path) -> None:
    """Of a model whose vocabulary is padded to 128 rows; its engine may be anybody's."""
    model = tmp_path / "padded"
    shutil.copytree(SMALL_DATA / "base", model)
    config = read_json(model / "config.json")
    write_json(model / "config.json", config | {"vocab_size": 128})
    run = trained(tmp_path, f"model.path={model}", "run.iterations=1")
    assert metrics.row(run, 1)["rollout/ids_without_token"] == 0.0
    part = next(run.paths.stage("rollout", 1).glob("*.parquet"))
    rows = pq.read_table(part, partitioning=None).to_pylist()
    for row, ids in zip(rows, ([98, 99, 127, 128], [], [120]), strict=False):
        row["response_ids"] = ids
        row["logprobs"] = [0.0] * len(ids)
    tables.write("rollout", tables.table("rollout", rows[:3]), tmp_path / "three.parquet")
    assert rollout.without_token(tmp_path / "three.parquet", [(99, 110), (110, 128)]) == 3


@pytest.mark.parametrize(("kept", "lora", "said"), [
    (0.11, "merged", True), (0.81, "merged", False), (0.11, "adapter", False),
])  # fmt: skip
def test_an_adapter_that_merging_undoes_is_said_once(
    kept: float, lora: str, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = stubs.StubWorkers.train

    def train(self: Any, job: Any) -> Any:
        reply = plain(self, job)
        if not isinstance(job, Update):
            return reply
        return reply.model_copy(update={"metrics": reply.metrics | {"lora/kept": kept}})

    monkeypatch.setattr(stubs.StubWorkers, "train", train)
    lines: list[str] = []
    observer = Observer()
    monkeypatch.setattr(observer, "decision", lines.append)
    changes = ("update.lora.rank=4", f"rollout.lora={lora}", *SMALL)
    run = Run.of(stubs.configuration(tmp_path, "run", *changes))
    with stubs.stubbed(run, observer=observer) as session:
        stubs.train(session)
    told = [line for line in lines if "rollout.lora = adapter" in line]
    assert len(told) == said
    assert all("keeps 11% of it" in line for line in told)
    assert metrics.row(run, 2)["lora/kept"] == kept


def test_an_engine_without_a_seed_for_a_part_is_named(tmp_path: Path) -> None:
    """The stub's `sample` has none, as one's own may have none."""
    run = Run.of(stubs.configuration(tmp_path, "run", "rollout.seeding=part"))
    with stubs.stubbed(run) as session:
        perform(session, "prompts", 1)
        with pytest.raises(ValueError, match=r"set rollout\.seeding = rollout"):
            perform(session, "rollout", 1)
