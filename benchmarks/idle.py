"""Who waits for whom: idle shares of engines and trainer by `rollout.off_policy_steps`, simulated.

    python -m benchmarks.idle [--devices 8 64 1000] [--run RUN] [--json FILE]
    python -m benchmarks.idle --measured RUN …    # what a run's manifests say, instead

No engine and no trainer: seconds follow from costs and lengths. Costs are those of Qwen3-8B on H100
in docs/scale.md: decoding at 70% of the bandwidth and updates at an MFU of 40%, which are derived;
the flow's seconds a rollout, hashing and the disk's, which are measured. Devices are split:
engines get the eighths with which k = 2 is fastest. In column "shared" engines and trainer take
turns at all devices, on-policy, and one is idle where neither is at work.

The events of an engine are responses that begin and end: a step reads the weights and what is
cached of every sequence in flight. The events of the run are those of `icpo_core.run.loop`: an
iteration is sampled after the one before it, and begins when the update k before it begins; the
flow judges and selects when it is sampled and the update before is made. An engine is idle while
it has no sequence: one that has few counts as at work, so read the speed beside the shares.

Partial rollouts (`rollout.partial_tokens`): a response goes on in the next iteration after
`--budget` tokens, on any engine, which computes its cache anew; a group is learned from when all of
it has ended. A rollout is then up to k + longest / budget updates old when it is learned from.

Lengths are log-normal, or have the shape of real ones: the solutions of MATH's 7,500 training
problems, in characters, scaled to the same mean (no quantiles of DAPO's were found; the longest,
20,480 tokens, is its paper's, arXiv 2503.14476). `--run` takes those of a run's own rollouts.
Half of the variance (of the logarithm) is between problems, the rest within a group.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pyarrow.compute as pc

from icpo_core.common.console import Console, Table
from icpo_core.run import timeline
from icpo_core.run.run import Run

STEPS = (0, 1, 2, 4)
ITERATIONS, FIRST, LAST = 14, 4, 9
"""Simulated ones; what is counted lies between the ends of two updates, away from start and end."""
EIGHTHS = (4, 5, 6)
"""Of the devices, that engines may get."""
A_DEVICE, GROUP, PROMPT = 128, 8, 512
"""Rollouts a device and of a group, and tokens of a prompt, as in the paper's recipes."""
QUANTILES = {
    0.0: 0.07, 0.01: 0.17, 0.05: 0.28, 0.1: 0.38, 0.25: 0.6, 0.5: 1.0, 0.75: 1.69, 0.9: 2.73,
    0.95: 3.61, 0.99: 5.69, 0.995: 6.53, 0.999: 10.12, 1.0: 16.46,
}  # fmt: skip
"""Of MATH's solutions, as multiples of their median."""


@dataclass(frozen=True)
class Costs:
    """Seconds."""

    step: float = 15.3 * 2**30 / (3.35e12 * 0.7)
    """Of a decoding step: the weights are read."""
    cached: float = 147_456 / (3.35e12 * 0.7)
    """Of a token that a step reads from the cache."""
    computed: float = 2 * 8.2e9 / (989e12 * 0.4)
    """Of a token of a prompt, or of a response that goes on."""
    learned: float = 6 * 19e9 / (989e12 * 0.4)
    """Of a token that the trainer learns from, on one device."""
    flow: float = (79.07 - 50.05) / 16_384
    """Of a rollout in the flow's process, without its verdict, which is there by then."""
    published: float = 15.3 * (1 / 2 + 0.53 / 8)
    """Weights written at 2 GiB a second and hashed by 8 threads."""
    loaded: float = 15.3 / 2
    """Weights read."""


@dataclass
class Rollout:
    """A response that is not whole yet."""

    group: int
    left: int
    there: int = 0


def sampling_seconds(asked: Sequence[tuple[int, int]], slots: int, costs: Costs) -> float:
    """Seconds in which one engine samples all of `asked`: tokens before each response, which it
    computes first, and tokens of it. At most `slots` are in flight; the next takes a free one."""
    waiting, flight = list(asked)[::-1], list[tuple[int, int]]()
    clock, token, cached = 0.0, 0, 0
    while waiting or flight:
        while waiting and len(flight) < slots:
            before, tokens = waiting.pop()
            heappush(flight, (token + tokens, before - token))
            clock, cached = clock + costs.computed * before, cached + before
        steps, count = flight[0][0] - token, len(flight)
        read = steps * cached + count * steps * (steps - 1) // 2
        clock += steps * costs.step + costs.cached * read
        token, cached = token + steps, cached + steps * count
        while flight and flight[0][0] == token:
            cached -= heappop(flight)[1] + token
    return clock


@dataclass(frozen=True)
class Sampled:
    """An iteration, whenever it is sampled."""

    engines: list[float]
    """Seconds of each."""
    rollouts: int
    tokens: int
    """Of the groups that have ended, and so are learned from."""


def sampled(
    lengths: Sequence[Sequence[Sequence[int]]],
    engines: int,
    slots: int,
    costs: Costs,
    budget: int | None = None,
) -> Iterator[Sampled]:
    """Iterations of groups of `lengths`. budget: tokens of a rollout an iteration, if any."""
    open_: list[Rollout] = []
    missing: dict[int, int] = {}
    whole: dict[int, int] = {}
    for groups in lengths:
        shares = [open_[number::engines] for number in range(engines)]  # what goes on comes first
        for place, group in enumerate(groups):
            missing[len(whole)] = len(group)
            new = [Rollout(len(whole), length) for length in group]
            whole[len(whole)] = sum(group) + PROMPT * len(group)
            open_ += new
            shares[place % engines] += new
        seconds = [
            sampling_seconds(
                [(PROMPT + one.there, min(one.left, budget or one.left)) for one in share],
                slots,
                costs,
            )
            for share in shares
        ]
        ended = []
        for one in open_:
            now = min(one.left, budget or one.left)
            one.left, one.there = one.left - now, one.there + now
            if not one.left:
                missing[one.group] -= 1
                ended += [] if missing[one.group] else [one.group]
        open_ = [one for one in open_ if one.left]
        size = len(groups[0]) if groups else 0
        yield Sampled(seconds, len(ended) * size, sum(whole[group] for group in ended))


@dataclass(frozen=True)
class Shares:
    """What a run comes to."""

    engines: float
    """Share of the time that an engine has nothing to do, mean of all."""
    trainer: float
    seconds: float
    """An iteration."""
    learned: float
    """Rollouts a second."""


def scheduled(
    iterations: Sequence[Sampled],
    trainers: int,
    k: int,
    costs: Costs,
    between: tuple[int, int] = (FIRST, LAST),
) -> Shares:
    """Lay iterations out in time, with `rollout.off_policy_steps = k`."""
    begun: list[float] = []  # updates
    ended: list[float] = []
    at_work: list[tuple[float, float]] = []  # engines, all in one list
    free = 0.0
    for number, one in enumerate(iterations):
        if number and k:
            free = max(free, begun[max(0, number - k)])
        elif number:
            free = ended[-1]
        loaded = free + costs.loaded
        at_work += [(loaded, loaded + seconds) for seconds in one.engines]
        free = loaded + max(one.engines)
        begun.append(max(free, ended[-1] if ended else 0.0) + costs.flow * one.rollouts)
        ended.append(begun[-1] + costs.learned * one.tokens / trainers + costs.published)
    first, last = between
    since, until = ended[first], ended[last]
    busy = sum(max(0.0, min(end, until) - max(begin, since)) for begin, end in at_work)
    window = range(first + 1, last + 1)
    trained = sum(ended[number] - begun[number] for number in window)
    rollouts = sum(iterations[number].rollouts for number in window)
    return Shares(
        engines=1 - busy / len(iterations[0].engines) / (until - since),
        trainer=1 - trained / (until - since),
        seconds=(until - since) / len(window),
        learned=rollouts / (until - since),
    )


Shape = Callable[[np.ndarray], np.ndarray]
"""Lengths of some mean, by standard normal numbers."""


def log_normal(sigma: float) -> Shape:
    return lambda z: np.exp(sigma * z - sigma**2 / 2)


def with_quantiles(quantiles: dict[float, float]) -> Shape:
    """Between the given ones the logarithm is drawn as if by a normal distribution."""
    inside = [min(max(q, 1e-5), 1 - 1e-5) for q in quantiles]
    at = [NormalDist().inv_cdf(q) for q in inside]
    logs = np.log(list(quantiles.values()))
    even = np.interp([NormalDist().inv_cdf(q) for q in np.arange(0.5, 1000) / 1000], at, logs)
    mean = np.exp(even).mean()
    return lambda z: np.exp(np.interp(z, at, logs)) / mean


def of_run(root: Path) -> dict[float, float]:
    """Quantiles of a run's stored responses."""
    run, counts = Run.read(root), []
    for number in run.paths.iterations():
        if run.store.finished("rollout", number):
            rows = run.store.table("rollout", number, "rollout", ["response_ids"])
            counts.append(np.asarray(pc.list_value_length(rows["response_ids"])))
    if not counts:
        raise ValueError(f"{root}: has no rollouts yet")
    found = np.concatenate(counts)
    return {q: max(1.0, float(np.quantile(found, q))) for q in QUANTILES}


def drawn(shape: Shape, mean: float, longest: int, groups: int, seed: int) -> list[list[list[int]]]:
    """Lengths of `ITERATIONS` iterations, by group."""
    draw = np.random.default_rng(seed)
    size = ITERATIONS, groups, GROUP
    z = np.sqrt(0.5) * (draw.standard_normal((*size[:2], 1)) + draw.standard_normal(size))
    lengths = np.clip(np.rint(mean * shape(z)), 1, longest).astype(int)
    found: list[list[list[int]]] = lengths.tolist()
    return found


def measured(root: Path, first: int = 4) -> Shares:
    """Of a stored run, by its manifests: from the end of update `first` on, to the end of the last
    one that an iteration was sampled beside."""
    run = Run.read(root)
    last = run.config.run.iterations - 1 - run.config.rollout.off_policy_steps
    updates = {n: run.store.finished("update", n) for n in range(first, last + 1)}
    ends = {n: one.started + one.seconds for n, one in updates.items() if one is not None}
    if len(ends) < 2 or len(ends) < len(updates):
        raise ValueError(f"{root}: has too few iterations; train it to its end, with 12 or more")
    since, until = ends[first], ends[last]

    def within(begin: float, seconds: float) -> float:
        return max(0.0, min(begin + seconds, until) - max(begin, since))

    sampled_, lanes, rollouts = 0.0, set(), 0
    for number in run.paths.iterations():
        stage = run.store.finished("rollout", number)
        for span in timeline.within(stage) if stage else []:
            if span.lane.startswith("engine "):
                lanes.add(span.lane)
                sampled_ += within(span.started, span.seconds)
        rollouts += stage.rows if stage and first < number <= last else 0
    trained = sum(within(one.started, one.seconds) for one in updates.values() if one)
    return Shares(
        engines=1 - sampled_ / len(lanes) / (until - since),
        trainer=1 - trained / (until - since),
        seconds=(until - since) / (last - first),
        learned=rollouts / (until - since),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 64, 1000])
    parser.add_argument(
        "--mean", type=float, default=4096.0, help="tokens, before the longest cuts"
    )
    parser.add_argument("--longest", type=int, default=20_480, help="tokens")
    parser.add_argument("--sigma", type=float, default=1.0, help="of the log-normal's logarithm")
    parser.add_argument("--budget", type=int, default=5120, help="tokens, of partial rollouts")
    parser.add_argument("--cache", type=int, default=400_000, help="tokens that an engine caches")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="take the lengths from its rollouts")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--measured", type=Path, nargs="+", metavar="RUN", help="only show these")
    arguments = parser.parse_args()
    for root in arguments.measured or []:
        one = measured(root)
        print(
            f"{root.name}: engines idle {one.engines:.0%}, trainer idle {one.trainer:.0%}, "
            f"{one.seconds:.2f} s an iteration"
        )
    if arguments.measured:
        return
    costs = Costs()
    shapes = {"log-normal": log_normal(arguments.sigma), "MATH": with_quantiles(QUANTILES)}
    if arguments.run:
        shapes = {arguments.run.name: with_quantiles(of_run(arguments.run))}
    columns = "lengths", "devices", "partial", "shared", "engines", *(f"k = {k}" for k in STEPS)
    table, found = Table(*columns), []
    slots = int(arguments.cache / (PROMPT + arguments.mean / 2))
    for name, shape in shapes.items():
        for devices in arguments.devices:
            groups = devices * A_DEVICE // GROUP
            lengths = drawn(shape, arguments.mean, arguments.longest, groups, arguments.seed)
            whole = 0.0
            for budget in (None, arguments.budget):
                made = list(sampled(lengths, devices, slots, costs, budget))
                shared = scheduled(made, devices, 0, costs)
                whole = whole or shared.learned
                split: list[tuple[int, dict[int, Shares]]] = []
                for engines in [devices * eighths // 8 for eighths in EIGHTHS]:
                    made = list(sampled(lengths, engines, slots, costs, budget))
                    by = {k: scheduled(made, devices - engines, k, costs) for k in STEPS}
                    split.append((engines, by))
                engines, by_k = max(split, key=lambda one: one[1][2].learned)
                idle = shared.engines + shared.trainer - 1
                cells = [f"{idle:.0%}, {shared.learned / whole:.2f}", f"{engines:,}"]
                cells += [
                    f"{one.engines:.0%}, {one.trainer:.0%}, {one.learned / whole:.2f}"
                    for one in by_k.values()
                ]
                table.add_row(name, f"{devices:,}", "yes" if budget else "no", *cells)
                about = {"lengths": name, "devices": devices, "budget": budget}
                found += [
                    {**about, "k": k, "split": engines, **asdict(one)}
                    for k, one in [("shared", shared), *by_k.items()]
                ]
    console = Console()
    console.print(table)
    console.print(
        "idle: devices, or engines and trainer. Last, rollouts a second: 1 is shared, not partial."
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
