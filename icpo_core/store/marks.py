"""What is said beside a manifest after it was written: files that retention removed (`pruned.json`)
and files that were found damaged (`damaged.json`).

Both are files of the stage's folder and go with its next making.
"""

from __future__ import annotations

import time

from icpo_core.common import files
from icpo_core.store.paths import RunPaths, checked


def _may_go(name: str) -> bool:
    """Whether retention removes such files: weights and trainer states."""
    return name.startswith(("model/", "state/"))


class Marks:
    """The marks of one run's stages; what this process has read of retention it reads no more."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._pruned: dict[tuple[str, int], frozenset[str]] = {}

    def pruned(self, stage: str, iteration: int) -> frozenset[str]:
        """Names of files that retention has removed from a finished stage."""
        key = (stage, iteration)
        if key not in self._pruned:
            try:
                said = files.read_sealed(self._paths.pruned(stage, iteration))["files"]
                # Nothing else is ever removed, so a mark that says so is none of ours.
                self._pruned[key] = frozenset(one for one in map(checked, said) if _may_go(one))
            except ValueError:  # none, or damaged: what is gone then counts as missing
                self._pruned[key] = frozenset()
        return self._pruned[key]

    def set_pruned(self, stage: str, iteration: int, names: frozenset[str]) -> None:
        """Say which files of a finished stage are gone for good."""
        path = self._paths.pruned(stage, iteration)
        self._paths.inside(path.parent)
        if names:
            files.write_sealed(path, {"files": sorted(names), "at": time.time()}, durable=False)
        else:
            path.unlink(missing_ok=True)
        self._pruned[stage, iteration] = names

    def damaged(self, stage: str, iteration: int) -> dict[str, str]:
        """What was found wrong with a finished stage's files, by name."""
        path = self._paths.damaged(stage, iteration)
        try:
            wrong: dict[str, str] = files.read_sealed(path)["files"]
        except ValueError:
            # A mark that is damaged itself still says that something is.
            return {path.name: "is not as it was written"} if path.is_file() else {}
        return wrong

    def set_damaged(self, stage: str, iteration: int, wrong: dict[str, str]) -> None:
        """Say what was found wrong, so that the stage is made again; nothing: it is whole."""
        path = self._paths.damaged(stage, iteration)
        self._paths.inside(path.parent)
        if wrong:
            files.write_sealed(path, {"files": wrong, "at": time.time()})
        else:
            path.unlink(missing_ok=True)

    def forget(self, stage: str, iteration: int) -> None:
        """The stage is made anew, and its marks go with its files."""
        self._pruned.pop((stage, iteration), None)
