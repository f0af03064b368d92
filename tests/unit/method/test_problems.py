"""Problem sets on disk, and likeness of problem texts."""

import csv
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import REAL, SMALL

from icpo_core.method.near_duplicates import NearDuplicates, words
from icpo_core.method.problems import normal_text, problem_id, read_problems
from icpo_core.store import tables

ROWS = [
    {"id": "a", "problem": '1+1, or\n"two"?', "answer": "2", "solution": "so {2}", "source": "s"},
    {"id": "b", "problem": "größer als 2?", "answer": "3", "solution": None, "source": "s"},
]


def write(path: Path, rows: list[dict]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), "utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "json", "csv"])
def test_reads_every_format_alike(tmp_path: Path, ending: str) -> None:
    rows = [{**row, "meta": "left out"} for row in ROWS]
    table = read_problems(write(tmp_path / f"set.{ending}", rows))
    assert table.schema.equals(tables.TABLES["problems"])
    assert table.to_pylist() == ROWS


def test_extra_is_json_whatever_it_is(tmp_path: Path) -> None:
    given = [{"tests": [1, "é"]}, '{"tests": []}', "a text", None, 3]
    rows = [{"problem": f"p{n}", "extra": one} for n, one in enumerate(given)]
    rows[3]["answer"] = "3"
    table = read_problems(write(tmp_path / "set.jsonl", rows))
    said = table["extra"].to_pylist()
    assert [one and json.loads(one) for one in said] == [
        {"tests": [1, "é"]}, {"tests": []}, "a text", None, 3,
    ]  # fmt: skip
    # Where the verifier has something else to go by, an answer is no must.
    assert table["answer"].to_pylist() == ["", "", "", "3", ""]
    tables.write("problems", table, tmp_path / "set.parquet")
    assert tables.read("problems", tmp_path / "set.parquet").equals(table)
    assert read_problems(str(tmp_path / "set.parquet"))["extra"].to_pylist() == said
    with pytest.raises(ValueError, match="row 1 has no answer"):
        read_problems(write(tmp_path / "none.jsonl", [{"problem": "p", "answer": ""}]))


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_what_is_absent_is_made(tmp_path: Path, ending: str) -> None:
    rows = [{"problem": "1+1?", "answer": 2}, {"problem": "1+2?", "answer": 3}]
    table = read_problems(write(tmp_path / f"mine.{ending}", rows))
    assert table.column("id").to_pylist() == [problem_id("1+1?"), problem_id("1+2?")]
    assert table.column("answer").to_pylist() == ["2", "3"]
    assert table.column("solution").to_pylist() == [None, None]
    assert table.column("source").to_pylist() == ["mine", "mine"]


@pytest.mark.parametrize(
    ("answers", "texts"),
    [([2, 3], ["2", "3"]), ([2.0, 3.5], ["2", "3.5"]), ([Decimal("0.50"), None], ["0.50", None])],
)
def test_numbers_become_text(tmp_path: Path, answers: list, texts: list) -> None:
    rows = [{"problem": f"{n}?", "answer": answer} for n, answer in enumerate(answers)]
    path = write(tmp_path / "set.parquet", rows)
    if None in texts:
        with pytest.raises(ValueError, match="row 2 has no answer"):
            read_problems(path)
    else:
        assert read_problems(path).column("answer").to_pylist() == texts


def test_score_is_kept_where_there_is_one(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "score": 0.5}, {**ROWS[1], "score": None}]
    for ending in ("parquet", "jsonl", "csv"):
        table = read_problems(write(tmp_path / f"set.{ending}", rows))
        assert table.column("score").to_pylist() == [0.5, None]
    with pytest.raises(ValueError, match="row 1, column 'score': 'high' is no number"):
        read_problems(write(tmp_path / "bad.csv", [{**ROWS[0], "score": "high"}]))


def test_small_family_as_it_ships() -> None:
    table = read_problems(str(SMALL / "train.parquet"))
    assert table.num_rows == 2000
    assert table.column("id")[0].as_py() == problem_id(table.column("problem")[0].as_py())


def one_line(path: str) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - each caller looks at the message
        read_problems(path)
    message = str(error.value)
    assert path in message
    assert "\n" not in message
    return message


def test_errors_name_the_mend(tmp_path: Path) -> None:
    assert "icpo data prepare" in one_line(str(tmp_path / "none.parquet"))
    assert "name one Parquet" in one_line(str(tmp_path))
    (tmp_path / "set.txt").write_text("x")
    assert "must end in .parquet" in one_line(str(tmp_path / "set.txt"))
    for ending in ("jsonl", "csv", "json"):
        empty = tmp_path / f"empty.{ending}"
        empty.write_text("[]" if ending == "json" else "")
        assert "has no rows" in one_line(str(empty))
    assert "has no rows" in one_line(write(tmp_path / "empty.parquet", []))
    wrong = write(tmp_path / "wrong.jsonl", [{"question": "?", "answer": "1"}])
    assert "'problem' is missing (row 1 has question, answer)" in one_line(wrong)
    wrong = write(tmp_path / "wrong.parquet", [{"problem": "?", "gold": "1"}])
    assert "'answer' is missing (row 1 has problem, gold)" in one_line(wrong)
    assert "rows 1 and 2 have the same id 'a'" in one_line(
        write(tmp_path / "twice.jsonl", [ROWS[0], ROWS[0]])
    )
    assert "row 1 has no problem" in one_line(
        write(tmp_path / "blank.jsonl", [{"problem": " ", "answer": "1"}])
    )
    assert "not list" in one_line(
        write(tmp_path / "list.jsonl", [{"problem": "?", "answer": ["1", "2"]}])
    )
    latin = tmp_path / "latin.csv"
    latin.write_bytes("problem,answer\ngr\u00f6\u00dfer,1\n".encode("latin-1"))
    assert "not UTF-8" in one_line(str(latin))


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "json", "csv"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
def test_files_cut_short(tmp_path: Path, ending: str, share: float) -> None:
    rows = [{**ROWS[0], "id": str(n), "solution": "a long one, " * 20} for n in range(50)]
    path = Path(write(tmp_path / f"set.{ending}", rows))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "again" in one_line(str(path)) or "cut short" in one_line(str(path))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find $x$ if $2x = 4$.", "find x if \\(2x=4\\)"),
        ("Find $\\dfrac{1}{2} \\cdot 3$.", "Find \\(\\frac12\\times 3\\)"),
        ("Is $a \\le b$?", "Is $a \\leq b$"),
        ("a 9-kilometer walk", "a 9 -kilometer walk"),
        ("an angle of $30^\\circ$", "An angle of 30°"),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3, \\frac{\\pi}{2})"),
        ("the **last-digit**", "the last digit"),
    ],
)
def test_same_problem_in_other_clothes(one: str, other: str) -> None:
    assert normal_text(one) == normal_text(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3+8*4-7+2*5", "3+8*4-7-2*5"),
        ("x > 2", "x < 2"),
        ("x = 1.5", "x = 15 "),
        ("Find 10!", "Find 10"),
        ("求和 12", "求差 12"),
    ],
)
def test_another_problem(one: str, other: str) -> None:
    assert normal_text(one) != normal_text(other)


LONG = (
    "Every morning Aya goes for a $9$-kilometer-long walk and stops at a coffee shop afterwards. "
    "When she walks at a constant speed of $s$ kilometers per hour, the walk takes her 4 hours, "
    "including $t$ minutes spent in the coffee shop. Find the number of minutes the walk takes."
)
ENDING = "where $m$ and $n$ are relatively prime positive integers. Find $m+n$."


def test_near_duplicates() -> None:
    index = NearDuplicates([LONG, "What is 1 + 1?", "Compute the sum of all primes below 100."])
    assert index.find([LONG.upper()]) == [[0]]
    assert index.find([LONG.replace("Find the number", "Tell us the total number")]) == [[0]]
    assert index.find([LONG.replace("coffee shop", "bakery") + " Give it in seconds."]) == [[0]]
    assert index.find(["what is 1+1", "What is 1 + 2?", ""]) == [[1], [], []]
    assert index.find([]) == []
    assert NearDuplicates([]).find([LONG]) == [[]]


def test_a_common_ending_is_no_likeness() -> None:
    pool = [f"The value of the {word} is m/n, {ENDING}" for word in "abcdefghijklmnop"]
    assert NearDuplicates(pool).find([f"The chance of rain is m/n, {ENDING}"]) == [[]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("ab12+ $\\{}.é数", max_size=60), max_size=8))
def test_likeness_holds_for_any_text(texts: list[str]) -> None:
    found = NearDuplicates(texts).find(texts)
    for place, places in enumerate(found):
        assert place in places
        assert places == sorted(set(places))
        for other in places:
            assert place in found[other]
        assert all(other in places for other, text in enumerate(texts)
                   if words(text) == words(texts[place]))  # fmt: skip


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data is not here")
def test_known_overlaps_of_real_sets_are_found() -> None:
    overlap = json.loads((REAL / "overlap_train_vs_eval.json").read_text())["overlap"]
    for name in ("math_train_7500", "dapo_math_17k_train"):
        train = read_problems(str(REAL / f"{name}.jsonl")).select(["id", "problem"]).to_pylist()
        for benchmark, pairs in overlap[name].items():
            if not (REAL / f"{benchmark}.jsonl").is_file():
                continue
            index = NearDuplicates(
                read_problems(str(REAL / f"{benchmark}.jsonl")).column("problem").to_pylist()
            )
            known = {train_id for _, train_id in pairs}
            texts = [row["problem"] for row in train if row["id"] in known]
            assert all(index.find(texts)), benchmark
