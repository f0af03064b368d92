"""Files from the wild, through the real readers: read, or refused in one line with its fix."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub import COMMIT, hub
from places import REAL, ROOT

from icpo.data.columns import SAMPLE
from icpo.data.preparation import Order, again, prepare
from icpo.data.prepare import main
from icpo.data.recipes import RECIPES, Row
from icpo.data.sources import from_path
from icpo_core.grading.golds import acceptable
from icpo_core.method.problems import read_problems

CASES = REAL.parent / "cases" / "data"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the cases (../shared) are not here")

QUESTION = "A shop sells {n} boxes, and every box costs £{n} – how much is that?"
ROWS = [{"problem": QUESTION.format(n=n), "answer": str(n * n)} for n in range(2, 12)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
EXPECTED = [(row["problem"], row["answer"]) for row in ROWS]


def read(path: Path | str, split: str | None = None, **named: str) -> tuple[list[Row], str]:
    """The rows of a source, and all that is said of it before it starts."""
    source = from_path(str(path), split)
    raw = iter(source.rows)
    sample = list(islice(raw, SAMPLE))
    recipe, lines = RECIPES["columns"].with_columns(named).fitted(sample, source.name)
    rows = list(recipe.rows(chain(sample, raw), source.name, source.place))
    return rows, "\n".join([*source.about, *lines])


def table(delimiter: str, quote: bool = True, header: str = "problem,answer") -> str:
    lines = [header.replace(",", delimiter)]
    for row in ROWS:
        problem = f'"{row["problem"]}"' if quote else row["problem"]
        lines.append(f"{problem}{delimiter}{row['answer']}")
    return "\r\n".join(lines) + "\r\n"


def parquet(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def zst(data: bytes) -> bytes:
    packed: bytes = pa.Codec("zstd").compress(data, asbytes=True)
    return packed


READ: dict[str, tuple[bytes, str]] = {
    "marked.jsonl": (LINES.replace("\n", "\r\n").encode("utf-8-sig"), "byte order mark"),
    "sixteen.jsonl": (LINES.encode("utf-16"), "UTF-16"),
    "sixteen.csv": (table(",").encode("utf-16-le"), "UTF-16 without a mark"),
    "unicode text.txt": (table("\t", quote=False).encode("utf-16"), "tabs, UTF-16"),
    "western.csv": (table(";").encode("cp1252"), "'£' in line 2"),
    "semicolons.csv": (table(";").encode("utf-8-sig"), "semicolons"),
    "told.csv": (("sep=|\r\n" + table("|")).encode(), "bars"),
    "tabs.tsv": (table("\t", quote=False).encode(), "tabs"),
    "tabs.csv": (table("\t", quote=False).encode(), "tabs"),
    "capitals.csv": (table(",", header="Question ,Final Answer").encode(), "Final Answer"),
    "trailing.csv": (
        "".join(f"{line};;\r\n" for line in table(";").splitlines()).encode(),
        "semicolons",
    ),
    "array.jsonl": (json.dumps(ROWS).encode(), "a JSON array"),
    "indented.json": (json.dumps(ROWS, indent=2).encode(), "a JSON array"),
    "pretty.jsonl": ("\n".join(json.dumps(row, indent=1) for row in ROWS).encode(), "one after"),
    "nested.json": (json.dumps({"version": "1", "data": ROWS}).encode(), "the list 'data'"),
    "columns.json": (
        json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}).encode(),
        "object of columns",
    ),
    "pandas.json": (
        json.dumps(
            {name: {str(at): row[name] for at, row in enumerate(ROWS)} for name in ROWS[0]}
        ).encode(),
        "pandas",
    ),
    "lines.txt": (LINES.encode(), "JSON lines"),
    "no ending": (LINES.encode(), "JSON lines"),
    "packed.jsonl.gz": (gzip.compress(LINES.encode()), "JSON lines, gzip"),
    "packed.jsonl.zst": (zst(LINES.encode()), "JSON lines, zstd"),
    "packed.csv.bz2": (bz2.compress(table(",").encode()), "commas, bzip2"),
    "packed.tsv.xz": (lzma.compress(table("\t").encode()), "tabs, xz"),
    "disguised.jsonl": (gzip.compress(LINES.encode()), "JSON lines, gzip"),
    "rows.parquet": (parquet(ROWS), "Parquet"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_reads(tmp_path: Path, name: str) -> None:
    data, about = READ[name]
    (tmp_path / name).write_bytes(data)
    rows, said = read(tmp_path / name)
    assert [(row.problem, row.answer) for row in rows] == EXPECTED
    assert about in said
    assert not any(row.fault for row in rows)


def book() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return stream.getvalue()


REFUSED: dict[str, tuple[bytes, str]] = {
    "book.xlsx": (book(), "save the sheet as CSV"),
    "book.xls": (b"\xd0\xcf\x11\xe0" + bytes(600), "save the sheet as CSV"),
    "empty.jsonl": (b"", "has no rows"),
    "blank.csv": (b"\n\n", "has no rows"),
    "header.csv": (b"problem,answer\n", "a header and no rows"),
    "twice.csv": (b"problem,answer,answer\np,1,2\n", "two columns are called 'answer'"),
    "twice.jsonl": (b'{"problem": "p", "answer": "1", "answer": "2"}\n', "'answer' stands twice"),
    "twice.json": (b'[{"problem": "p", "answer": "1", "answer": "2"}]', "'answer' stands twice"),
    "cut.jsonl.gz": (gzip.compress(LINES.encode())[:-20], "not a whole gzip file"),
    "cut.jsonl.zst": (zst(LINES.encode() * 50)[:-20], "not a whole zstd file"),
    "plain.jsonl.gz": (LINES.encode(), "is not packed as .gz says"),
    "page.jsonl": (b"<!DOCTYPE html><html></html>", "download the raw file"),
    "pointer.parquet": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "binary.jsonl": (b"\x01\x02\x03\x04\x00\x05" * 20, "holds binary data"),
    "broken.jsonl": (
        LINES.encode().replace(b"\xc2\xa3", b"\xa3", 1), "line 1 is not UTF-8 text",
    ),
    "gbk.csv": ("problem,answer\n求所有小于十的素数之和,17\n".encode("gbk"), "no western text"),
    "missing.csv": (b"problem,answer\np,1\nq\n", "line 3 has 1 fields, the header 2"),
    "options.jsonl": (
        b'{"question": "Which?", "choices": ["1", "2"], "answer": 1}\n', "without its options",
    ),
    "other.jsonl": (b'{"ask": "p", "reply": "1"}\n', "no column problem, found ask, reply"),
    "digits.jsonl": (b'{"problem": "p", "answer": ' + b"9" * 5000 + b"}\n", "line 1 cannot"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_in_one_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, fix = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    assert main([str(tmp_path / name), "--out", str(tmp_path / "out.parquet")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("icpo data prepare: ")
    assert fix in line
    assert not (tmp_path / "out.parquet").exists()


def said_by(problem: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": problem}, {"role": "assistant", "content": answer}]


BOXED = "Let's think step by step and output the final answer within \\boxed{}."
SHAPES: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "verl": lambda q, a: {
        "data_source": "s", "prompt": [
            {"role": "system", "content": "Help."}, {"role": "user", "content": f"{q} {BOXED}"},
        ], "reward_model": {"style": "rule", "ground_truth": a}, "extra_info": {"index": 1},
    },
    "verl, list": lambda q, a: {
        "prompt": said_by(q, "")[:1], "reward_model": {"ground_truth": [a]},
    },
    "verl, JSON list": lambda q, a: {
        "prompt": said_by(q, "")[:1], "reward_model": {"ground_truth": json.dumps([a])},
    },
    "verl, as text": lambda q, a: {
        "prompt": str(said_by(q, "")[:1]), "reward_model": json.dumps({"ground_truth": a}),
    },
    "search-r1": lambda q, a: {
        "prompt": said_by(q, "")[:1], "reward_model": {"ground_truth": {"target": [a]}},
    },
    "TRL": lambda q, a: {"prompt": said_by(q, "")[:1], "solution": f"$\\boxed{{{a}}}$"},
    "TRL, plain": lambda q, a: {"prompt": q, "solution": f"${a}$"},
    "TRL, completion": lambda q, a: {
        "prompt": said_by(q, "")[:1], "completion": said_by(q, f"So \\boxed{{{a}}}.")[1:],
    },
    "messages": lambda q, a: {"messages": said_by(q, f"We get \\boxed{{{a}}}.")},
    "ShareGPT": lambda q, a: {
        "conversations": [
            {"from": "human", "value": q}, {"from": "gpt", "value": f"The answer is {a}."},
        ]
    },
    "parts": lambda q, a: {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": q}]}], "answer": a,
    },
    "OpenR1": lambda q, a: {
        "problem": q, "solution": f"So $\\boxed{{{a}}}$", "answer": a, "uuid": q[-9:],
        "generations": ["<think>"], "messages": said_by(q, a), "correctness": [True],
    },
    "GSM8K": lambda q, a: {"question": q, "answer": f"It is <<1+1=2>>so.\n#### {a}"},
    "MetaMath": lambda q, a: {"query": q, "response": f"So it is. The answer is: {a}"},
}  # fmt: skip
WITH_SOLUTION = {"TRL, completion", "messages", "ShareGPT", "OpenR1", "GSM8K", "MetaMath"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_shapes_of_other_trainers(tmp_path: Path, shape: str, ending: str) -> None:
    raw = [SHAPES[shape](q, a) for q, a in EXPECTED]
    file = tmp_path / f"set.{ending}"
    if ending == "parquet":
        file.write_bytes(parquet(raw))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in raw), "utf-8")
    rows, said = read(file)
    assert [(row.problem, row.answer) for row in rows] == EXPECTED
    assert {row.solution is not None for row in rows} == {shape in WITH_SOLUTION}
    assert "problem   from " in said
    assert all("<<" not in (row.solution or "") for row in rows)


def test_a_list_of_golds_is_several_answers_and_said(tmp_path: Path) -> None:
    raw = [
        {"prompt": said_by(q, "")[:1], "reward_model": {"ground_truth": [a, "x", a]}}
        for q, a in EXPECTED
    ]
    file = tmp_path / "set.parquet"
    file.write_bytes(parquet(raw))
    rows, said = read(file)
    assert [acceptable(row.answer or "") for row in rows] == [(a, "x") for _, a in EXPECTED]
    assert "ground_truth (a list: any of its answers is right)" in said
    made = prepare(Order(source=str(file)), tmp_path / "out.parquet", workers=1)
    kept = read_problems(str(made.problems)).column("answer").to_pylist()
    assert kept == [f'["{a}", "x"]' for _, a in EXPECTED]
    assert made.manifest["several_answers"] == len(ROWS)


def test_what_stands_in_the_middle_of_a_column(tmp_path: Path) -> None:
    odd = [
        5,
        5.0,
        1e-07,
        True,
        None,
        float("nan"),
        "None",
        {"value": 5},
        [[1, 2]],
        [],
        "\ud83d",
        "7",
    ]
    file = tmp_path / "mixed.jsonl"
    raw = [{"problem": f"What is item {n}?", "answer": value} for n, value in enumerate(odd)]
    file.write_text("".join(json.dumps(row) + "\n" for row in raw), "utf-8")
    rows, _ = read(file)
    assert [row.answer for row in rows] == ["5", "5", "0.0000001", *[None] * 8, "7"]
    faults = {row.row: row.fault for row in rows if row.fault}
    assert {number: fault.partition(": ")[2] for number, fault in faults.items()} == {
        4: "row 4, answer: a text or a number is needed, not bool (true)",
        8: "row 8, answer: a text or a number is needed, not dict",
        9: "row 9, answer: a text or a number is needed, not list",
        11: "row 11, answer: half a character (\\ud83d, a lone surrogate); write the text again "
        "with whole characters, or drop the row",
    }
    assert all(fault.startswith(f"{file}: ") for fault in faults.values())


def test_true_and_false_are_answers_where_the_column_holds_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    raw = [{"question": f"Is {n} even?", "answer": n % 2 == 0} for n in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in raw), "utf-8")
    rows, said = read(file)
    assert [row.answer for row in rows] == ["True", "False", "True", "False"]
    assert "answer (true or false)" in said


def test_folders_globs_and_saved_data_sets(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# about")
    for at, part in enumerate((ROWS[:4], ROWS[4:])):
        (folder / "data" / f"train-{at}.parquet").write_bytes(parquet(part))
    (folder / "data" / "test-0.parquet").write_bytes(parquet(ROWS[:1]))
    rows, said = read(folder)
    assert [(row.problem, row.answer) for row in rows] == EXPECTED
    assert "2 files" in said
    assert "split train, and not test" in said
    assert len(read(folder, "test")[0]) == 1
    assert len(read(f"{folder}/data/train-*.parquet")[0]) == len(ROWS)
    with pytest.raises(ValueError, match=r"no split dev \(test, train\).*--split"):
        read(folder, "dev")
    with pytest.raises(ValueError, match="no file is called so"):
        read(f"{folder}/*.parquet")
    source = from_path(str(folder))
    assert len(list(source.rows)) == len(ROWS)
    assert source.place is not None
    assert source.place(5).endswith("train-1.parquet: row 1")
    (folder / "data" / "train-2.csv").write_text("problem,answer\np,1\n")
    with pytest.raises(ValueError, match=r"several kinds \(2 .parquet, 1 .csv\); name one kind"):
        read(folder)
    plain = datasets.Dataset.from_list(ROWS)
    plain.save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"test": plain}).save_to_disk(str(tmp_path / "one"))
    both = datasets.DatasetDict({"train": plain, "test": plain.select([0])})
    both.save_to_disk(str(tmp_path / "both"))
    for name in ("plain", "one", "both"):
        assert [(row.problem, row.answer) for row in read(tmp_path / name)[0]] == EXPECTED
    assert len(read(tmp_path / "both", "test")[0]) == 1
    with pytest.raises(ValueError, match=r"no split dev \(train, test\)"):
        read(tmp_path / "both", "dev")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="holds no file of rows"):
        read(tmp_path / "nothing")


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_the_hub_by_the_code_that_reads_it(tmp_path: Path, streaming: list[str]) -> None:
    """`datasets` and `huggingface_hub` as they are, against a hub on this machine."""
    raw = [{"question": q, "answer": f"So it is.\n#### {a}"} for q, a in EXPECTED]
    out = tmp_path / "out.parquet"
    with hub("me/set", {"README.md": b"# set\n", "data/test-0.parquet": parquet(raw)}) as address:
        environment = os.environ | {
            "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
        }  # fmt: skip

        def prepared(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "icpo.data.prepare", *words, "--out", str(out), *streaming],
                cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120,
            )  # fmt: skip

        ran = prepared("me/set")
        assert ran.returncode == 0, ran.stderr
        assert f"me/set: hub, split test, commit {COMMIT[:12]}" in ran.stdout
        kept = read_problems(str(out))
        assert kept["answer"].to_pylist() == [a for _, a in EXPECTED]
        manifest = json.loads(out.with_suffix(".manifest.json").read_text("utf-8"))
        assert (manifest["source"]["revision"], manifest["source"]["split"]) == (COMMIT, "test")
        ran = prepared("me/other")
        assert ran.returncode == 2
        assert "me/other (train): cannot be had from the hub" in ran.stderr.splitlines()[-1]


def test_a_folder_is_prepared_again(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for at in range(2):
        (folder / f"{at}.parquet").write_bytes(parquet(ROWS[5 * at : 5 * at + 5]))
    made = prepare(Order(source=str(folder)), tmp_path / "out.parquet", workers=1)
    assert again(made.manifest_file, None).manifest["outputs"] == made.manifest["outputs"]
    (folder / "1.parquet").write_bytes(parquet(ROWS[:5]))
    with pytest.raises(ValueError, match=r"1\.parquet: is not what out\.manifest\.json"):
        again(made.manifest_file, None)


@needs_cases
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("bom.jsonl", 40), ("excel.csv", 40), ("excel_cp1252.csv", 40), ("mixed.jsonl", 11),
        ("openr1.parquet", 40), ("saved", 40), ("surrogate.jsonl", 1), ("tab.tsv", 40),
        ("trl.parquet", 40), ("trl_plain.parquet", 40), ("verl.parquet", 40),
        ("verl_list.parquet", 5), ("verl_target.parquet", 5), ("z.jsonl.gz", 40),
        ("z.jsonl.zst", 40), ("broken.jsonl", 40),
    ],
)  # fmt: skip
def test_the_cases(name: str, kept: int) -> None:
    rows, _ = read(CASES / name)
    assert sum(row.problem is not None and row.answer is not None for row in rows) == kept
