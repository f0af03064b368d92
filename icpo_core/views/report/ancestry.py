"""Where a run's newest policy comes from, as rows to be drawn: each stands below its parents."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from icpo_core.run.run import Run
from icpo_core.views.lineage import Node, ancestors, origins

BACK = 1
"""Iterations back: further ones look alike."""
DIGEST = 12
"""Characters of a digest that are shown."""

WEIGHTS = frozenset({"base", "policy", "state"})
"""Inputs that are the base model where no stage made them."""


def ancestry(run: Run, iteration: int) -> dict[str, list[Any]]:
    """`nodes` (name, note, kind: `run`, `input` or `stage`), parents first, and `edges` between
    their places in the list, from parent to child. Empty where no stage is finished."""
    drawn = _Drawing()
    chain = [
        drawn.put(
            ("run", one["run"]),
            f"run {Path(one['run']).name}",
            f"branched at {one['at']}" + "".join(f" {change}" for change in one["changes"]),
            "run",
        )
        for one in reversed(origins(run.paths))
    ]
    drawn.edges += [list(pair) for pair in pairwise(chain)]
    ends = [
        ancestors(run, stage, iteration, BACK)
        for stage in ("checkpoint", "evaluate")
        if run.store.finished(stage, iteration) is not None
    ]
    for end in ends:
        drawn.grow(end, run)
    if chain and drawn.roots:
        drawn.edges += [[chain[-1], root] for root in drawn.roots]
    return {"nodes": drawn.nodes, "edges": drawn.edges}


class _Drawing:
    """Nodes and edges so far, and which place each thing has."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, str]] = []
        self.edges: list[list[int]] = []
        self.places: dict[tuple[str, str], int] = {}
        self.roots: list[int] = []
        """Stages with ancestors that are not drawn."""

    def put(self, key: tuple[str, str], name: str, note: str, kind: str) -> int:
        if key not in self.places:
            self.places[key] = len(self.nodes)
            self.nodes.append({"name": name, "note": note, "kind": kind})
        return self.places[key]

    def grow(self, node: Node, run: Run) -> int:
        """The place of a stage, after all that it was made from."""
        known = self.places.get(("stage", node.place))
        if known is not None:
            return known
        parents = [self.grow(parent, run) for parent in node.parents]
        for name, value in sorted(node.inputs.items()):
            if isinstance(value, str) and not node.cut:
                # One thing read by several stages is drawn once.
                told = "base model" if name in WEIGHTS else name
                parents.append(self.put(("input", value), told, value[:DIGEST], "input"))
        other = Path(node.run).name if Path(node.run) != run.paths.root else ""
        note = node.manifest.fingerprint[:DIGEST] + (f" of {other}" if other else "")
        mine = self.put(("stage", node.place), node.place, note, "stage")
        self.edges += [[parent, mine] for parent in parents]
        if node.cut:
            self.roots.append(mine)
        return mine
