"""`constraints.txt`: all that `.[cpu]` asks for, each with the digests of its files."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from places import ROOT

ELSEWHERE = {"torch"}
"""Whose CPU build the package index does not have."""


def test_every_requirement_is_held_and_nothing_names_a_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["cpu"]]
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "--index" not in text
    held = dict(
        re.findall(r"^([a-z0-9._-]+)==(\S+)[^\n]*\\\n    --hash=sha256:[0-9a-f]{64}", text, re.M)
    )
    assert len(held) == len(re.findall(r"^[a-z0-9]", text, re.M))
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        if name not in ELSEWHERE:
            assert requirement.specifier.contains(held[name]), name
