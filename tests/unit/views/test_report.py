"""The report: what it reads from runs, its size, and the page in a real browser."""

import json
import os
import re
from pathlib import Path

import pytest
from chromium import Page, needs_chromium
from shown import NASTY, make_run

from icpo_core.common.text import plain
from icpo_core.config import load
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.views.report.excerpts import HEAD, TAIL, clipped
from icpo_core.views.report.gather import gather
from icpo_core.views.report.page import write

LONG = "so 1 + 1 = 2 and " * 1500  # 25,500 characters


@pytest.fixture(scope="module")
def two_runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    stored = [1, 2, 3]
    return [
        make_run(root, folder, "icpo", 40, stored),
        make_run(root, folder, "grpo", 30, stored, expert=0),
    ]


@pytest.fixture(scope="module")
def report(two_runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write(two_runs, folder / "report.html", folder / "evaluations")


def test_a_run_of_400_iterations_stays_under_5_mb(root, tmp_path):
    stored = [round(1 + at * 399 / 11) for at in range(12)]
    run = make_run(root, tmp_path, "long", 400, stored, filler=LONG)
    page = write([run], tmp_path / "report.html", tmp_path / "evaluations")
    assert page.stat().st_size < 5_000_000
    shown = gather([run], tmp_path / "evaluations")["runs"][0]
    assert len(shown["figures"]["entropy"]) == 401
    assert len(shown["figures"]) > 60
    assert [one["iteration"] for one in shown["rollouts"]] == stored
    assert shown["rollouts"][0]["of"] == 6
    assert len(shown["evaluations"]) == 11


def test_it_reads_what_the_stages_left(two_runs, tmp_path):
    found = gather(two_runs, tmp_path)
    first, second = found["runs"]
    assert (first["name"], first["group"], second["group"]) == ("icpo", [7, 1], [8, 0])
    [group, *_] = first["rollouts"][0]["groups"]
    assert group["rows"][0]["origin"] == "expert"
    assert {row["origin"] for row in group["rows"][1:]} == {"on_policy"}
    assert group["expert_prompt"].count("Q:") == 2
    assert group["prompt"].count("Q:") == 1
    # By its problem, not by what a chat template puts first.
    assert group["prompt"] == f"Q:{group['problem']}\nA:"
    for row in group["rows"]:
        assert (row["reason"] is None) is (row["advantage"] is not None)
        assert row["status"] in ("correct", "wrong")
    made = first["made"]
    assert json.loads(made["settings"])["loss"]["expert_lambda"] == 0.01
    assert "prompts.problems" in made["data"]
    assert "torch" in made["libraries"]
    [change] = found["comparisons"]
    assert (change["from"], change["to"], change["problems"]) == ("icpo@40", "grpo@30", 60)
    assert change["difference"] < 0
    assert change["p"] < 0.01


def test_nothing_in_the_page_asks_for_anything(report):
    text = report.read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", text.split('id="data"')[0])
    assert "</script><script>window.hurt" not in text
    data = re.search(r'id="data">(.*?)</script>', text, re.S)
    assert data
    assert (
        plain(NASTY, None)
        in json.loads(data.group(1))["runs"][0]["rollouts"][0]["groups"][0]["rows"][0]["response"]
    )


def test_long_texts_keep_their_ends():
    short = clipped(LONG)
    assert short.startswith(LONG[:HEAD])
    assert short.endswith(LONG[-TAIL:])
    assert f"{len(LONG) - HEAD - TAIL:,} characters left out" in short
    assert clipped("x" * (HEAD + TAIL)) == "x" * (HEAD + TAIL)


def test_mistakes_name_the_mend(root, two_runs, tmp_path):
    with pytest.raises(ValueError, match="no run here"):
        gather([tmp_path], tmp_path)
    with pytest.raises(ValueError, match="stands twice"):
        gather([two_runs[0], two_runs[0]], tmp_path)
    changes = [f"run.directory={tmp_path}", "run.trackers=[]"]
    with Session(Run.of(load(root / "configs" / "demo.toml", changes, "fresh"))) as session:
        session.keep_config()
    with pytest.raises(ValueError, match="no finished iteration yet"):
        gather([tmp_path / "fresh"], tmp_path)


@needs_chromium
def test_the_page_works_in_a_browser_without_network(report, tmp_path):
    with Page(tmp_path / "profile") as page:
        page.open(report)
        assert page.complaints == []
        assert page.requests == [report.resolve().as_uri()]
        assert page.value("window.hurt") is None
        foreign = "img, iframe, object, embed, [href^=http], [href^=java], [onerror], [onload]"
        assert page.value(f"document.querySelectorAll('{foreign}').length") == 0
        assert page.value("document.querySelectorAll('script').length") == 3
        # Plots are drawn: not a single pixel only.
        drawn = page.value(
            "[...document.querySelectorAll('figure canvas')].map((one) => new Set(new Uint32Array("
            "one.getContext('2d').getImageData(0, 0, one.width, one.height).data.buffer)).size)"
        )
        assert len(drawn) >= 10
        assert min(drawn) > 5
        titles = page.value("[...document.querySelectorAll('figure h3')].map((o) => o.textContent)")
        for title in ("Accuracy on heldout, %", "Reward by origin", "Acceptance of expert rollouts",
                      "Entropy", "KL divergence", "Length", "Seconds an iteration"):  # fmt: skip
            assert title in titles
        rows = "document.querySelectorAll('#evaluation-table tbody tr').length"
        assert page.value(rows) >= 4
        assert "grpo@30 against icpo@40" in page.value(
            "document.getElementById('comparison-table').textContent"
        )
        # What ran when, of the iteration that the reader chooses.
        spans = "document.querySelectorAll('#when svg .span').length"
        assert page.value(spans) >= 1
        page.value(
            "(() => { const one = document.getElementById('when-iteration'); one.value = '2';"
            "one.dispatchEvent(new Event('change')); })()"
        )
        assert page.value(spans) >= 5
        assert "Iteration 2" in page.value(
            "document.querySelector('#when svg').getAttribute('aria-label')"
        )
        # Iteration 0 has an evaluation only, which would flatten the time of all others.
        page.value("document.querySelector('#time-charts .plot').focus()")
        page.press("Home")
        assert page.value("document.activeElement.dataset.at") == "1"
        told = page.value("document.getElementById('made').textContent")
        assert "prompts.problems" in told
        assert '"expert_lambda": 0.01' in told
        # A line says what it is, also where it is the only one of its kind.
        legend = (
            "[...document.querySelectorAll('figure')].find((one) => one.querySelector('h3')"
            ".textContent === 'KL divergence').querySelector('.u-legend').textContent"
        )
        assert "icpo to the reference" in page.value(legend)
        # A run can be taken off.
        lines = "document.querySelectorAll('#training-charts figure:first-child .u-series').length"
        before = page.value(lines)
        page.value("document.querySelector('#runs input').click()")
        assert page.value(lines) < before
        page.value("document.querySelector('#runs input').click()")
        assert page.complaints == []


@needs_chromium
def test_plots_and_rollouts_can_be_read_from_the_keyboard(report, tmp_path):
    with Page(tmp_path / "profile") as page:
        page.open(report)
        page.value("document.querySelector('#training-charts .plot').focus()")
        page.press("End")
        assert page.value("document.activeElement.dataset.at") == "40"
        page.press("ArrowLeft")
        assert page.value("document.activeElement.dataset.at") == "39"
        legend = "document.activeElement.querySelector('.u-legend').textContent"
        page.wait(f"{legend}.includes('39')")
        # The browser of rollouts: next problem, next iteration, filters.
        shown = "document.getElementById('browser').textContent"
        first = page.value(shown)
        for part in ("Prompt (bare)", "Prompt with demonstrations", "Expert: sampled with",
                     "On-policy", "correct", "advantage", "window.hurt"):  # fmt: skip
            assert part in first
        page.value("document.getElementById('browser').focus()")
        page.press("j")
        assert page.value("document.getElementById('browse-problem').selectedIndex") == 1
        assert page.value(shown) != first
        page.press("J")
        assert page.value("document.getElementById('browse-iteration').value") == "2"
        page.value(
            "(() => { const one = document.getElementById('browse-status'); one.value = 'wrong';"
            "one.dispatchEvent(new Event('change')); })()"
        )
        classes = "[...document.querySelectorAll('.rollout')].map((one) => one.className)"
        assert set(page.value(classes)) == {"rollout wrong"}
        # Everything that acts can be reached with the tabulator and has a name.
        nameless = page.value(
            "[...document.querySelectorAll('select, button, input')].filter((one) =>"
            " one.tabIndex < 0 || !(one.labels?.[0]?.textContent || one.textContent).trim()).length"
        )
        assert nameless == 0
        assert page.complaints == []


@needs_chromium
def test_it_fits_a_phone(report, tmp_path):
    with Page(tmp_path / "profile", 390, 844) as page:
        page.open(report)
        assert page.value("document.documentElement.scrollWidth") <= 390
        widths = page.value(
            "[...document.querySelectorAll('figure canvas')]"
            ".map((one) => one.getBoundingClientRect().right)"
        )
        assert max(widths) <= 390
        small = page.value(
            "[...document.querySelectorAll('select, button, #runs label')].filter((one) =>"
            " one.getBoundingClientRect().height < 38).length"
        )
        assert small == 0


@needs_chromium
@pytest.mark.skipif(
    "ICPO_PICTURE_RUNS" not in os.environ,
    reason="draws docs/pictures/report.png of the runs in ICPO_PICTURE_RUNS",
)
def test_the_picture_of_the_readme(root, tmp_path):
    runs = [Path(one) for one in os.environ["ICPO_PICTURE_RUNS"].split()]
    made = write(runs, tmp_path / "report.html", Path("evaluations"))
    with Page(tmp_path / "profile", 1280, 1000) as page:
        page.open(made)
        page.picture(root / "docs" / "pictures" / "report.png")
        assert page.complaints == []
