"""What only a GPU shows, in one command: a table and JSON, written as results come.

    python -m benchmarks.gpu [--only PART ...] [--out DIR] [--minutes 12]
    python -m benchmarks.gpu --dry-run                # the parts, what each is for, and its limit

Each part runs in a process of its own with a limit, in the order of the list; DIR/gpu.json has
what is known after each of them, so a machine that is taken away leaves what was measured. Where
there is no GPU every part that can runs on the CPU, with a model and lengths to match: that proves
the kit, and no figure of a GPU. Exit status 1 if a part failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import gpu_parts as parts
from benchmarks.gpu_parts import GPU, ROOT, Figures, alone
from icpo_core.common.console import Console, Table
from icpo_core.common.files import read_json, write_json
from icpo_core.workers import devices


@dataclass(frozen=True)
class Part:
    """One thing that is looked at. `seconds`: its limit, on a GPU."""

    call: Callable[[Path], Figures]
    seconds: float

    @property
    def what(self) -> str:
        return " ".join((self.call.__doc__ or "").split())


PARTS = {
    "machine": Part(parts.machine, 30),
    "engine": Part(parts.engine, 120),
    "update": Part(parts.update, 120),
    "long": Part(parts.long, 150),
    "resume": Part(parts.resume, 150),
    "deterministic": Part(parts.deterministic, 120),
    "zero": Part(parts.zero, 105),
    "demo": Part(parts.demo, 105),
}
"""In the order in which they matter, should the machine be taken away."""
CPU_LIMIT = 1200.0
"""Seconds of a part where there is no GPU and nothing is in a hurry."""


@dataclass(frozen=True)
class Result:
    """What came of a part."""

    part: str
    status: str
    """`ok`, `failed`, `late` (past its limit) or `left out` (past the limit of all)."""
    seconds: float
    figures: Figures
    said: str = ""


def run_part(name: str, limit: float, out: Path) -> Result:
    """A part in a process group of its own, which is gone when this returns."""
    started = time.monotonic()
    file = out / f"{name}.json"
    file.unlink(missing_ok=True)
    log = out / f"{name}.log"
    words = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--out", str(file)]
    with log.open("w") as sink:
        process = subprocess.Popen(
            words, cwd=ROOT, env=alone(), stdout=sink, stderr=sink, start_new_session=True
        )
        try:
            status = "failed" if process.wait(limit) else "ok"
        except subprocess.TimeoutExpired:
            status = "late"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    figures = read_json(file) if file.is_file() else {}
    lines = log.read_text(errors="replace").strip().splitlines()
    said = "" if status == "ok" else (lines[-1][:300] if lines else "no word")
    return Result(name, status, time.monotonic() - started, figures, said)


def run_all(names: Sequence[str], out: Path, seconds: float, console: Console) -> list[Result]:
    """Each part in turn; what is known is on disk after each."""
    out.mkdir(parents=True, exist_ok=True)
    started, found = time.monotonic(), []
    for name in names:
        left = seconds - (time.monotonic() - started)
        limit = min(left, PARTS[name].seconds if GPU else CPU_LIMIT)
        late = Result(name, "left out", 0.0, {}, f"{seconds / 60:.0f} minutes are over")
        result = run_part(name, limit, out) if left > 0 else late
        found.append(result)
        facts = {"device": ", ".join(devices.query("name")) or "cpu", "minutes": seconds / 60}
        write_json(out / "gpu.json", facts | {"parts": [asdict(one) for one in found]})
        console.print(f"{name}: {result.status} ({result.seconds:.0f} s) {result.said}")
    return found


def flat(figures: Figures, before: str = "") -> dict[str, str]:
    """Figures by their path, as text."""
    shown: dict[str, str] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            shown |= flat(value, f"{before}{name}, ")
        elif value is not None:
            shown[before + name] = f"{value:.4g}" if isinstance(value, float) else str(value)
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=ROOT / ".benchmarks" / "gpu")
    parser.add_argument("--minutes", type=float, default=12.0 if GPU else 120.0, help="of all")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and end")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.part:
        with tempfile.TemporaryDirectory() as folder:
            write_json(arguments.out, PARTS[arguments.part].call(Path(folder)))
        return 0
    console = Console()
    names = [name for name in PARTS if name in arguments.only]
    if arguments.dry_run:
        plan = Table("part", "limit, s", "what", title=f"on {'GPU' if GPU else 'CPU'}")
        for name in names:
            limit = PARTS[name].seconds if GPU else CPU_LIMIT
            plan.add_row(name, f"{limit:.0f}", PARTS[name].what)
        console.print(plan)
        return 0
    # So that a part does not outlive whoever is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    found = run_all(names, arguments.out, 60 * arguments.minutes, console)
    table = Table("part", "figure", "", title=f"{', '.join(devices.query('name')) or 'CPU'}")
    for one in found:
        for name, value in flat(one.figures).items():
            table.add_row(one.part, name, value)
        table.add_section()
    console.print(table)
    console.print(f"{arguments.out / 'gpu.json'} has it all", highlight=False, soft_wrap=True)
    return int(any(one.status not in ("ok", "left out") for one in found))


if __name__ == "__main__":
    sys.exit(main())
