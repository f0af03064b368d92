"""Problems of reasoning-gym, a package of generators: `reasoning-gym:FAMILY?size=1000&seed=1`.

What follows the family are its settings, by the names of its configuration. Each problem comes with
its entry as column `extra`, by which verifier `reasoning-gym` scores answers.
"""

from __future__ import annotations

import difflib
import warnings
from functools import lru_cache
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qsl

from icpo_core.common import toml
from icpo_core.common.files import canonical_digest

PREFIX = "reasoning-gym:"
PACKAGE = "reasoning-gym"
LOST = {"arc_agi": "tuples", "rearc": "tuples", "composite": "a list of data sets"}
"""Families whose entries a column of JSON cannot hold, and what they need."""


@lru_cache(maxsize=4)
def problems(name: str) -> tuple[dict[str, Any], ...]:
    """The rows that `name` says, with `problem` and `extra`. The same name and version of the
    package: the same rows.

    Raises ValueError with one line.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of what it depends on
            import reasoning_gym
            from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ValueError(
            f"{name}: the package reasoning-gym is needed ({error}); install icpo[gym]"
        ) from None
    family, _, query = name.removeprefix(PREFIX).partition("?")
    if family not in DATASETS:
        near = difflib.get_close_matches(family, DATASETS, n=3)
        known = ", ".join(near) or f"{len(DATASETS)} families, as chain_sum"
        raise ValueError(f"{name}: there is no family {family!r}; there is {known}")
    if family in LOST:
        raise ValueError(
            f"{name}: needs {LOST[family]}, which no column holds; choose another family"
        )
    settings: dict[str, Any] = {"size": 1000, "seed": 0}
    for key, value in parse_qsl(query):
        toml.put(settings, f"{key}={value}")
    try:
        made = reasoning_gym.create_dataset(family, **settings)
        entries = [made[number] for number in range(settings["size"])]
    except (TypeError, ValueError, AssertionError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name}: {said}; write FAMILY?size=1000&seed=1&KEY=VALUE") from None
    return tuple({"problem": entry["question"], "extra": entry} for entry in entries)


def digest(name: str) -> str:
    """What stands for the content of such a set: its name and the version of the package.

    Raises ValueError with one line.
    """
    problems(name)
    return canonical_digest([name, version(PACKAGE)])
