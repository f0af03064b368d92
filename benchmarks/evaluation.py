"""What an evaluation costs beyond the engine: the same samples by `icpo eval` and by bare vLLM.

    python -m benchmarks.evaluation [--samples 32] [--repeats 5]

Both have the small base model on the 300 held-out problems, 32 samples each, once bare (about 10
tokens a response, the least favourable case there is) and once with one worked example (about 40).
An evaluation is everything between the call and its figures: prompts, tokens, seeds, shards,
Parquet, verdicts, estimators and intervals. The engine is up and warm in both cases, and its start
is not counted. Repetitions differ in their seed, so that nothing is found again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from icpo_core import config, protocol
from icpo_core.benchmarks import Benchmark, read
from icpo_core.engine import Engine, Request
from icpo_core.evaluations import Evaluator
from icpo_core.protocol import Protocol
from icpo_core.seeds import stable_seed
from icpo_core.targets import Target, target

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


def evaluated(
    evaluator: Evaluator, who: Target, what: Benchmark, samples: int, shots: int, repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of each evaluation, and those that its engine sampled."""
    seconds, sampling = [], []
    for seed in range(repeats + 1):
        evaluator.follow(rules(samples, shots, seed))
        started = time.perf_counter()
        done = evaluator.evaluate(who, what)
        assert done.made == samples * len(what.problems)
        if seed:  # the first one warms up
            seconds.append(time.perf_counter() - started)
            sampling.append(done.manifest.facts["sampling_seconds"])
    return seconds, sampling


def bare(
    engine: Engine, asked: list[list[int]], ids: list[str], samples: int, repeats: int
) -> tuple[list[float], int]:
    """Seconds of `Engine.sample` on the same requests, and tokens of the last."""
    seconds, tokens = [], 0
    for seed in range(repeats + 1):
        requests = [
            Request(prompt, stable_seed("evaluate", seed, "heldout", name, index))
            for prompt, name in zip(asked, ids, strict=True)
            for index in range(samples)
        ]
        started = time.perf_counter()
        found = engine.sample(requests, 1.0, 64)
        if seed:
            seconds.append(time.perf_counter() - started)
        tokens = sum(len(one.response_ids) for one in found)
    return seconds, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    samples, repeats = arguments.samples, arguments.repeats
    who, what = target(str(SMALL / "base")), read("heldout", str(SMALL / "heldout.parquet"))
    ours, asked = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        first = rules(samples, 0, 0)
        with Evaluator(Path(folder), first, lambda what, done, all_: None) as evaluator:
            for shots in (0, 1):
                ours[shots] = evaluated(evaluator, who, what, samples, shots, repeats)
                evaluator.follow(rules(samples, shots, 1))
                asked[shots] = evaluator.questions(who, what)["prompt_ids"].to_pylist()
    engine = Engine(who.folder, first.engine, 0)
    ids = [one.id for one in what.problems]
    print(f"{len(ids)} problems x {samples} samples, median of {repeats}")
    for shots in (0, 1):
        raw, tokens = bare(engine, asked[shots], ids, samples, repeats)
        whole, sampling = ours[shots]
        theirs, mine = statistics.median(raw), statistics.median(whole)
        beyond = statistics.median(a - b for a, b in zip(whole, sampling, strict=True))
        print(
            f"shots {shots}: {tokens / len(ids) / samples:.1f} tokens a response; "
            f"bare engine {theirs:.2f} s ({min(raw):.2f} to {max(raw):.2f}), "
            f"evaluation {mine:.2f} s ({min(whole):.2f} to {max(whole):.2f}): "
            f"{mine / theirs - 1:+.1%}; beyond its own engine {beyond:.2f} s"
        )


if __name__ == "__main__":
    main()
