"""A rollout shard, Parquet included, beside plain `LLM.generate` on the same prompts.

    python -m benchmarks.rollout [--prompts 16] [--shots] [--rounds 31] [--config FILE] [-o K=V]
                                 [--json FILE]

Ours is a job of the engine's process as a run gives it: prompts read from Parquet, a seed a
rollout, logprobs, texts, Parquet written and synced. `LLM.generate` gets the same token ids on the
same engine and nothing is kept of what it returns: once with the same seeds and logprobs, once as
people write it (n = 8, no seeds, no logprobs). They take turns in one process; every round has
other seeds. Tokens a second are of the tokens that each sampled itself.

Weight sync is what follows an update: other weights read, digest checked, reloaded in place,
prefixes forgotten, eight sequences scored as the proof does; beside it the start of an engine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from icpo_core.common.console import Console, Table
from icpo_core.common.files import model_digest
from icpo_core.config import Config, load
from icpo_core.engine.jobs import rollout_shard
from icpo_core.engine.kinds.vllm import VllmEngine, keep_to_threads
from icpo_core.models import folder as models
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.store import tables
from icpo_core.workers.jobs import Rollout

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "configs" / "demo.toml"
WEIGHTS = "model.safetensors"
WARM = 2


def prompts_of(config: Config) -> Path:
    """`prompts.parquet` of the first iteration, by the stage itself."""
    with Session(Run.of(config)) as session:
        perform(session, "prompts", 1)
        return session.run.store.file("prompts", 1, "prompts.parquet")


def ours(
    engine: VllmEngine,
    tokenizer: Any,
    config: Config,
    file: Path,
    seed: int,
    seeding: Literal["rollout", "part"] = "rollout",
) -> int:
    settings = config.rollout
    job = Rollout(
        prompts=file,
        shard=0,
        shards=1,
        on_policy=settings.on_policy,
        expert=settings.expert,
        expert_source=settings.expert_source,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        seed=seed,
        seeding=seeding,
        iteration=1,
        policy_version=engine.policy_version,
        out=file.parent / f"part-{seed}.parquet",
        fingerprint="",
    )
    return rollout_shard(engine, tokenizer, job, lambda done, all_: None).tokens


def plain(engine: VllmEngine, config: Config, file: Path, seed: int, as_written: bool) -> int:
    """`LLM.generate` on the same prompts; tokens it sampled."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    settings = config.rollout
    shared: dict[str, Any] = {
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "detokenize": False,
        "stop_token_ids": engine.eos_ids,
        "ignore_eos": True,
    }
    rows = tables.read("prompts", file).to_pylist()
    prompts, params = [], []
    for place, row in enumerate(rows):
        for kind, count in (("policy", settings.on_policy), ("expert", settings.expert)):
            ids = TokensPrompt(prompt_token_ids=row[f"{kind}_prompt_ids"])
            if as_written:
                prompts.append(ids)
                params.append(SamplingParams(n=count, **shared))
                continue
            for index in range(count):
                own = (seed << 20) + (place << 8) + index
                prompts.append(ids)
                params.append(SamplingParams(seed=own, logprobs=0, flat_logprobs=True, **shared))
    outputs = engine.llm.generate(prompts, params, use_tqdm=False)
    return sum(len(one.token_ids) for output in outputs for one in output.outputs)


def sync(engine: VllmEngine, model: Path, folder: Path) -> float:
    """Median seconds of changing weights in place and scoring a probe's worth of sequences."""
    from safetensors.torch import load_file, save_file

    other = folder / "other"
    shutil.copytree(model, other)
    tensors = {name: value * 1.1 for name, value in load_file(model / WEIGHTS).items()}
    save_file(tensors, other / WEIGHTS, metadata={"format": "pt"})
    seconds = []
    for turn in range(6):
        chosen = (other, model)[turn % 2]
        version = model_digest(chosen)
        started = time.perf_counter()
        assert engine.load(chosen, version)
        engine.score([[5 + place] * 60 for place in range(8)])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[WARM:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--shots", action="store_true", help="all rollouts with an example: longer")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--config", type=Path, default=DEMO)
    parser.add_argument("-o", dest="changes", action="append", default=[], help="of the config")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    keep_to_threads(0)
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"run.directory={folder}", f"prompts.batch_size={arguments.prompts}"]
        changes += ["rollout.on_policy=1", "rollout.expert=7"] if arguments.shots else []
        config = load(arguments.config, [*changes, *arguments.changes], "rollout")
        file = prompts_of(config)
        from transformers import AutoTokenizer

        model = models.resolve(config.model.path)
        started = time.perf_counter()
        engine = VllmEngine(model, config.rollout.engine, 0)
        engine_start = time.perf_counter() - started
        tokenizer = AutoTokenizer.from_pretrained(model)
        works: dict[str, Callable[[int], int]] = {
            "ours": lambda seed: ours(engine, tokenizer, config, file, seed),
            "ours, a seed a part": lambda seed: ours(engine, tokenizer, config, file, seed, "part"),
            "LLM.generate, same requests": lambda seed: plain(engine, config, file, seed, False),
            "LLM.generate, n = 8, unseeded": lambda seed: plain(engine, config, file, seed, True),
        }
        found: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(arguments.rounds + WARM):
            for name, work in works.items():
                engine.llm.reset_prefix_cache()
                started = time.perf_counter()
                tokens = work(turn)
                if turn >= WARM:
                    found[name].append(tokens / (time.perf_counter() - started))
        synced = sync(engine, model, Path(folder))
    speeds = {name: statistics.median(values) for name, values in found.items()}
    ratios = {name: speeds["ours"] / speed for name, speed in speeds.items() if name != "ours"}
    of_parts = {name: speeds["ours, a seed a part"] / speed for name, speed in speeds.items()}
    table = Table(title=f"{arguments.prompts} x 8 rollouts, medians of {arguments.rounds}")
    for column in ("", "tokens a second", "ours is", "with a seed a part"):
        table.add_column(column, justify="right" if column else "left")
    for name, speed in speeds.items():
        ours_is = f"{ratios[name]:.3f}" if name in ratios else ""
        table.add_row(name, f"{speed:,.0f}", ours_is, f"{of_parts[name]:.3f}")
    table.add_section()
    table.add_row("weight sync", f"{synced:.3f} s", f"{synced / engine_start:.3f} of a start")
    Console().print(table)
    if arguments.json:
        figures = {
            "tokens_per_second": speeds,
            "ratios": ratios,
            "ratios_part": of_parts,
            "rounds": found,
        }
        figures |= {"weight_sync": synced, "engine_start": engine_start}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
