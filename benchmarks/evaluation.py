"""What an evaluation costs beyond the engine: the same samples by `icpo eval` and by bare vLLM.

    python -m benchmarks.evaluation [--samples 32] [--repeats 5] [--json FILE]

Both have the small base model on the 300 held-out problems, 32 samples each, once bare (about 10
tokens a response, the least favourable case there is) and once with one worked example (about 40).
An evaluation is everything between the call and its figures: prompts, tokens, seeds, shards,
Parquet, verdicts, estimators and intervals. The bare engine is `Engine.sample` on the same requests
in one call, in the same process, timed there. Engine and judges are up and warm, and their start is
not counted. The two take turns, and repetitions differ in their seed, so that nothing is found
again. On a busy machine wall times say little; the processor seconds of the evaluating process,
which does all that the engine's does not, say more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from icpo_core import config
from icpo_core.evaluation import protocol
from icpo_core.evaluation.benchmarks import Benchmark, read
from icpo_core.evaluation.evaluator import Evaluator
from icpo_core.evaluation.protocol import Protocol
from icpo_core.evaluation.target import Target
from icpo_core.run.evaluations import target
from icpo_core.store import tables
from icpo_core.workers.jobs import Sample

ROOT = Path(__file__).resolve().parent.parent
SMALL = ROOT / "data" / "small"


def rules(samples: int, shots: int, seed: int) -> Protocol:
    """The protocol of one repetition."""
    run = config.load(ROOT / "configs" / "demo.toml")
    changes = [
        f"benchmarks.heldout.samples={samples}", f"sampling.seed={seed}",
        f"prompting.shots={shots}", f"prompting.demonstrations={SMALL / 'demonstrations.parquet'}",
    ]  # fmt: skip
    return protocol.load("run", changes, run)


def bare(evaluator: Evaluator, who: Target, what: Benchmark, samples: int, folder: Path) -> float:
    """Seconds of `Engine.sample` on all requests of an evaluation."""
    asked = evaluator.questions(who, what)
    tables.write("questions", asked, folder / "asked.parquet")
    sampling = evaluator.protocol.sampling
    job = Sample(
        questions=folder / "asked.parquet",
        keys=[(at, index) for at in range(asked.num_rows) for index in range(samples)],
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        policy_version=who.version,
        out=folder / "bare.parquet",
        fingerprint="",
    )
    return evaluator.engines(who).call(job).sampling_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    samples, repeats = arguments.samples, arguments.repeats
    who, what = target(str(SMALL / "base")), read("heldout", str(SMALL / "heldout.parquet"))
    found = {}
    print(f"{len(what.problems)} problems x {samples} samples, {repeats} repetitions", flush=True)
    with (
        tempfile.TemporaryDirectory() as place,
        Evaluator(Path(place), rules(samples, 0, 0), lambda what, done, all_: None) as evaluator,
    ):
        for shots in (0, 1):
            raw, whole, beyond, own = [], [], [], []
            for seed in range(repeats + 1):
                evaluator.follow(rules(samples, shots, seed))
                alone = bare(evaluator, who, what, samples, Path(place))
                started, processor = time.perf_counter(), time.process_time()
                done = evaluator.evaluate(who, what)
                seconds = time.perf_counter() - started
                assert done.made == samples * len(what.problems)
                if seed:  # the first one warms up
                    raw.append(alone)
                    whole.append(seconds)
                    own.append(time.process_time() - processor)
                    beyond.append(seconds - done.manifest.facts["sampling_seconds"])
            ratio = statistics.median(whole) / statistics.median(raw)
            length = f"{done.figures['mean_tokens']:.0f} tokens a response"
            found[length] = {"ratio": ratio, "raw": raw, "whole": whole, "processor": own}
            print(
                f"{shots} examples, {length}: "
                f"bare engine {statistics.median(raw):.2f} s ({min(raw):.2f} to {max(raw):.2f}), "
                f"evaluation {statistics.median(whole):.2f} s ({min(whole):.2f} to "
                f"{max(whole):.2f}): {ratio - 1:+.1%}; beyond its own sampling "
                f"{statistics.median(beyond):.2f} s, processor {statistics.median(own):.2f} s",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
