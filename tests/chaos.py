"""Strike a real small run with random faults, and say what was lost.

    python -m tests.chaos --minutes 30 --seed 1

Kills, stops, damaged files, a full and a slow disk, a lost server, a clock that jumps: after each
the run is gone on with by `icpo check` and `icpo train`. Exit status 1 if anything was lost. The
seed draws the faults; what they strike is up to the machine's pace. `--stand-ins` needs no engine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

import faults
import ordeal


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=24, help="of each run (default: 24)")
    parser.add_argument("--prefect", type=float, default=0.2, help="share of starts with a server")
    parser.add_argument("--stand-ins", action="store_true", help="without vLLM and DeepSpeed")
    given = parser.parse_args()
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {line}", flush=True)

    def over() -> bool:
        return time.monotonic() - began > 60 * given.minutes

    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    say(f"seed {given.seed}, in {folder}")
    tally = ordeal.Tally(given.seed)
    with faults.place(folder, given.seed, 0.5 if given.stand_ins else 5.0) as place:
        try:
            if given.stand_ins:
                with ordeal.stand_ins(place, given.iterations) as trains:
                    whole = ordeal.undisturbed(trains, place)
                    ordeal.endure(trains, place, whole, tally, over, say)
            else:
                engines = ordeal.Engines(folder, given.iterations, given.prefect)
                whole = ordeal.undisturbed(engines, place)
                say(f"undisturbed: {len(whole)} stages")
                ordeal.endure(engines, place, whole, tally, over, say)
        finally:
            print(tally.table())
    return int(tally.lost.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
