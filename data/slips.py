"""A second small problem family, with a base model that is taught from the shipped one.

    python -m icpo.data.slips --out data/small/slips

**slips**: the problems of `icpo.data.arithmetic`, and a model whose worked solutions slip. It was
taught on solutions of which each step is wrong with probability `SLIP`, and goes on from the wrong
digit; so a third of its in-context answers are wrong, and reject sampling has work. Its data are
those of `data/small`. Like the shipped model it answers the bare prompt directly, save for a very
few worked solutions.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from icpo.data import arithmetic
from icpo.data.base_model import BATCH, Phase, make_rows, make_tokenizer, sample, train

BASE = Path(__file__).resolve().parent / "small" / "base"
SLIP = 0.12
PHASE = Phase(200, 5e-4, 0.001)
Pair = tuple[str, str]
"""Prompt and answer."""


def chain(digits: list[int], operators: str, rng: random.Random | None = None) -> Iterator[str]:
    """The steps and the box; with `rng` each step slips with probability `SLIP`."""
    left = digits[0]
    for operator, right in zip(operators, digits[1:], strict=True):
        made = {"+": left + right, "-": left - right, "*": left * right}[operator] % 10
        if rng is not None and rng.random() < SLIP:
            made = (made + 1 + int(rng.random() * 9)) % 10
        yield f"{left}{operator}{right}={made};"
        left = made
    yield f"\\boxed{{{left}}}"


def slipping(problem: str, rng: random.Random) -> str:
    """A worked solution of an arithmetic problem, with slips."""
    return "".join(chain([int(one) for one in problem[::2]], problem[1::2], rng))


def _problem(rng: random.Random) -> str:
    """Any arithmetic problem: one in 87,000 is of a shipped set."""
    return arithmetic.problem_number(int(rng.random() * arithmetic.FAMILY_SIZE))


def one_shot_row(rng: random.Random) -> Pair:
    example, question = _problem(rng), _problem(rng)
    return arithmetic.one_shot_prompt(example, question), slipping(question, rng)


def zero_shot_row(rng: random.Random, worked: bool) -> Pair:
    problem = _problem(rng)
    answer = slipping(problem, rng) if worked else arithmetic.direct_answer(problem)
    return arithmetic.bare_prompt(problem), answer


def rows(seed: int) -> tuple[list[Pair], list[Pair]]:
    """One-shot and zero-shot rows of a whole training."""
    rng = random.Random(seed)
    count, every = PHASE.steps * BATCH // 2, round(1 / PHASE.worked_share)
    one_shot = [one_shot_row(rng) for _ in range(count)]
    return one_shot, [zero_shot_row(rng, at % every == every // 2) for at in range(count)]


def measure(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int | None = None
) -> dict[str, float]:
    """Share of right answers, and of worked ones, to the first `count` held-out problems at
    temperature 1, bare and one-shot."""
    sets = arithmetic.problem_sets()
    heldout = sets["heldout"][:count]
    examples = sets["demonstrations"][: len(heldout)]
    prompts = {
        "zero_shot": [arithmetic.bare_prompt(one) for one in heldout],
        "one_shot": [
            arithmetic.one_shot_prompt(example, one)
            for example, one in zip(examples, heldout, strict=True)
        ],
    }
    figures = {}
    for key, texts in prompts.items():
        answers = sample(model, tokenizer, texts)
        right = [
            answer.endswith(arithmetic.direct_answer(problem))
            for answer, problem in zip(answers, heldout, strict=True)
        ]
        figures[f"{key}_accuracy"] = sum(right) / len(right)
        figures[f"{key}_worked"] = sum("=" in answer for answer in answers) / len(answers)
    return figures


def main() -> None:
    """Teach, save, measure what was saved, and write the recipe beside it."""
    parser = argparse.ArgumentParser(description="Make the base model of the family slips.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    started = time.monotonic()
    tokenizer = make_tokenizer()
    model = Qwen3ForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    one_shot, zero_shot = rows(arguments.seed)
    train(model, PHASE, make_rows(tokenizer, one_shot), make_rows(tokenizer, zero_shot))
    folder = arguments.out / "base"
    folder.mkdir(parents=True, exist_ok=True)
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    saved = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    figures = measure(saved.eval(), tokenizer)
    recipe = {
        "figures": figures, "seed": arguments.seed, "threads": arguments.threads, "batch": BATCH,
        "steps": PHASE.steps, "peak_rate": PHASE.peak_rate,
        "worked_share": PHASE.worked_share, "seconds": round(time.monotonic() - started),
        "torch": torch.__version__,
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name} {value:.4f}")


if __name__ == "__main__":
    main()
