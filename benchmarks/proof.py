"""Weights that an engine should not hold: does the comparison of tensors say so, and only then?

    python -m benchmarks.proof [--model FOLDER] [--trials 50] [--json FILE]

Small random models, or a real one (`make real` makes one), in float32 and bfloat16, with a tied
head and with one of their own, learn by steps of Adam's size. After each step the engine is given
the weights with something left behind in them: one tensor, a layer, or embedding and head as they
were a step before, or all weights as two steps before. It is compared with the right folder (a
plant: caught or not), then given the right weights, compared and asked for its logprobs (an honest
reload: a false alarm or not).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts import alone
from icpo_core.common.console import Console, Table
from icpo_core.common.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
SMALL = ROOT / "data" / "small" / "base"
PLANTS = ("tensor", "layer", "head", "two steps before")
RATE = 3e-5
"""By which a step moves each number, up or down."""
ROWS, LENGTH = 8, 48
Weights = dict[str, Any]


def model_of(folder: Path, tied: bool, seed: int, real: Path | None) -> Any:
    """The small model's shape with random weights in float32, or a real model; its files but the
    weights in `folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    source = real or SMALL
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "recipe.json"))
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(source)
    config.tie_word_embeddings = tied
    config.save_pretrained(folder)
    if real is None:
        return AutoModelForCausalLM.from_config(config)
    model = AutoModelForCausalLM.from_pretrained(real, config=config, dtype=torch.float32)
    if not tied:
        embedding = model.get_input_embeddings().weight
        model.lm_head.weight = torch.nn.Parameter(embedding.detach().clone())
    return model


def stale(kind: str, history: list[Weights], draw: random.Random) -> Weights:
    """The newest weights, with those of a step before in one place, or all of two before."""
    now, before = history[-1], history[-2]
    if kind == "two steps before":
        return history[-3]
    names = sorted(now)
    if kind == "tensor":
        left = {draw.choice(names)}
    elif kind == "head":
        left = {name for name in names if "embed_tokens" in name or "lm_head" in name}
    else:
        layers = {name.split(".")[2] for name in names if ".layers." in name}
        chosen = f".layers.{draw.choice(sorted(layers))}."
        left = {name for name in names if chosen in name}
    return {name: before[name] if name in left else value for name, value in now.items()}


def trials(dtype: str, tied: bool, number: int, out: Path, real: Path | None) -> None:
    """Plants and honest reloads of one model, in this process."""
    from icpo_core.config import EngineSection
    from icpo_core.engine.kinds import vllm

    vllm.keep_to_threads(0)
    import torch
    from safetensors.torch import save_file

    from icpo_core.common.files import model_digest
    from icpo_core.engine.kinds.base import require_alike
    from icpo_core.store import tables

    draw, found = random.Random(f"{dtype} {tied}"), dict.fromkeys(PLANTS, 0)
    counts = {"same": 0, "plants": 0, "caught": 0, "honest": 0, "false": 0}
    with tempfile.TemporaryDirectory() as name:
        right, wrong = Path(name) / "right", Path(name) / "wrong"
        model = model_of(right, tied, draw.randrange(1 << 30), real)
        shutil.copytree(right, wrong)
        master = {k: v.detach().float().clone() for k, v in model.state_dict().items()}
        if tied:
            del master["lm_head.weight"]
        noise = torch.Generator().manual_seed(draw.randrange(1 << 30))

        def step() -> Weights:
            for value in master.values():
                moved = torch.randint(0, 2, value.shape, generator=noise) * 2 - 1
                value += RATE * moved
            return {k: v.to(getattr(torch, dtype), copy=True) for k, v in master.items()}

        def publish(weights: Weights, folder: Path) -> str:
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
            return model_digest(folder)

        def probe(weights: Weights, file: Path) -> None:
            """What the trainer would say of the weights, in their dtype."""
            model.to(getattr(torch, dtype)).load_state_dict(weights, strict=not tied)
            ids = torch.randint(4, model.config.vocab_size, (ROWS, LENGTH), generator=noise)
            with torch.no_grad():
                told = model(ids).logits.float().log_softmax(-1)[:, :-1]
            taken = told.gather(2, ids[:, 1:, None])[..., 0]
            rows = [
                {"token_ids": one.tolist(), "logprobs": logprobs.tolist()}
                for one, logprobs in zip(ids, taken, strict=True)
            ]
            file.unlink(missing_ok=True)
            tables.write("probe", tables.table("probe", rows), file)

        history = [step(), step()]
        publish(history[-1], right)
        section = EngineSection(dtype=dtype, max_model_len=256, cpu_kv_cache_gib=1)  # type: ignore[arg-type]
        engine = vllm.VllmEngine(right, section, 0)
        for at in range(number):
            history = [*history[-2:], step()]
            kind, digest = PLANTS[at % len(PLANTS)], publish(history[-1], right)
            planted = stale(kind, history, draw)
            if all(torch.equal(value, history[-1][k]) for k, value in planted.items()):
                counts["same"] += 1  # rounded, the step changed nothing there
            else:
                counts["plants"] += 1
                engine.load(wrong, publish(planted, wrong))
                caught = bool(engine.compare(right).other)
                counts["caught"] += caught
                found[kind] += not caught
            probe(history[-1], right / "probe.parquet")
            counts["honest"] += 1
            try:
                engine.load(right, digest)
                require_alike(engine, right)
                engine.prove(right / "probe.parquet", None)
            except ValueError as error:
                print(error, flush=True)
                counts["false"] += 1
    write_json(out, {**counts, "missed": found})


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--one":
        dtype, head, number, out, *real = sys.argv[2:]
        model = Path(real[0]) if real else None
        trials(dtype, head == "tied", int(number), Path(out), model)
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, help="a real one, instead of small random ones")
    parser.add_argument("--trials", type=int, default=50, help="of each kind of model")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    table = Table("model", "plants", "caught", "no change", "honest reloads", "false alarms")
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float32", "bfloat16"):
            for head in ("tied", "untied"):
                out = Path(folder) / "one.json"
                words = ["--one", dtype, head, str(arguments.trials), str(out)]
                words += [str(arguments.model.resolve())] if arguments.model else []
                command = [sys.executable, "-m", "benchmarks.proof", *words]
                subprocess.run(command, cwd=ROOT, env=alone(), check=True, capture_output=True)
                one = found[f"{dtype}, {head}"] = read_json(out)
                keys = ("plants", "caught", "same", "honest", "false")
                table.add_row(f"{dtype}, {head}", *(str(one[key]) for key in keys))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
