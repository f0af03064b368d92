"""The report: what it reads from runs, its size, and the page in a real browser."""

import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import Page, needs_chromium
from hypothesis import given
from hypothesis import strategies as st
from shown import NASTY, make_run
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelText
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from icpo_core.common.files import read_sealed, write_sealed
from icpo_core.common.text import plain
from icpo_core.config import LossSection, load
from icpo_core.method.loss import Totals, icpo_loss
from icpo_core.method.policy_losses import LossInputs
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.store.paths import EXPERT_TOKENS
from icpo_core.views.diff import between
from icpo_core.views.report.ancestry import ancestry
from icpo_core.views.report.excerpts import HEAD, TAIL, clipped
from icpo_core.views.report.gather import gather
from icpo_core.views.report.page import write
from icpo_core.views.report.tokens import shaped, speller

BYTES = {one: at for at, one in enumerate(sorted(ByteLevel.alphabet()))}
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


def test_expert_tokens_are_as_the_loss_took_them(two_runs, tmp_path):
    """ρ and f(ρ) of stored logprobs are those of the loss itself, under each of its settings."""
    run = Run.read(two_runs[0])
    stored = run.store.table("update", 1, "expert_tokens").to_pylist()
    icpo, grpo = gather(two_runs, tmp_path)["runs"]
    assert all(row["steps"] is None for row in grpo["rollouts"][0]["groups"][0]["rows"])
    rows = icpo["rollouts"][0]["groups"]
    steps = {group["id"]: group["rows"][0]["steps"] for group in rows}
    assert len(stored) == len(steps) == 6
    for row in stored:
        found = steps[row["prompt_id"]]
        assert found["text"][0] == "<unk>"
        assert "".join(found["text"]).startswith("<unk>12+3=")
        assert found["log_rho"] == pytest.approx(row["logprobs"], rel=5e-3)
        assert found["log_shown"] == pytest.approx([-0.1] * len(found["text"]))
    bare_T, shown_T = np.array([-0.01, -3.0, -30.0]), np.array([-0.5, -0.1, -0.2])
    for changes in ({}, {"expert_lambda": 0.3}, {"expert": "unshaped", "expert_clip": 0.5},
                    {"expert_ratio": "importance", "expert_clip": 1.2}):  # fmt: skip
        settings = LossSection(kl="off", kl_coefficient=0.0, **changes)
        _, f_T = shaped(bare_T, shown_T, settings)
        tensors = {"logprobs_BT": torch.tensor(bare_T)[None], "old_logprobs_BT": torch.zeros(1, 3)}
        outputs = icpo_loss(
            LossInputs(
                **tensors,
                advantages_B=torch.ones(1),
                mask_BT=torch.ones(1, 3),
                expert_B=torch.tensor([True]),
                behaviour_logprobs_BT=torch.tensor(shown_T)[None],
            ),
            settings,
            Totals(3.0, 1.0),
        )
        assert float(outputs.loss) == pytest.approx(-f_T.mean(), rel=1e-6)


@given(st.lists(st.sampled_from(["a", " b", "é", "🙂", "<i>", "\n", "漢字", " "]), max_size=12))
def test_tokens_together_are_the_text(pieces):
    """Also where one character is spread over several tokens."""
    tokenizer = Tokenizer(BPE(BYTES, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelText()
    text = "".join(pieces)
    ids = tokenizer.encode(text).ids
    assert len(ids) == len(text.encode())
    spelled = speller(tokenizer)(ids)
    assert len(spelled) == len(ids)
    assert "".join(spelled) == text


def test_what_an_update_did_not_write_before_is_no_difference(two_runs, tmp_path):
    """Runs of two versions that made the same are the same to `icpo diff`."""
    older = Path(shutil.copytree(two_runs[0], tmp_path / "older"))
    for number in (1, 2, 3):
        manifest = older / f"it-000{number}" / "update" / "manifest.json"
        record = read_sealed(manifest)
        record["files"] = [one for one in record["files"] if one["name"] != EXPERT_TOKENS]
        write_sealed(manifest, record)
    found = between(Run.read(two_runs[0]), Run.read(older))
    assert (found.same_until, found.differ_at) == ("it-0040/evaluate", None)


def test_lineage_is_drawn_below_what_it_was_made_from(root, tmp_path):
    with tarfile.open(root / "tests" / "data" / "run-9696e7e.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    run = Run.read(tmp_path / "runs" / "run")
    found = ancestry(run, 2)
    names = [one["name"] for one in found["nodes"]]
    assert len(set(names)) == len(names)
    assert {"base model", "prompts.problems", "it-0002/evaluate", "it-0001/update"} <= set(names)
    edges = {(names[parent], names[child]) for parent, child in found["edges"]}
    assert all(parent < child for parent, child in found["edges"])
    assert {
        ("it-0002/select", "it-0002/update"),
        ("it-0001/update", "it-0002/update"),
        ("base model", "it-0001/rollout"),
        ("it-0002/update", "it-0002/checkpoint"),
    } <= edges
    assert ancestry(run, 3) == {"nodes": [], "edges": []}


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


def choose(page: Page, control: str, value: str, event: str = "change") -> None:
    """Set a control of the browser of rollouts as a reader does."""
    page.value(
        f"(() => {{ const one = document.getElementById('{control}'); one.value = '{value}';"
        f" one.dispatchEvent(new Event('{event}')); return 0; }})()"
    )


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

        # Its tokens, coloured: the rarest deepest; arrow keys read them.
        choose(page, "browse-status", "all")
        tokens = page.value(
            "[...document.querySelectorAll('.token')].map((one) => one.textContent)"
        )
        assert tokens[0] == "<unk>"
        colours = (
            "[...document.querySelectorAll('.token')].map((one) =>"
            " [one.title, parseInt(one.style.getPropertyValue('--rare'))])"
        )
        by_rho = page.value(colours)
        rho = [float(re.search(r"ρ ([0-9.e+-]+)", title)[1]) for title, _ in by_rho]
        depth = [one for _, one in by_rho]
        assert min(depth) < max(depth)
        assert rho[depth.index(max(depth))] == min(rho)
        choose(page, "browse-colour", "f")
        assert [one for _, one in page.value(colours)] != depth
        assert "ρ/(ρ + 0.01)" in page.value("document.querySelector('.scale').textContent")
        page.value("document.querySelector('.tokens').focus()")
        page.press("Home")
        assert 'Token 1, "<unk>": ρ ' in page.value("document.querySelector('.read').textContent")
        choose(page, "browse-colour", "none")
        assert page.value("document.querySelectorAll('.token').length") == 0
        # Search over all iterations, and order within a problem.
        rewards = (
            "[...document.querySelectorAll('.columns > :last-child .verdict')]"
            ".map((one) => one.textContent.startsWith('correct'))"
        )
        choose(page, "browse-order", "reward")
        assert page.value(rewards) == sorted(page.value(rewards), reverse=True)
        problem = "document.getElementById('browse-problem')"
        options = page.value(f"{problem}.options.length")
        choose(page, "browse-search", "evil.example", "input")
        assert page.value(f"{problem}.options.length") > options
        assert page.value("document.querySelectorAll('mark').length") > 0
        choose(page, "browse-search", "words that nobody said", "input")
        assert page.value(shown) == "Nothing is found."
        choose(page, "browse-search", "", "input")
        # A link to one rollout, followed as from elsewhere.
        link = page.value("document.querySelectorAll('.rollout .link')[3].getAttribute('href')")
        choose(page, "browse-run", "1")
        page.value("(() => { location.hash = ''; return 0; })()")
        page.value(f"(() => {{ location.hash = {json.dumps(link)}; return 0; }})()")
        page.wait("!!document.querySelector('.rollout.linked')")
        assert page.value("document.querySelector('.rollout.linked').dataset.link") == link
        assert page.value("document.getElementById('browse-run').value") == "0"
        assert page.complaints == []


CROPPED = """[...document.querySelectorAll('body *')].filter((one) => {
  const box = one.getBoundingClientRect(), hides = getComputedStyle(one).overflowX !== 'visible';
  return box.width > 1 && !one.closest('thead') &&
    (box.right > innerWidth + 1 || (hides && one.scrollWidth > one.clientWidth + 1));
}).map((one) => `${one.tagName} ${one.id || one.className}`)"""


# Links to a rollout that are not in its first line, and what stands between the rollouts' elements.
ASTRAY = """[...document.querySelectorAll('.rollout .link')].filter((one) =>
  Math.abs(one.getBoundingClientRect().top -
           one.parentElement.firstChild.getBoundingClientRect().top) > 3)
  .map((one) => one.textContent)
  .concat([...document.getElementById('browser').childNodes].filter((one) => one.nodeType === 3)
    .map((one) => one.textContent))"""


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cropped(report, tmp_path, width):
    with Page(tmp_path / "profile", width, 844) as page:
        page.open(report)
        assert page.value("document.documentElement.scrollWidth") <= width
        assert page.value("document.querySelectorAll('table td').length") > 50
        assert page.value(CROPPED) == []
        assert page.value(ASTRAY) == []
        if width > 390:
            return
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
    reason="draws report.png and tokens.png in docs/pictures of the runs in ICPO_PICTURE_RUNS",
)
def test_the_picture_of_the_readme(root, tmp_path):
    runs = [Path(one) for one in os.environ["ICPO_PICTURE_RUNS"].split()]
    made = write(runs, tmp_path / "report.html", Path("evaluations"))
    with Page(tmp_path / "profile", 1280, 1000) as page:
        page.open(made)
        page.picture(root / "docs" / "pictures" / "report.png")
        page.value("document.getElementById('rollouts').scrollIntoView()")
        page.picture(root / "docs" / "pictures" / "tokens.png")
        assert page.complaints == []
