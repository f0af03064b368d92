"""What Prefect is shown and told: forms, pages, plots, log lines, alarms and retries."""

import errno
import inspect
import re
from pathlib import Path

import jsonschema
import pytest
import stubs
from prefect.utilities.callables import parameter_schema

from icpo.flows.services import alarms
from icpo.flows.stage import STAGE_FLOWS
from icpo.flows.train import train
from icpo.tasks import pages
from icpo.tasks.logs import BURST, WINDOW_SECONDS, Tail
from icpo.tasks.stages import TASKS, may_pass
from icpo_core.run import metrics
from icpo_core.run.run import Run
from icpo_core.workers.errors import WorkerError

NOTHING_WRONG = {"overrides": ["run.seed=1", "preset=grpo"], "run": "mine", "rerun": True}


# --- forms --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"overrides": ["rollout.shards"]}, "overrides"),
        ({"overrides": ["=3"]}, "overrides"),
        ({"overrides": "run.seed=1"}, "overrides"),
        ({"run": "../elsewhere"}, "run"),
        ({"config": ""}, "config"),
        ({"rerun": "perhaps"}, "rerun"),
    ],
)
def test_wrong_values_are_refused_by_the_form_of_train(wrong: dict, key: str) -> None:
    schema = parameter_schema(train).model_dump()
    jsonschema.validate(NOTHING_WRONG, schema)
    with pytest.raises(jsonschema.ValidationError) as caught:
        jsonschema.validate(NOTHING_WRONG | wrong, schema)
    assert caught.value.absolute_path[0] == key


def test_wrong_values_are_refused_by_the_forms_of_stages() -> None:
    for stage, flow in STAGE_FLOWS.items():
        schema = parameter_schema(flow).model_dump()
        jsonschema.validate({"run": "runs/demo", "iteration": 2, "force": True}, schema)
        first = 0 if stage == "evaluate" else 1
        jsonschema.validate({"run": "runs/demo", "iteration": first}, schema)
        for wrong in ({"run": "runs/demo", "iteration": first - 1}, {"run": ""}, {"iteration": 1}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(wrong, schema)


def test_every_parameter_of_a_form_is_explained() -> None:
    for flow in (train, *STAGE_FLOWS.values()):
        properties = parameter_schema(flow).model_dump()["properties"]
        assert list(properties) == list(inspect.signature(flow.fn).parameters)
        for name, one in properties.items():
            assert len(one["description"]) > 10, name
            assert "anyOf" not in one, f"{name}: the form would ask for a type first"


# --- what may be tried again --------------------------------------------------------------------


def test_only_what_may_pass_is_tried_again() -> None:
    assert may_pass(WorkerError("the process ended (signal 9)"))
    assert may_pass(OSError(errno.ESTALE, "stale file handle"))
    for error in (
        ValueError("rollout.shards: unknown key"), OSError(errno.ENOSPC, "no space left"),
        AssertionError(), KeyError("x"), None,
    ):  # fmt: skip
        assert not may_pass(error)


def test_every_stage_is_tried_again_with_jitter() -> None:
    for task in TASKS.values():
        assert task.retries == 2
        assert task.retry_jitter_factor == 0.5
        assert task.retry_condition_fn is not None
        # For a task with tags Prefect asks the server for a slot before each run.
        assert not task.tags


# --- pages --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = stubs.configuration(tmp_path_factory.mktemp("views"))
    with stubs.stubbed(Run.of(config)) as session:
        stubs.train(session)
        return session.run


def test_the_table_by_origin_counts_every_rollout(trained: Run) -> None:
    for row in metrics.read(trained.paths)[1:]:
        table = pages.by_origin(trained.paths, int(row["iteration"]), row)
        assert [line["origin"] for line in table] == ["expert", "on_policy"]
        assert [line["rollouts"] for line in table] == [4, 12]
        for line in table:
            assert line["rollouts"] == line["in batch"] + line["rejected"]
            assert line["reward"] == pytest.approx(row[f"reward/{line['origin']}"], abs=1e-4)
            assert line["tokens"] == pytest.approx(row[f"length/{line['origin']}"], abs=1e-2)


def test_the_page_of_rollouts_shows_what_is_stored(trained: Run) -> None:
    rejected = 0
    for iteration in (1, 2, 3):
        page = pages.rollouts(trained.paths, iteration)
        batch = trained.store.table("select", iteration, "batch")
        best = max(batch["advantage"].to_pylist())
        worst = min(batch["advantage"].to_pylist())
        assert f"advantage {best:+.3f}" in page
        assert f"advantage {worst:+.3f}" in page
        rejects = trained.store.table("select", iteration, "rejects")
        rejected += rejects.num_rows
        assert ("## Rejected: below delta" in page) == (rejects.num_rows > 0)
        sections = page.count("\n## ")
        assert page.count("```text") == 2 * sections
        said = {
            row["response"]
            for row in trained.store.table("rollout", iteration, "rollout").to_pylist()
        }
        shown = re.findall(r"Response\n\n```text\n(.*)\n```", page)
        assert len(shown) == sections
        assert set(shown) <= said
    assert rejected


def test_the_list_of_files_has_every_file(trained: Run) -> None:
    page = pages.files(trained.paths, 2)
    for stage in ("prompts", "rollout", "verify", "select", "update", "evaluate", "checkpoint"):
        found = trained.store.manifest(stage, 2)
        assert found is not None
        for record in found.files:
            assert f"[`{record.name}`](file://" in page
            assert record.sha256[:12] in page


# --- logs of workers ----------------------------------------------------------------------------


def test_lines_of_a_worker_pass_until_there_are_too_many(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    tail = Tail(log)
    assert tail.lines(0.0) == []
    log.write_text("one\n\n\x1b[31mtwo\x1b[0m\nhalf a li")
    assert tail.lines(1.0) == ["one", "two"]
    with log.open("a") as sink:
        sink.write("ne\nLoading shards:  50% Completed | 1/2 [00:01<00:01, 1it/s]\n")
    assert tail.lines(2.0) == ["half a line"]
    with log.open("a") as sink:
        sink.writelines(f"line {number}\n" for number in range(1000))
    said = tail.lines(3.0)
    assert said == [f"line {number}" for number in range(BURST - 3)]
    assert tail.lines(4.0) == []
    held = f"{1000 - (BURST - 3)} more lines stand in {log}"
    assert tail.lines(4.0 + WINDOW_SECONDS) == [held]
    assert tail.rest() == []
    with log.open("a") as sink:
        sink.write("again\n")
    assert tail.lines(5.0 + WINDOW_SECONDS) == ["again"]


# --- alarms -------------------------------------------------------------------------------------


def test_a_collapse_is_a_fall_under_half_of_the_best() -> None:
    rising = [0.1 * step for step in range(1, 10)]
    assert not alarms.collapsed([])
    assert not alarms.collapsed([0.9, 0.0, 0.0])
    assert not alarms.collapsed(rising)
    assert not alarms.collapsed([*rising, 0.0])
    assert alarms.collapsed([*rising, 0.0, 0.0, 0.0, 0.0, 0.0])
    # Where little was ever right, there is nothing to lose.
    assert not alarms.collapsed([0.05] * 5 + [0.0] * 5)


def test_failures_of_the_verifier_are_timeouts_and_errors() -> None:
    figures = {"status/timeout": 0.01, "status/error": 0.02, "status/wrong": 0.5}
    assert alarms.failure_rate(figures) == pytest.approx(0.03)
    assert alarms.failure_rate({}) == 0.0
