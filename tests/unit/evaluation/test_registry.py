"""The registry: rows of every shape are read, dates part the new from the old, docs agree."""

import json
import re

import made_rows
import pytest
from places import ROOT

from icpo.data.benchmarks import fetch, gather
from icpo.flows.cli import main
from icpo.flows.ui.table import Table
from icpo_core.evaluation.benchmarks import read
from icpo_core.evaluation.registry import ENTRIES, GROUPS, entry, month, newer_than


@pytest.mark.parametrize("name", made_rows.NEW)
def test_rows_of_each_shape_are_read(tmp_path, name):
    found = read(name, str(made_rows.write(name, tmp_path)))
    assert (found.kind, found.private) == ("math", False)
    assert len({one.id for one in found.problems}) == ENTRIES[name].sizes[0]
    for at, one in enumerate(found.problems):
        assert (one.problem, one.answer) == (f"{at}+7", str(at + 7))
    families = {"gsm-symbolic": 100, "gsm-plus": 300}.get(name, 0)
    assert len(set(found.families.values())) == families
    assert len(found.families) == (ENTRIES[name].sizes[0] if families else 0)
    subjects = {one.subject for one in found.problems}
    expected = {
        "amo-bench": {"number", "description"}, "apex-2025": {"smt"}, "beyondaime": {None},
        "gsm-plus": {"numerical substitution", "critical thinking"}, "gsm-symbolic": {None},
        "aime2026": {None}, "olymmath-hard": {"Algebra"}, "olymmath-easy": {"Algebra"},
        "math-perturb-hard": {"Algebra"}, "math-perturb-simple": {"Algebra"},
    }  # fmt: skip
    assert subjects == expected.get(name, {"Algebra", "Algebra, Number Theory"})


def test_every_entry_says_where_it_is_had_and_who_dates_it():
    for one in ENTRIES.values():
        assert bool(one.hub) != bool(one.home), one.name
        assert bool(one.released) == bool(one.dated), one.name
        assert one.released or one.unverified, f"{one.name}: no day, and nobody says so"
        assert one.licence
        assert one.sizes
        assert re.fullmatch(r"(\d{4}-\d{2}(-\d{2})?)?", one.released), one.name
        assert (one.answers == "letter") == (one.kind == "choice"), one.name
    assert set().union(*GROUPS.values()) == set(ENTRIES) - {"gsm8k"}


def test_a_cut_off_parts_the_new_from_the_old():
    new = newer_than("2025-06")
    assert new == ["hmmt-feb-2026", "aime2026", "hmmt-nov-2025", "amo-bench"]
    assert not entry("aime2025").newer("2025-06")
    # The month of the cut-off itself may have been read.
    assert entry("hmmt-feb-2025").newer("2025-02") is False
    assert entry("hmmt-feb-2025").newer("2025-01") is True
    # What is known to be no older than a day is new before it, and after it nobody knows.
    assert entry("beyondaime").newer("2025-03") is True
    assert entry("beyondaime").newer("2025-04") is None
    assert entry("cmimc-2025").newer("2025-06") is None
    assert entry("cmimc-2025").day == "2025-01 or later"
    # What nobody dates is neither new nor old.
    assert entry("mine").newer("2020-01") is None
    with pytest.raises(ValueError, match="no benchmark is newer"):
        newer_than("2099-01")
    for text in ("2025", "2025-13", "25-06", "2025-06-01"):
        with pytest.raises(ValueError, match="write the month"):
            month(text)
    marks = [Table({}, "2025-06").older(name) for name in ("aime2024", "aime2026", "mine")]
    assert marks == [True, False, None]
    assert Table({}).older("aime2024") is None


def test_what_is_not_on_the_hub_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"download github.com/Kaffaljidhmah2.*math-perturb-hard="):
        fetch("math-perturb-hard", tmp_path)
    path = made_rows.write("math-perturb-hard", tmp_path)
    [found] = gather([f"math-perturb-hard={path}"], tmp_path)
    assert len(found.problems) == 279


def test_the_list_is_printed_with_dates(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["eval", "--list", "--after", "2025-06", "--json"])
    assert not stop.value.code
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == newer_than("2025-06")
    assert all(row["dated"] for row in rows)
    with pytest.raises(SystemExit) as stop:
        main(["eval", "--bench", "aime2024"])
    assert stop.value.code == 2
    assert "name a model or a run" in capsys.readouterr().err


def test_the_docs_table_is_the_registry():
    text = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
    told = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[0].strip("`") in ENTRIES:
            told[cells[0].strip("`")] = cells[1:]
    assert list(told) == list(ENTRIES)
    for name, (size, place, answers, since, licence) in told.items():
        one = ENTRIES[name]
        assert size == " or ".join(map(str, one.sizes)), name
        assert (one.hub or one.home.partition(",")[0]) in place, name
        assert one.config is None or one.config in place, name
        assert (answers, since) == (one.answers, one.day or "not known"), name
        assert licence, name
