"""A real language model, `configs/real-cpu.toml`: each part beside its peer, in one sitting.

    make real                     # model and problems; its run need not end
    python -m benchmarks.real [--model FOLDER] [--only iteration rollout update] [--iterations 4]
                              [--rounds 5] [--out FOLDER]

The rollout beside `LLM.generate` (`benchmarks.rollout`, 6 + 2 responses), the update of a stored
batch beside a loop by hand and TRL's (`benchmarks.update`), an iteration beside TRL's step: the
same 8 prompts x 8 responses of at most 32 tokens, float32, no KL, a reward that any text may get,
so that every row has a signal, and a learning rate at which the model stays as it is. TRL generates
with transformers. Ours is `icpo train --plain`: vLLM, every stage persisted. Each part is written
to the folder as it comes; `--only` measures some again, and takes the others from there. Ours and
the loops by hand are in memory together, in four and eight micro-batches: 12 GB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import iteration
from benchmarks.gpu_parts import COIN, alone
from benchmarks.update import PLAIN_TRL
from icpo_core.common.console import Console, Table
from icpo_core.config import load
from icpo_core.store.paths import RunPaths

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "real-cpu.toml"
WARM = 1
BATCH = "batch.parquet"
TARGET_ROLLOUT = "rollout / LLM.generate, n = 8, no seeds, no logprobs: tokens a second"
TARGETS = {
    TARGET_ROLLOUT: ">= 0.97",
    "update / TRL's: speed": ">= 1.2",
    "iteration / TRL's step: time": "<= 0.7",
    "share outside engine and optimizer": "<= 0.03",
}


def coin(text: str, _: str) -> float:
    """As `COIN`, for TRL."""
    return float(sum(map(ord, text)) % 2)


def ours(model: Path, iterations: int, folder: Path) -> dict[str, Any]:
    """A run of the same work as TRL's steps; what its iterations took."""
    (folder / "coin.py").write_text(COIN)
    words = [sys.executable, "-m", "icpo", "train", str(CONFIG), "--plain", "--run", "same"]
    for change in [
        f"model.path={model}", f"run.directory={folder}", f"run.iterations={iterations}",
        "preset=grpo", "rollout.on_policy=8", "rollout.expert=0", "prompts.k=0",
        f"verify.verifier={folder}/coin.py:coin", "evaluate.every=0",
        f"update.learning_rate={iteration.RATE}", "checkpoint.state_every=1000",
    ]:  # fmt: skip
        words += ["-o", change]
    subprocess.run(words, check=True, cwd=ROOT, env=alone(), stdout=subprocess.DEVNULL)
    return iteration.measure(RunPaths(folder / "same"), iterations, WARM)


def theirs(model: Path, steps: int) -> dict[str, list[float]]:
    """TRL's steps on the same prompts, in this process."""
    from icpo_core.method.problems import read_problems
    from icpo_core.method.templates import Template
    from icpo_core.models.folder import load_tokenizer

    config = load(CONFIG, [f"model.path={model}"])
    template = Template(load_tokenizer(model), config.prompts)
    problems = read_problems(config.prompts.problems)
    prompts = [template.render(text) for text in problems["problem"].to_pylist()]
    settings = {
        "per_device_train_batch_size": config.prompts.batch_size * iteration.GROUP,
        "max_completion_length": config.rollout.max_tokens,
        "temperature": config.rollout.temperature,
        **PLAIN_TRL,
    }
    return iteration.trl_steps(
        steps, model, settings, (prompts, problems["answer"].to_pylist()), coin
    )


def measured(module: str, out: Path, *words: str) -> dict[str, Any]:
    """Figures of another benchmark, in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--json", str(out), *words]
    subprocess.run(command, check=True, cwd=ROOT, env=alone(), stdout=subprocess.DEVNULL)
    return dict(json.loads(out.read_text()))


def of_iteration(model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Ours, then TRL's in a process of its own; the last batch is kept for the update."""
    steps = arguments.iterations
    with tempfile.TemporaryDirectory() as name:
        mine = ours(model, steps, Path(name))
        batch = RunPaths(Path(name) / "same").stage("select", steps) / "batch.parquet"
        shutil.copyfile(batch, arguments.out / BATCH)
    words = [sys.executable, "-m", "benchmarks.real", "--only-trl", "--iterations", str(steps)]
    words += ["--model", str(model)]
    done = subprocess.run(words, check=True, cwd=ROOT, env=alone(), stdout=subprocess.PIPE)
    trl = json.loads(done.stdout.splitlines()[-1])
    return {"ours": mine, "trl": trl, "ratio": mine["seconds"] / median(trl["seconds"][WARM:])}


def of_rollout(model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    return measured(
        "rollout", arguments.out / "rollout.json", "--config", str(CONFIG), "--prompts", "8",
        "--rounds", str(arguments.rounds), "-o", f"model.path={model}",
        "-o", "rollout.on_policy=6", "-o", "rollout.expert=2",
    )  # fmt: skip


def of_update(model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    return measured(
        "update", arguments.out / "update.json", "--model", str(model),
        "--batch", str(arguments.out / BATCH), "--rounds", str(arguments.rounds),
        "--parts", "4", "8",
    )  # fmt: skip


PARTS = {"iteration": of_iteration, "rollout": of_rollout, "update": of_update}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "real" / "model")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / ".benchmarks" / "real")
    parser.add_argument("--only-trl", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model = arguments.model.resolve()
    if arguments.only_trl:
        print(json.dumps(theirs(model, arguments.iterations)))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, part in PARTS.items():
        file = arguments.out / f"{name}.json"
        if name in arguments.only:
            file.write_text(json.dumps(part(model, arguments), indent=2) + "\n")
        if file.is_file():
            found[name] = json.loads(file.read_text())
    figures: dict[str, float] = {}
    if it := found.get("rollout"):
        figures["rollout / LLM.generate, same requests: tokens a second"] = it["ratios"][
            "LLM.generate, same requests"
        ]
        figures[TARGET_ROLLOUT] = it["ratios"]["LLM.generate, n = 8, unseeded"]
    if it := found.get("update"):
        figures["update / loop by hand: speed"] = it["ratios"]["by hand"][0]
        figures["update / TRL's: speed"] = it["ratios"]["TRL"][0]
    if it := found.get("iteration"):
        figures["iteration / TRL's step: time"] = it["ratio"]
        figures["share outside engine and optimizer"] = it["ours"]["outside"]
    table = Table("", "figure", "target", title=f"{model.name}, two cores or what there is")
    for what, figure in figures.items():
        table.add_row(what, f"{figure:.3g}", TARGETS.get(what, ""))
    Console().print(table)


if __name__ == "__main__":
    main()
