"""The Prefect UI in a real browser, with real engines: start, watch, look, verify again, cancel.

    ICPO_PICTURES=docs/pictures pytest tests/prefect/test_browser.py

also keeps what the browser saw, for the docs.
"""

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import nasty
import pytest
from chromium import Page, needs_chromium
from fixtures_prefect import Services, wait
from prefect.client.schemas.actions import ArtifactCreate, LogCreate
from prefect.client.schemas.filters import LogFilter
from prefect.client.schemas.objects import FlowRun

from icpo.tasks import pages
from icpo_core.common.text import block, code, plain
from icpo_core.store.paths import RunPaths
from icpo_core.store.store import Store

pytestmark = needs_chromium

PICTURES = os.environ.get("ICPO_PICTURES")
RUN_SECONDS = 300.0
ENDING_SECONDS = 30.0


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with Page(tmp_path_factory.mktemp("browser"), 1400, 900, online=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser-runs")


def keep(page: Page, name: str) -> None:
    """What the window shows now, for the docs."""
    if PICTURES:
        time.sleep(1.0)  # until it is faded in
        page.picture(Path(PICTURES) / f"prefect-{name}.png")


def form(services: Services, page: Page, deployment: str) -> None:
    """Open the form that starts a run of a deployment."""
    with services.client() as client:
        found = client.read_deployment_by_name(deployment)
    page.go(f"{services.page}/deployments/deployment/{found.id}/run", "Validate parameters")


def fill(page: Page, label: str, text: str) -> None:
    """Put text into the field of the form that has this label."""
    field = (
        f"[...document.querySelectorAll('.p-label')].find(one => one.querySelector('label')"
        f".innerText.trim().split(' ')[0] === {json.dumps(label)})"
        ".querySelector('textarea, input')"
    )
    page.wait(f"!!{field}")
    page.value(f"{field}.focus()")
    page.type(text)


def add(page: Page, count: int, text: str) -> None:
    """Add an entry to the list of overrides, which has `count` so far."""
    page.click("button", "Add item")
    fields = "document.querySelectorAll('.p-draggable-list textarea')"
    page.wait(f"{fields}.length === {count + 1}")
    page.value(f"{fields}[{count}].focus()")
    page.type(text)


def submit(services: Services, page: Page) -> FlowRun:
    """Send the form, and open the flow run that the UI then names.

    Prefect's server on SQLite may refuse it for now (503, `prefect_compat.clients`), and then the
    form stays as it was, with a message: whoever sees that closes it and sends the form again.
    """
    refused = "!!document.querySelector('.p-toast__icon--error')"
    close = "document.querySelectorAll('.p-toast-container button').forEach(one => one.click())"
    made = "[...document.querySelectorAll('a, button')].some(o => o.innerText.includes('View run'))"
    page.click("button[type=submit]", "Submit")
    page.wait(f"{made} || {refused}")
    while not page.value(made):
        assert any("status of 503" in said for said in page.complaints), page.complaints
        page.value(close)  # it may lie on the button
        page.wait(f"!{refused}")
        page.click("button[type=submit]", "Submit")
        page.wait(f"{made} || {refused}")
    page.click("button, a", "View run")
    page.wait("location.pathname.startsWith('/runs/flow-run/')")
    return services.read(UUID(page.value("location.pathname.split('/')[3]")))


def reach(page: Page, state: str) -> None:
    """Wait until the page of a flow run shows it in a state."""
    badge = "document.querySelector('.state-badge')"
    page.wait(f"{badge} && {badge}.innerText === '{state}'", RUN_SECONDS)


def tab(page: Page, name: str) -> None:
    page.click("button, a, li", name)


def test_a_wrong_value_is_refused_in_the_form(services: Services, page: Page) -> None:
    form(services, page, "icpo/train")
    fill(page, "run", "../elsewhere")
    page.click("button[type=submit]", "Submit")
    page.wait_text("Validation failed for field 'run'")
    assert page.value("location.pathname").endswith("/run")


@pytest.fixture(scope="module")
def trained(services: Services, page: Page, runs: Path) -> FlowRun:
    """A run that was started by the form and watched until its end."""
    form(services, page, "icpo/train")
    changes = ["run.iterations=3", f"run.directory={runs}", "rollout.shards=2", "evaluate.every=3"]
    fill(page, "run", "browser")
    for count, change in enumerate(changes):
        add(page, count, change)
    keep(page, "form")
    run = submit(services, page)
    page.wait_text("train browser", RUN_SECONDS)
    reach(page, "Running")
    reach(page, "Completed")
    return run


def test_train_from_the_form_to_completed(
    services: Services, page: Page, runs: Path, trained: FlowRun
) -> None:
    assert Store(RunPaths(runs / "browser")).finished("checkpoint", 3)
    page.go(f"{services.page}/runs/flow-run/{trained.id}", "Subflow Runs")
    tab(page, "Subflow Runs")
    page.wait_text("it-0003 of browser")
    keep(page, "run")
    assert [one.name for one in services.subflows(trained)] == [
        f"it-{number:04d} of browser" for number in range(4)
    ]
    tab(page, "Artifacts")
    page.wait_text("browser-plot")


def test_the_artifacts_of_an_iteration(services: Services, page: Page, trained: FlowRun) -> None:
    page.go(f"{services.page}/runs/flow-run/{trained.id}", "Subflow Runs")
    tab(page, "Subflow Runs")
    page.click("a", "it-0003 of browser")
    page.wait_text("rollout it-0003 of browser")
    tab(page, "Artifacts")
    for kind in ("metrics", "rollouts", "timeline", "files"):
        page.wait_text(f"browser-{kind}")
    keep(page, "artifacts")
    page.click("a", "browser-rollouts")
    page.wait_text("Response")
    page.wait_text("advantage")
    keep(page, "rollouts")
    page.go(f"{services.page}/runs/flow-run/{trained.id}", "Artifacts")
    tab(page, "Artifacts")
    page.click("a", "browser-plot")
    page.wait("document.querySelector('img') && document.querySelector('img').naturalWidth > 100")
    keep(page, "plot")


def test_text_of_others_stays_text(services: Services, page: Page) -> None:
    said = "\n\n".join(f"{code(one)}\n\n{block(one, 3000)}" for one in nasty.TEXTS)
    cells = "\n".join(f"| {code(one, True)} | cell |" for one in nasty.TEXTS)
    markdown = f"{said}\n\n| a | b |\n|---|---|\n{cells}\n\nThe end"
    table = [{"origin": pages.word(one), "rollouts": 1} for one in nasty.TEXTS]
    with services.client() as client:
        artifacts = [
            client.create_artifact(ArtifactCreate(key=f"nasty-{kind}", type=kind, data=data)).id
            for kind, data in (("markdown", markdown), ("table", json.dumps(table)))
        ]
    before = len(page.requests)
    for artifact, words in zip(artifacts, ("The end", "window.hurt"), strict=True):
        page.go(f"{services.page}/artifacts/artifact/{artifact}", words)
        places = "[...document.querySelectorAll('[src], [href]')].map(o => `${o.src} ${o.href}`)"
        assert not [one for one in page.value(places) if "evil" in one or "script:" in one]
        assert page.value("document.querySelectorAll('[onerror], [onload]').length") == 0
        assert page.value("window.hurt") is None
    assert not [one for one in page.requests[before:] if "evil" in one]
    page.go(f"{services.page}/artifacts/artifact/{artifacts[0]}", "The end")
    blocks = "document.querySelectorAll('.p-markdown-renderer pre, .markdown-renderer pre').length"
    assert page.value(blocks) == len(nasty.TEXTS)


def test_what_a_log_says_stays_text(services: Services, page: Page) -> None:
    with services.client() as client:
        asked = {
            "flow_id": str(client.create_flow_from_name("nasty")),
            "state": {"type": "COMPLETED"},
        }
        made = UUID(client.request("POST", "/flow_runs/", json=asked).json()["id"])
        said = [
            LogCreate(
                name="engine",
                level=20,
                message=plain(f"{at} {one}"),
                timestamp=datetime.now(UTC),
                flow_run_id=made,
            )
            for at, one in enumerate(nasty.TEXTS)
        ]
        client.create_logs(said)
    before = len(page.requests)
    page.go(f"{services.page}/runs/flow-run/{made}", "window.hurt = 4")
    assert (
        page.value("document.querySelectorAll('[onerror], [onload], img[src*=evil]').length") == 0
    )
    assert page.value("window.hurt") is None
    assert not [one for one in page.requests[before:] if "evil" in one]


def test_verify_again_through_its_deployment(
    services: Services, page: Page, runs: Path, trained: FlowRun
) -> None:
    paths = RunPaths(runs / "browser")
    before = Store(paths).manifest("verify", 2)
    form(services, page, "icpo-stage/verify")
    fill(page, "run", str(runs / "browser"))
    fill(page, "iteration", "2")
    page.click(".p-toggle__control")
    run = submit(services, page)
    page.wait_text("verify it-0002 of browser", RUN_SECONDS)
    reach(page, "Completed")
    after = Store(paths).manifest("verify", 2)
    assert services.read(run).parameters["force"] is True
    assert before is not None
    assert after is not None
    assert after.started > before.started
    assert [one.sha256 for one in after.files] == [one.sha256 for one in before.files]


def test_the_nightly_deployment_evaluates_a_checkpoint_once(
    services: Services, runs: Path, trained: FlowRun
) -> None:
    where = {"runs": str(runs), "directory": str(runs / "evaluations")}
    for _ in range(2):
        done = services.ended(services.start("icpo-eval/nightly", **where))
        assert done.state_name == "Completed", services.logs()
    assert list((runs / "evaluations").rglob("samples-*.parquet"))
    wanted = LogFilter.model_validate({"flow_run_id": {"any_": [done.id]}})

    def lines() -> list[str]:
        with services.client() as client:
            found = [log.message for log in client.read_logs(wanted, limit=200)]
        return [line for line in found if "browser@3" in line]

    wait(lines, ENDING_SECONDS, "the run's log, which Prefect sends after its last state")
    assert all("found again" in line for line in lines())


def test_cancel_a_second_run(services: Services, page: Page, runs: Path) -> None:
    services.wait_quiet()
    form(services, page, "icpo/train")
    fill(page, "run", "cancelled")
    add(page, 0, f"run.directory={runs}")
    run = submit(services, page)
    page.wait_text("train cancelled", RUN_SECONDS)
    wait(lambda: len(services.run_processes()) >= 3, 120, "flow run, engine and trainer")
    page.click(".flow-run-menu button")
    page.click(".p-overflow-menu-item, button", "Cancel")
    page.click(".p-modal button", "Confirm")
    services.wait_quiet(ENDING_SECONDS)
    reach(page, "Cancelled")
    assert services.ended(run, ENDING_SECONDS).state_name == "Cancelled"


def test_the_nightly_schedule(services: Services, page: Page) -> None:
    with services.client() as client:
        found = client.read_deployment_by_name("icpo-eval/nightly")
    hour = int(found.schedules[0].schedule.cron.split()[1])
    clock, half = f"{hour % 12 or 12:02}:00", "AM" if hour < 12 else "PM"
    page.go(f"{services.page}/deployments", f"At {clock} {half} every day")
    page.go(f"{services.page}/deployments/deployment/{found.id}", "Upcoming")
    tab(page, "Upcoming")
    page.wait_text(f"{clock}:00 {half}", 120)
    keep(page, "nightly")
