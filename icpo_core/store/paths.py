"""Where everything of a run lies. No path is spelled anywhere else.

runs/NAME/config.json  run.json  protected.json  metrics.parquet  LATEST -> it-0007/checkpoint
runs/NAME/it-0007/STAGE/...  manifest.json
runs/NAME/logs/attempt-0001/engine.log  trainer.log  config.json  run.json
runs/NAME/aside/...  what was found in the way, and is no part of the run
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
PRUNED = "pruned.json"
DAMAGED = "damaged.json"
MARKS = frozenset({MANIFEST, PRUNED, DAMAGED})
"""Files of a stage's folder that the store keeps beside the stage's own."""
EXPERT_TOKENS = "expert_tokens.parquet"
"""Of an update: what the bare prompt gave the tokens of expert rollouts. Nothing is made from it,
and updates of earlier versions have none."""


UNFINISHED = "unfinished"
"""Table of rollouts that go on in the next iteration: a file beside each part of `rollout`."""
PARTS = {"rollout": "part-*.parquet", "verdicts": "*.parquet", "teacher": "part-*.parquet"}
"""Tables with a file a shard, `part-00000-of-00002.parquet`; those of others bear their names."""


def unfinished_of(part: Path) -> Path:
    """Where the groups are that go on, beside a part of the rollouts."""
    return part.with_name(part.name.replace("part", UNFINISHED, 1))


def pattern_of(table: str) -> str:
    """What the names of a table's files are like in the folder of its stage."""
    return PARTS.get(table, f"{table}*.parquet")


_STAGE = re.compile(r"[a-z][a-z0-9_]*")
_ITERATION = re.compile(r"it-([0-9]{4,9})")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")


def checked(name: str) -> str:
    """The name itself, if it is one of a file below the folder that it was recorded in.

    Names come from manifests, marks and object stores, which somebody else may have written.
    Raises ValueError for one that is absolute, leads upwards or is no plain name.
    """
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
    if not plain or _UNSAFE.search(name):
        raise ValueError(f"{name!r} is no name of a file in a run: this was not written by icpo")
    return name


@dataclass(frozen=True)
class RunPaths:
    """Paths of one run. `root` is `runs/NAME`."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def record(self) -> Path:
        return self.root / "run.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock.json"

    @property
    def protected(self) -> Path:
        """Iterations whose checkpoint a person wants kept."""
        return self.root / "protected.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.parquet"

    @property
    def latest(self) -> Path:
        return self.root / "LATEST"

    @property
    def kept(self) -> Path:
        """What judges elsewhere have found, for all runs beside this one."""
        return self.root.parent / ".rewards.sqlite"

    def exists(self) -> bool:
        """Whether a run is here, though some of its own files may be lost."""
        return self.config.is_file() or self.record.is_file() or bool(self.attempts())

    def set_aside(self, path: Path) -> Path:
        """Move what is no part of the run out of the way; where it is now.

        Raises ValueError if a link leads out of the run, from where it lies or to where it goes.
        """
        place = self.root / "aside" / path.relative_to(self.root)
        self.inside(path.parent)
        self.inside(place.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        count = 1
        while os.path.lexists(place):
            count += 1
            place = place.with_name(f"{path.name}.{count}")
        path.rename(place)
        return place

    def iteration(self, iteration: int) -> Path:
        return self.root / f"it-{iteration:04d}"

    def stage(self, stage: str, iteration: int) -> Path:
        return self.iteration(iteration) / stage

    def place(self, stage: str, iteration: int) -> str:
        """Where a stage lies in its run, as `it-0007/select`."""
        return self.stage(stage, iteration).relative_to(self.root).as_posix()

    def manifest(self, stage: str, iteration: int) -> Path:
        return self.stage(stage, iteration) / MANIFEST

    def pruned(self, stage: str, iteration: int) -> Path:
        """Says which files of a finished stage were removed by retention, and when."""
        return self.stage(stage, iteration) / PRUNED

    def damaged(self, stage: str, iteration: int) -> Path:
        """Says which files of a finished stage were found to have other contents than recorded."""
        return self.stage(stage, iteration) / DAMAGED

    def inside(self, folder: Path) -> Path:
        """A folder of the run, if no link on the way leads out of it. Raises ValueError."""
        below = folder.relative_to(self.root)
        if any((self.root / part).is_symlink() for part in [below, *below.parents][:-1]):
            real = Path(os.path.realpath(folder))
            if not real.is_relative_to(os.path.realpath(self.root)):
                raise ValueError(f"{folder}: a link leads out of {self.root}; remove it")
        return folder

    def require_inside(self) -> None:
        """Raises ValueError if a link leads out of the run where a process that has it open writes
        beside the stages."""
        for link in self.links_out():
            raise ValueError(f"{link}: a link leads out of the run; remove it")

    def links_out(self) -> Iterator[Path]:
        """Links in the run's folder and beside its logs that lead out of it."""
        real = os.path.realpath(self.root)
        for folder in (self.root, self.root / "logs"):
            for entry in os.scandir(folder) if folder.is_dir() else ():
                if not entry.is_symlink() or entry.name == self.latest.name:
                    continue
                if not Path(os.path.realpath(entry.path)).is_relative_to(real):
                    yield Path(entry.path)

    def in_the_way(self) -> list[Path]:
        """Folders where the run's own files are written, and a file where its logs are."""
        mine = (self.config, self.record, self.metrics, self.protected)
        logs = self.root / "logs"
        return [path for path in mine if path.is_dir()] + [logs] * logs.is_file()

    def file(self, stage: str, iteration: int, name: str) -> Path:
        """Path of a file of a stage by its recorded name. Raises ValueError as `checked` and
        `inside` do."""
        path = self.stage(stage, iteration) / checked(name)
        return self.inside(path.parent) / path.name

    def part(self, stage: str, iteration: int, index: int, count: int, round_: int = 0) -> Path:
        name = f"part-{index:05d}-of-{count:05d}" + (f"-round-{round_:02d}" if round_ else "")
        return self.stage(stage, iteration) / f"{name}.parquet"

    def attempt(self, number: int) -> Path:
        return self.root / "logs" / f"attempt-{number:04d}"

    def attempts(self) -> list[Path]:
        """Folders of the attempts, oldest first."""
        return sorted(self.root.glob("logs/attempt-[0-9][0-9][0-9][0-9]*"))

    def stages(self, iteration: int) -> list[str]:
        """Stages of an iteration that have a manifest, in the order in which it was written."""
        known = []
        for path in self.iteration(iteration).glob(f"*/{MANIFEST}"):
            try:
                known.append((path.stat().st_mtime_ns, path.parent.name))
            except FileNotFoundError:  # the stage is being made again at this moment
                continue
        return [name for _, name in sorted(known)]

    def iterations(self) -> list[int]:
        """Iterations that have a folder, ascending."""
        folders = self.root.glob("it-[0-9][0-9][0-9][0-9]*")
        numbers = (folder.name.removeprefix("it-") for folder in folders)
        return sorted({int(number) for number in numbers if number.isdecimal()})


def place_of(path: Path) -> tuple[str, int] | None:
    """(stage, iteration) of a place as `it-0007/select`; None if it is none."""
    number, stage = _ITERATION.fullmatch(path.parent.name), path.name
    return (stage, int(number[1])) if number and _STAGE.fullmatch(stage) else None
