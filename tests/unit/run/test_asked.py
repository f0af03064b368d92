"""What was asked for and cannot be given is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import stubs

from icpo_core.run import metrics, sources
from icpo_core.run.run import Run
from icpo_core.store import tables


def test_room_for_fewer_examples_is_a_line_a_figure_and_an_error_where_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tight = ["prompts.k=9", "prompts.max_tokens=96", "evaluate.every=0", "run.iterations=2"]
    run = Run.of(stubs.configuration(tmp_path, "run", *tight))
    with stubs.stubbed(run) as session:
        stubs.train(session)
    assert capsys.readouterr().err.count("prompts.k = 9: 4 of 4 prompts have room for fewer") == 1
    assert [row["demonstrations/fewer"] for row in metrics.read(run.paths)] == [1.0, 1.0]
    strict = Run.of(stubs.configuration(tmp_path, "strict", *tight, "prompts.fewer=error"))
    with (
        stubs.stubbed(strict) as session,
        pytest.raises(ValueError, match=r"prompts\.fewer = allow"),
    ):
        stubs.train(session)


def test_traces_that_are_too_long_are_a_line_and_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["rollout.expert_source=traces", "evaluate.every=0", "run.iterations=2"]
    config = stubs.configuration(tmp_path, "run", *changes, "rollout.max_tokens=40")
    problems = tables.read("problems", Path(config.prompts.problems)).to_pylist()
    for row in problems[::2]:
        row["solution"] = "0+0=0;" + row["solution"]
    tables.write("problems", tables.table("problems", problems), Path(config.prompts.problems))
    run = Run.of(config)
    with stubs.stubbed(run) as session:
        stubs.train(session)
    rows = [run.store.table("rollout", number, "rollout") for number in (1, 2)]
    lost = [4 - table["origin"].to_pylist().count("trace") for table in rows]
    assert 0 < sum(lost) < 8, "the test has traces of both kinds"
    figures = metrics.read(run.paths)
    assert [row.get("rollout/lost_traces", 0.0) for row in figures] == lost
    said = capsys.readouterr().err
    assert said.count("traces are longer than rollout.max_tokens = 40") == 1


def test_shards_that_stay_empty_are_a_line(tmp_path: Path) -> None:
    said = [
        sources.require(Run.of(stubs.configuration(tmp_path, "run", f"rollout.shards={count}")))
        for count in (4, 9)
    ]
    assert said == [[], ["rollout.shards = 9: 5 of them stay empty, since a shard holds whole "
                         "groups and prompts.batch_size = 4"]]  # fmt: skip
