"""All benchmarks, one table: each row ours beside a peer or a limit, in one run.

    python -m benchmarks [--only NAME ...] [--out DIR]

Forty minutes on two quiet cores. Each benchmark runs in a process of its own, one after the other,
and its figures are kept in DIR/NAME.json; `--only` measures some again and takes the others from
there. DIR/benchmarks.json has the table.
"""

from __future__ import annotations

import argparse
import json
import operator
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from icpo_core.common.console import Console, Table

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """One comparison. `target`: as ">= 0.95"; empty where there is none."""

    what: str
    figure: float
    unit: str
    target: str = ""

    @property
    def met(self) -> bool | None:
        if not self.target:
            return None
        sign, limit = self.target.split()
        compare = {">=": operator.ge, "<=": operator.le}[sign]
        return compare(self.figure, float(limit))


def _rollout(it: dict[str, Any]) -> list[Row]:
    same, written = it["ratios"].values()
    return [
        Row("rollout / LLM.generate, same requests: tokens a second", same, "x", ">= 0.95"),
        Row("rollout / LLM.generate, n = 8, no seeds, no logprobs", written, "x"),
        Row("weight sync, with digest and proof", it["weight_sync"], "s"),
        Row("weight sync / start of an engine: time", it["weight_sync"] / it["engine_start"], "x"),
    ]


def _update(it: dict[str, Any]) -> list[Row]:
    return [
        Row("update / hand-written loop: speed", it["ratios"]["by hand"][0], "x", ">= 1.0"),
        Row("update / TRL's on the same rows: speed", it["ratios"]["TRL"][0], "x", ">= 1.5"),
    ]


def _logprobs(it: dict[str, Any]) -> list[Row]:
    mine = it["ratios"]["logprob"]
    return [
        Row("logprob and gradient / log-softmax: time", mine["seconds"], "x", "<= 1.35"),
        Row("logprob and gradient / log-softmax: memory", mine["extra_bytes"], "x", "<= 0.125"),
    ]


def _iteration(it: dict[str, Any]) -> list[Row]:
    return [
        Row("iteration", it["seconds"], "s", "<= 2.5"),
        Row("iteration / TRL's step: time", it["ratio"], "x", "<= 0.7"),
        Row("iteration / TRL's step by its defaults: time", it["ratio_default"], "x"),
        Row("iteration one step off-policy / TRL's step: time", it["ratio_ahead"], "x"),
        Row("share of an iteration outside the engines", it["outside"], "x"),
    ]


def _prompts(it: dict[str, Any]) -> list[Row]:
    return [Row(f"{name} / tokenising: time", one["ratio"], "x") for name, one in it.items()]


def _verification(it: dict[str, Any]) -> list[Row]:
    mine = it["ours"]["per_second"]
    return [
        Row("16,384 verdicts", it["ours"]["seconds"], "s", "<= 30"),
        Row("verdicts a second / serial math-verify", mine / it["math-verify"]["per_second"], "x"),
        Row("verdicts a second / TRL's reward", mine / it["trl"]["per_second"], "x"),
        Row("memory of the judges", it["ours"]["memory_mb"], "MiB", "<= 1500"),
    ]


def _evaluation(it: dict[str, Any]) -> list[Row]:
    return [
        Row(f"evaluation / raw engine, {name}: time", one["ratio"], "x", "<= 1.05")
        for name, one in it.items()
    ]


def _orchestration(it: dict[str, Any]) -> list[Row]:
    return [Row("orchestration an iteration", it["median"], "s", "<= 0.6")]


def _bookkeeping(it: dict[str, Any]) -> list[Row]:
    return [Row("bookkeeping of an iteration of the demo", it["median"], "s", "<= 0.15")]


def _startup(it: dict[str, Any]) -> list[Row]:
    return [Row("start-up until the first rollouts", it["whole"], "s", "<= 60")]


def _proof(it: dict[str, Any]) -> list[Row]:
    plants, caught, false = (
        sum(one[k] for one in it.values()) for k in ("plants", "caught", "false")
    )
    return [
        Row(f"stale weights that are told, of {plants}", caught / plants, "x", ">= 1.0"),
        Row("false alarms at honest reloads", false, "", "<= 0"),
    ]


def _growth(it: dict[str, Any]) -> list[Row]:
    books = it["bookkeeping"]
    return [
        Row("iteration at 400 / at 10: time", it["ratio"], "x", "<= 1.05"),
        Row("memory of the flow an iteration", it["memory_mb_an_iteration"], "MiB", "<= 0.1"),
        *[
            Row(f"bookkeeping, {int(value):,} rollouts x 40 tokens", seconds, "s")
            for value, seconds in books["rollouts"].items()
        ],
        *[
            Row(f"bookkeeping, 1,024 rollouts x {int(value):,} tokens", seconds, "s")
            for value, seconds in books["tokens"].items()
        ],
    ]


BENCHMARKS: dict[str, Callable[[dict[str, Any]], list[Row]]] = {
    "rollout": _rollout,
    "update": _update,
    "logprobs": _logprobs,
    "iteration": _iteration,
    "prompts": _prompts,
    "verification": _verification,
    "evaluation": _evaluation,
    "orchestration": _orchestration,
    "bookkeeping": _bookkeeping,
    "startup": _startup,
    "proof": _proof,
    "growth": _growth,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument("--out", type=Path, default=ROOT / ".benchmarks")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    console, found = Console(), []
    table = Table("", "figure", "target", "", title="ours beside a peer or a limit")
    for name, rows_of in BENCHMARKS.items():
        file = arguments.out / f"{name}.json"
        if name in arguments.only:
            console.print(f"{name} …")
            words = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(file)]
            subprocess.run(words, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        if not file.is_file():
            continue
        table.add_section()
        for row in rows_of(json.loads(file.read_text())):
            verdict = {True: "met", False: "not met", None: ""}[row.met]
            table.add_row(row.what, f"{row.figure:.3g} {row.unit}", row.target, verdict)
            found.append({"benchmark": name, **asdict(row), "met": row.met})
    console.print(table)
    (arguments.out / "benchmarks.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
