"""A sweep: the same runs over configurations, variants and seeds, in one folder.

`sweep.json` there says what is to be run, so that the folder alone is enough to go on with it, and
to compare what is there (`icpo_core.views.sweep`).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from icpo_core.common.files import read_json, write_json
from icpo_core.common.keys import outward
from icpo_core.run import trust
from icpo_core.run.run import Run

FILE = "sweep.json"


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    family: str
    """Name of its configuration."""
    variant: str
    seed: int
    config: str
    overrides: list[str]
    name: str

    def run(self) -> Run:
        """Raises ValueError for a configuration that cannot be."""
        return Run.named(self.config, self.overrides, self.name)


class Sweep(BaseModel):
    """What a sweep runs: every variant of every configuration with every seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    configs: list[str]
    """TOML files, one a family of problems."""
    variants: dict[str, list[str]]
    """Overrides by name; the first is what the others are compared with."""
    seeds: list[int]
    overrides: list[str] = []
    """For all runs."""

    @staticmethod
    def read(folder: Path) -> Sweep:
        """Raises ValueError if the folder holds no sweep."""
        path = folder / FILE
        if not path.is_file():
            raise ValueError(f"{folder}: has no {FILE}, so it is no sweep")
        try:
            return Sweep.model_validate(read_json(path))
        except (ValidationError, TypeError, RecursionError) as error:
            wrong = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise ValueError(f"{path}: is no sweep that can be read ({wrong})") from None

    def keep(self, folder: Path) -> None:
        """Write `sweep.json`. Variants and seeds may be added to a sweep that is there; raises
        ValueError where what is there would become another, or a configuration cannot be."""
        if (folder / FILE).is_file():
            old = Sweep.read(folder)
            same = old.variants.keys() & self.variants.keys()
            changed = any(old.variants[name] != self.variants[name] for name in same)
            if changed or (old.configs, old.overrides) != (self.configs, self.overrides):
                raise ValueError(
                    f"{folder}: holds a sweep of other configurations, overrides or variants of "
                    "the same name; give another --into"
                )
        chosen = self._outward(folder)  # before anything is written: a configuration may be wrong
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, self.model_dump(mode="json"))
        with suppress(OSError):  # a home that holds no key: the folder alone will not do then
            trust.seal_values(folder, chosen)

    def require_trusted(self, folder: Path) -> None:
        """Raises ValueError if `sweep.json` there, which somebody else may have written, has code,
        programs or addresses that this user did not choose."""
        wrong = trust.unsealed(folder, self._outward(folder))
        if wrong:
            name, value = next(iter(wrong.items()))
            raise ValueError(
                f"{folder / FILE}: sets {name} = {value}, and nothing says that you did; if you "
                "agree, give configurations and variants yourself, with --into"
            )

    def _outward(self, folder: Path) -> dict[str, str]:
        """What its runs choose outside of themselves, by run and key."""
        return {
            f"{member.name}: {key}": value
            for member in self.members(folder)
            for key, value in outward(member.run().config).items()
        }

    def members(self, folder: Path) -> Iterator[Member]:
        """All runs, seed by seed, so that a sweep that is stopped can be compared."""
        for seed in self.seeds:
            for config, (variant, changes) in itertools.product(
                self.configs, self.variants.items()
            ):
                family = Path(config).stem
                yield Member(
                    family,
                    variant,
                    seed,
                    config,
                    [
                        *self.overrides,
                        *changes,
                        f"run.seed={seed}",
                        f"run.directory={json.dumps(str(folder.resolve()))}",
                    ],
                    f"{family}-{slug(variant)}-seed{seed}",
                )


def slug(text: str) -> str:
    """A variant's name as part of a folder's."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-") or "plain"


def grid(axes: Sequence[str]) -> dict[str, list[str]]:
    """Variants of a grid: each axis is KEY=VALUE,VALUE,…; a list's commas are its own.

    Raises ValueError for an axis without values, or with one of them twice.
    """
    choices = []
    for axis in axes:
        key, _, values = axis.partition("=")
        parts = re.split(r",(?![^\[{]*[\]}])", values)
        if not key or not all(part.strip() for part in parts):
            raise ValueError(f"--vary {axis}: give KEY=VALUE,VALUE as preset=icpo,grpo")
        if twice := [part for part in parts if parts.count(part) > 1]:
            raise ValueError(
                f"--vary {axis}: {twice[0].strip()} stands twice; name each value once"
            )
        choices.append([f"{key.strip()}={part.strip()}" for part in parts])
    found = {}
    for chosen in itertools.product(*choices):
        short = [one.rpartition("=")[2] if one.startswith("preset=") else one for one in chosen]
        found[" ".join(short)] = list(chosen)
    return found


def variant(text: str) -> tuple[str, list[str]]:
    """A variant as it is written: NAME: KEY=VALUE KEY=VALUE. Raises ValueError."""
    name, colon, changes = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"--variant {text}: give NAME: KEY=VALUE KEY=VALUE …")
    words = changes.split()
    for word in words:
        if "=" not in word:
            raise ValueError(f"--variant {text}: {word} is no KEY=VALUE")
    return name.strip(), words
