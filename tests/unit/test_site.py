"""The documentation as a site: strict, so a link that leads nowhere ends the build."""

import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from icpo_core.config.schema import schema


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    said = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout
    return folder


def keys() -> Iterator[tuple[str, str]]:
    """Every key with what it is for."""
    found = schema()

    def below(name: str, section: dict[str, Any]) -> Iterator[tuple[str, str]]:
        for key, about in section["properties"].items():
            path = f"{name}.{key}" if name else key
            yield path, about.get("description", "")
            if part := about.get("$ref") or about.get("items", {}).get("$ref"):
                yield from below(path, found["$defs"][part.rsplit("/", 1)[-1]])

    return below("", found)


def test_every_key_is_there_with_its_docstring(site: Path) -> None:
    text = html.unescape(re.sub(r"<[^>]+>", "", (site / "configuration.html").read_text()))
    said = "".join(text.split())
    for path, about in keys():
        assert path in text
        assert "".join(about.replace("`", "").split()) in said, path


def test_commands_pictures_and_sources_are_there(site: Path) -> None:
    assert "icpo push-model" in (site / "command-line.html").read_text()
    assert (site / "notebook.html").read_text().count("data:image/svg+xml") >= 3
    assert "pictures/method.svg" in (site / "method.html").read_text()
    assert (site / "source" / "examples" / "rewards.py.html").is_file()


def test_keys_that_newcomers_are_told_are_keys() -> None:
    known = {path for path, _ in keys()}
    sections = {path.split(".")[0] for path in known if "." in path}
    for page in ("coming-from.md", "troubleshooting.md", "glossary.md"):
        for line in (ROOT / "docs" / page).read_text("utf-8").splitlines():
            ours = line.rsplit("|", 2)[-2] if page == "coming-from.md" and "|" in line else line
            for found in re.findall(r"`\[*([a-z]+(?:\.[a-z_]+)+)", ours):
                if found.split(".")[0] in sections:
                    assert found in known, f"{page}: {found}"
