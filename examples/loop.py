"""ICPO on one page: the whole method as a loop, on the library's own pieces.

    python examples/loop.py            # the small model of data/small, two cores, a few minutes

What this page leaves to the real loop (icpo_core/run/loop.py): manifests, resuming, retention,
checkpoints, metrics, off-policy sampling, Prefect. Nothing here is recorded, so nothing is resumed.

The terms are the paper's (arXiv 2510.26519):

    IEF   implicit expert forcing: some rollouts are sampled with worked examples in the prompt, and
          learned behind the bare prompt
    ERRS  expert region reject sampling: an expert rollout takes part only if its reward >= delta
    RS    annealed reward shaping: a bonus on accepted expert rollouts (preset icpo-rs)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pyarrow as pa

from icpo_core.config import Config, load, plugin_sources
from icpo_core.evaluation import benchmarks, protocol
from icpo_core.evaluation.samples import Shelf, order
from icpo_core.evaluation.scores import scores
from icpo_core.grading.rewards import Judging
from icpo_core.method.problems import read_problems
from icpo_core.method.prompts import PromptMaker
from icpo_core.method.selection import select
from icpo_core.method.verdicts import judging, verdicts
from icpo_core.run.run import Policy, Run
from icpo_core.store import tables
from icpo_core.workers.jobs import Restore, Rollout, Update
from icpo_core.workers.pool import WorkerPool

ROOT = Path(__file__).resolve().parent.parent


def train(config: Config, folder: Path) -> dict[int, float]:
    """Train for `run.iterations`; accuracy on the first benchmark before and after."""
    run, seed = Run.of(config, folder / "run"), config.run.seed
    maker = PromptMaker(
        read_problems(config.prompts.problems),
        read_problems(config.prompts.demonstrations or ""),
        [read_problems(path) for path in config.prompts.exclude],
        run.tokenizer,
        config.prompts,
        seed,
    )
    policy = Policy(run.base_model, run.base_version, None)
    state, accuracy = run.base_version, {}

    with (
        WorkerPool(config, run.base_model, folder / "logs") as workers,
        judging(config.verify, plugin_sources(config, "verify")) as judges,
    ):
        for t in range(1, config.run.iterations + 1):
            here = folder / f"{t:04d}"

            # 1. The next problems by a seeded cursor, bare and with worked examples (IEF).
            prompts = maker.batch(t)
            tables.write("prompts", prompts, here / "prompts.parquet")

            # 2. vLLM samples each group: N_on from the bare prompt, N_off from the expert prompt.
            #    It is proven to hold the weights that the last update wrote.
            workers.load(policy.folder, policy.version, policy.proof)
            if t == 1:
                accuracy[0] = evaluate(run, workers, judges, policy, here)
            rollout = config.rollout
            job = Rollout(
                prompts=here / "prompts.parquet",
                shard=0,
                shards=1,
                on_policy=rollout.on_policy,
                expert=rollout.expert,
                expert_source=rollout.expert_source,
                temperature=rollout.temperature,
                max_tokens=rollout.max_tokens,
                seed=seed,
                iteration=t,
                policy_version=policy.version,
                out=here / "rollout.parquet",
                fingerprint="",
            )
            workers.sample_all([job], lambda done, all_: None)
            rollouts = tables.read("rollout", job.out)

            # 3. A verdict on every rollout, in processes that can be killed.
            judged = verdicts(prompts, rollouts, judges)

            # 4. ERRS, RS and group advantages. From here on every row carries the bare prompt.
            chosen = select(
                prompts, rollouts, judged, config.select, t, seed, max_tokens=rollout.max_tokens
            )
            tables.write("batch", chosen.batch, here / "batch.parquet")

            # 5. The ICPO loss (icpo_core/method/loss.py) and an optimizer step, in DeepSpeed.
            reply = workers.train(
                Update(
                    iteration=t,
                    batch=[here / "batch.parquet"],
                    parent=state,
                    restore=Restore(folder=None, replay=[]),
                    state_id=f"after {t}",
                    out=here,
                )
            )
            state = f"after {t}"
            model = here / "model"
            policy = Policy(model, reply.policy_version, model / "probe.parquet")
            print(
                f"it {t}: reward {chosen.summary['reward/on_policy']:.2f}, "
                f"expert {chosen.summary['reward/expert']:.2f}, "
                f"gradient norm {reply.metrics['grad_norm']:.2f}"
            )

        workers.load(policy.folder, policy.version, policy.proof)
        accuracy[t] = evaluate(run, workers, judges, policy, folder / "after")
    return accuracy


def evaluate(run: Run, workers: WorkerPool, judges: Judging, policy: Policy, folder: Path) -> float:
    """Accuracy under the bare prompt on the run's first benchmark, as stage `evaluate` asks."""
    one = run.config.evaluate.benchmarks[0]
    rules = protocol.of_training(run.config)
    wanted = order(rules, benchmarks.read(one.name, one.problems), run.tokenizer, policy.version)
    folder.mkdir(parents=True, exist_ok=True)
    shelf = Shelf(folder, "loop", wanted, judges)
    done = shelf.collect(workers.sample_all, lambda done, all_: None)
    return float(scores(pa.concat_tables([done.samples]), wanted.questions)[one.name]["accuracy"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        config = load(ROOT / "configs" / "demo.toml", ["run.iterations=20", *sys.argv[1:]])
        for iteration, value in train(config, Path(name)).items():
            print(f"held-out accuracy after {iteration} iterations: {value:.1%}")
