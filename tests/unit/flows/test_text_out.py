"""Wherever text of others leaves, it stays text: a run of nasty ones, shown by every command."""

import json
from pathlib import Path

import nasty
import pytest
from shown import make_run

from icpo.flows.cli import main
from icpo.tasks import pages
from icpo.tasks.logs import Tail
from icpo_core.common.files import write_json
from icpo_core.run import metrics
from icpo_core.store.paths import RunPaths
from icpo_core.store.store import Store
from icpo_core.views import curves


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of nasty problems, answers and responses."""
    folder = tmp_path_factory.mktemp("nasty")
    changes = [f"prompts.problems={nasty.problems(folder)}", "prompts.max_tokens=100000",
               "rollout.engine.max_model_len=200000"]  # fmt: skip
    # What takes no algebra starts no judges.
    by_letter = [*changes, "verify.verifier=choice"]
    made = [
        make_run(root, folder, name, 1, [1], filler=nasty.ALL, changes=given)
        for name, given in (("one", changes), ("other", by_letter))
    ]
    record = RunPaths(made[1]).record
    branch = {"run": nasty.ALL, "at": nasty.ALL, "changes": [nasty.ALL]}
    write_json(record, json.loads(record.read_text()) | {"branch": branch})
    return made


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command prints, on a terminal with colours."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    said = capsys.readouterr()
    nasty.harmless(said.out)
    nasty.harmless(said.err)
    assert ended.value.code in (0, 1, 2)
    return said.out + said.err


def test_every_command_prints_text(
    runs: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    one, other = runs
    page = ""
    for number in range(1, 7):
        page += shown(capsys, "show", one, "--iteration", 1, "--prompt", number, "--full")
    assert "\x1b[" in page
    assert "<img src=x onerror" in page
    assert "[link=http://evil.example]" in page
    for words in (
        ["show", one], ["show", one, "--prompt", 1], ["show", one, "--json"], ["ls", one.parent],
        ["ls", one], ["diff", one, other, "--all"], ["lineage", one / "it-0001" / "select"],
        ["plan", one, "--all"], ["check", one], ["eval", one, "--history"],
        ["show", one, "--prompt", "\x1b[2J\u202e"], ["plan", "\x1b]0;x\x07/[/]"],
    ):  # fmt: skip
        assert shown(capsys, *words)


def test_markdown_of_a_run_is_ours_alone(runs: list[Path]) -> None:
    paths = RunPaths(runs[0])
    kinds = [one.type for one in nasty.markdown(pages.rollouts(paths, 1))]
    assert set(kinds) <= {
        "heading_open", "inline", "heading_close", "text", "paragraph_open", "paragraph_close",
        "code_inline", "fence", "strong_open", "strong_close",
    }  # fmt: skip
    titles = kinds.count("heading_open") - 1
    assert titles >= 2
    assert kinds.count("fence") == 2 * titles
    for page in (pages.files(paths, 1), pages.timeline_of(Store(paths), 1)):
        found = nasty.markdown(page)
        assert {"image", "html_inline", "html_block"}.isdisjoint(one.type for one in found)
        links = [one.attrs["href"] for one in found if one.type == "link_open"]
        assert all(link.startswith("file:///") for link in links)


def test_names_that_a_foreign_table_makes_up() -> None:
    """Statuses and reasons are words of ours, but a file of others may hold any text."""
    assert pages.word("below_delta") == "below_delta"
    for text in nasty.TEXTS:
        kinds = [one.type for one in nasty.markdown(f"## Rejected: {pages.word(text)}")]
        assert kinds == ["heading_open", "inline", "text", "code_inline", "heading_close"]


def test_lines_of_a_worker(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text(nasty.ALL + "\n")
    for line in Tail(log).lines(0.0):
        nasty.harmless(line)
        assert len(line) < 600


def test_a_picture_has_no_element_of_a_name(runs: list[Path]) -> None:
    import xml.etree.ElementTree as Xml

    rows = metrics.read(RunPaths(runs[0]))
    for text in nasty.TEXTS:
        drawn = curves.of_runs({text: rows, "b": rows})
        kinds = {one.tag.partition("}")[2] for one in Xml.fromstring(drawn).iter()}
        assert kinds <= {"svg", "rect", "text", "tspan", "path", "polyline", "polygon"}
