"""The README names what is there: every command that it shows, every file that it links."""

import re
import tomllib
from pathlib import Path

import pytest

from icpo.flows.cli import parser


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "README.md").read_text("utf-8")


def test_every_command_is_there(root: Path, text: str) -> None:
    [subparsers] = [action for action in parser()._actions if hasattr(action, "choices")][-1:]
    commands = set(re.findall(r"^(?:\$ )?icpo ([a-z]+)", text, re.MULTILINE))
    commands |= set(re.findall(r"`icpo ([a-z]+)", text))
    assert commands
    assert commands <= set(subparsers.choices)
    targets = re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)
    makefile = (root / "Makefile").read_text("utf-8")
    assert all(f"\n{target}:" in makefile for target in targets)


def test_every_link_leads_to_a_file(root: Path, text: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (root / link).exists()] == []


def test_the_changelog_begins_with_this_version(root: Path) -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    newest = re.search(r"^## (\S+?),? ", (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest
    assert newest[1] == version
