"""What a key may name: built-in things by name, one's own by file or module."""

import subprocess
import sys
from pathlib import Path

import pytest

from icpo_core.common import plugins
from icpo_core.common.files import sha256_file

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass

LIMIT = 3.0

@dataclass(frozen=True)
class Scale:
    by: float

def doubled(x):
    return Scale(2.0).by * x
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of built-in things: `plain` and `plain-mean`."""
    folder = tmp_path / "root" / "tables"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "base.py").touch()
    (folder / "plain.py").write_text("def plain(x):\n    return x\n")
    (folder / "plain_mean.py").write_text("def plain_mean(x):\n    return x / 2\n")
    monkeypatch.setattr(plugins, "_ROOT", tmp_path / "root")
    monkeypatch.syspath_prepend(str(tmp_path / "root"))
    return "tables"


def test_built_in_things_are_the_files_of_their_package(package: str) -> None:
    assert plugins.names(package) == ["plain", "plain-mean"]
    assert plugins.resolve("plain-mean", package)(4) == 2
    assert plugins.source_digest("plain") is None
    known = plugins.Pluggable(package)
    assert known.check("plain") == "plain"
    with pytest.raises(ValueError, match="none of plain, plain-mean; did you mean plain-mean"):
        known.check("plain_mean")
    with pytest.raises(ValueError, match=r"'z' is none of .*; your own is written path/to/file.py"):
        known.check("z")
    with pytest.raises(ValueError, match=r"'z' is none of plain, plain-mean$"):
        plugins.Pluggable(package, own=False).check("z")


def test_a_file_needs_no_path_and_is_executed_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(SOURCE)
    before = list(sys.path)
    doubled = plugins.resolve(f"{file}:doubled", "none")
    assert doubled(2) == 4
    assert plugins.resolve(f"{file}:doubled", "none") is doubled
    assert plugins.resolve(f"{file}:Scale", "none")(1.0).by == 1.0
    assert sys.path == before
    assert "mine" not in sys.modules


def test_an_edit_is_another_digest_and_another_function(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(SOURCE)
    spec = f"{file}:doubled"
    digest = plugins.source_digest(spec)
    assert digest == sha256_file(file)
    assert plugins.resolve(spec, "none", digest)(2) == 4
    file.write_text(SOURCE.replace("2.0", "3.0"))
    assert plugins.source_digest(spec) != digest
    with pytest.raises(ValueError, match="was edited since this run was started"):
        plugins.resolve(spec, "none", digest)
    assert plugins.resolve(spec, "none")(2) == 6


def test_a_module_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "of_mine"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "parts.py").write_text("from . import more\n\ndef two():\n    return more.TWO\n")
    (folder / "more.py").write_text("TWO = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert plugins.resolve("of_mine.parts:two", "none")() == 2
    assert plugins.source_digest("of_mine.parts:two") == sha256_file(folder / "parts.py")
    (folder / "parts.py").write_text("def two():\n    return 22222\n")
    assert plugins.resolve("of_mine.parts:two", "none")() == 22222


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("x", None, r"mine.py: No such file or directory; .* check the path"),
        ("dubled", SOURCE, r"mine.py: has no dubled; it defines Scale, doubled$"),
        ("x", "A = 1", r"mine.py: has no x; it defines no function or class"),
        ("LIMIT", SOURCE, r"mine.py: LIMIT is of type float and cannot be called; name a function"),
        ("x", "a = 1\nb = a / 0\n", r"mine.py: line 2: ZeroDivisionError: division by zero"),
        ("x", "import math\ndef f(:\n", r"mine.py: line 2: SyntaxError"),
        ("x", "\nimport not_here\n", r"mine.py: line 2: ModuleNotFoundError: No module named"),
        ("x", "import beside\n", r"put what it needs of beside.py into this file, or install it"),
        ("x", "raise SystemExit('no\\nuse')", r"mine.py: line 1: SystemExit: no use"),
    ],
)
def test_what_is_wrong_is_one_line(
    name: str, source: str | None, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    (tmp_path / "beside.py").touch()
    if source is not None:
        file.write_text(source)
    with pytest.raises(ValueError, match=words) as caught:
        plugins.resolve(f"{file}:{name}", "none")
    assert "\n" not in str(caught.value)
    # What can be seen without executing it is said in the same words.
    if "No such" in words or "it defines" in words or "SyntaxError" in words:
        with pytest.raises(ValueError, match=words):
            plugins.check(f"{file}:{name}")


def test_a_look_executes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    lines = ["from math import *", "from os import path as also", "import sys.flags", "a = b = 1"]
    lines += ["def f(): ...", "raise SystemExit"]
    file.write_text("\n".join(lines[1:]))
    for name in ("also", "a", "b", "f"):
        plugins.check(f"{file}:{name}")
    with pytest.raises(ValueError, match="has no sqrt; it defines f"):
        plugins.check(f"{file}:sqrt")
    file.write_text("\n".join(lines))
    plugins.check(f"{file}:sqrt")
    plugins.check("json:dumps")
    plugins.check("built-in")


@pytest.mark.parametrize("spec", ["no_such_module:x", "no_such.module:x", "sys:x"])
def test_a_module_that_is_not_there(spec: str) -> None:
    with pytest.raises(ValueError, match=r"no_such|sys") as caught:
        plugins.resolve(spec, "none")
    assert "\n" not in str(caught.value)


def test_paths_are_made_absolute_and_count_without_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.chdir(tmp_path)
    check = plugins.Pluggable(package).check
    assert check("mine.py:doubled") == f"{tmp_path.resolve()}/mine.py:doubled"
    assert check("a.b:c") == "a.b:c"
    assert plugins.without_folder("/a/b/mine.py:doubled") == "mine.py:doubled"
    assert plugins.without_folder("a.b:c") == "a.b:c"
    assert plugins.without_folder("group") == "group"
    for spec in (":x", "mine.py:", "mine.py:a b"):
        with pytest.raises(ValueError, match=r"write path/to/file.py:name or package.module:name"):
            check(spec)


def test_loads_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SOURCE)
    code = (
        "from icpo_core.common.plugins import resolve\n"
        f"print(resolve({str(tmp_path / 'mine.py')!r} + ':doubled', 'none')(2))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout == "4.0\n"
