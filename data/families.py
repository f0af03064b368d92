"""Two more small problem families, each with a base model that is taught from the shipped one.

    python -m icpo.data.families slips --out data/slips
    python -m icpo.data.families symbols --out data/symbols

**slips**: the problems of `icpo.data.arithmetic`, and a model whose worked solutions slip. It was
taught on solutions of which each step is wrong with probability `SLIP`, and goes on from the wrong
digit; so a third of its in-context answers are wrong, and reject sampling has work. Its data
are those of `data/small`; under the bare prompt it answers as the shipped model does.

**symbols**: problems of four letters, such as ``a+c*b-b``, evaluated as those of `arithmetic`.
What a letter stands for is nowhere in the question: a worked solution begins with it.

    worked solution   a=7;c=9;b=2;b=2;7+9=6;6*2=2;2-2=0;\\boxed{0}

The model was taught with another meaning in every row, so it reads the meaning off a demonstration
and cannot know it from the question. In the shipped problems it is always `MEANING`: that is what
demonstrations carry and the policy does not know. A demonstration has each letter once.

Like the shipped model both answer the bare prompt directly, save for a very few worked solutions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from icpo.data import arithmetic
from icpo.data.base_model import BATCH, Phase, make_rows, make_tokenizer, sample, train

BASE = Path(__file__).resolve().parent / "small" / "base"
SLIP = 0.12
LETTERS = "abcd"
MEANING = dict(zip(LETTERS, (7, 2, 9, 4), strict=True))
SET_SIZES = {"train": 1000, "demonstrations": 200, "heldout": 300}

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


def meant(problem: str, meaning: dict[str, int]) -> str:
    """A worked solution of a problem of letters."""
    said = "".join(f"{letter}={meaning[letter]};" for letter in problem[::2])
    return said + "".join(chain([meaning[letter] for letter in problem[::2]], problem[1::2]))


def boxed(solution: str) -> str:
    return solution[solution.index("\\") :]


def letters(rng: random.Random, once: bool = False) -> str:
    """A problem of four letters; `once`: each of them."""
    order = sorted(LETTERS, key=lambda _: rng.random())
    if not once:
        order = [LETTERS[int(rng.random() * len(LETTERS))] for _ in order]
    signs = [arithmetic.OPERATORS[int(rng.random() * 3)] for _ in order[1:]]
    return "".join(a + b for a, b in zip(order, [*signs, ""], strict=True))


def shown(problem: str, solution: str, question: str) -> str:
    return f"Q:{problem}\nA:{solution}\n\n{arithmetic.bare_prompt(question)}"


@dataclass(frozen=True)
class Family:
    """How rows of a family are made, and for how long they are learned from."""

    phase: Phase
    one_shot: Callable[[random.Random], Pair]
    zero_shot: Callable[[random.Random, bool], Pair]
    """With whether it is worked."""


def _problem(rng: random.Random) -> str:
    """An arithmetic problem of no shipped set: those are 2,800 of 243 million."""
    return arithmetic.problem_number(int(rng.random() * arithmetic.FAMILY_SIZE))


def _slips_one_shot(rng: random.Random) -> Pair:
    example, question = _problem(rng), _problem(rng)
    return arithmetic.one_shot_prompt(example, question), slipping(question, rng)


def _slips_zero_shot(rng: random.Random, worked: bool) -> Pair:
    problem = _problem(rng)
    answer = slipping(problem, rng) if worked else arithmetic.direct_answer(problem)
    return arithmetic.bare_prompt(problem), answer


def _meaning(rng: random.Random) -> dict[str, int]:
    return {letter: int(rng.random() * 10) for letter in LETTERS}


def _symbols_one_shot(rng: random.Random) -> Pair:
    meaning, example, question = _meaning(rng), letters(rng, once=True), letters(rng)
    return shown(example, meant(example, meaning), question), meant(question, meaning)


def _symbols_zero_shot(rng: random.Random, worked: bool) -> Pair:
    problem = letters(rng)
    answer = meant(problem, _meaning(rng))
    return arithmetic.bare_prompt(problem), answer if worked else boxed(answer)


FAMILIES = {
    "slips": Family(Phase(200, 5e-4, 0.001), _slips_one_shot, _slips_zero_shot),
    "symbols": Family(Phase(300, 2e-3, 0.002), _symbols_one_shot, _symbols_zero_shot),
}


def problem_sets(seed: int = arithmetic.SEED) -> dict[str, list[str]]:
    """The problems of letters, disjoint sets; each demonstration has every letter."""
    rng = random.Random(seed)
    taken: set[str] = set()
    sets: dict[str, list[str]] = {}
    for name, size in SET_SIZES.items():
        mine: list[str] = []
        while len(mine) < size:
            problem = letters(rng, once=name == "demonstrations")
            if problem not in taken:
                taken.add(problem)
                mine.append(problem)
        sets[name] = mine
    return sets


def make_tables() -> dict[str, pa.Table]:
    """The three sets of letters; only the held-out set lacks solutions."""
    return {
        name: pa.table(
            {
                "id": [hashlib.sha256(one.encode()).hexdigest()[:16] for one in problems],
                "problem": problems,
                "answer": [boxed(meant(one, MEANING))[7:-1] for one in problems],
                "solution": [
                    None if name == "heldout" else meant(one, MEANING) for one in problems
                ],
                "source": ["symbols"] * len(problems),
            },
            schema=arithmetic.SCHEMA,
        )
        for name, problems in problem_sets().items()
    }


def rows(family: Family, seed: int) -> tuple[list[Pair], list[Pair]]:
    """One-shot and zero-shot rows of a whole training."""
    rng = random.Random(seed)
    count = family.phase.steps * BATCH // 2
    every = round(1 / family.phase.worked_share)
    one_shot = [family.one_shot(rng) for _ in range(count)]
    return one_shot, [family.zero_shot(rng, at % every == every // 2) for at in range(count)]


def measure(
    name: str, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> dict[str, float]:
    """Share of right answers to the held-out problems at temperature 1, bare and one-shot."""
    if name == "slips":
        sets = arithmetic.problem_sets()
        heldout, examples = sets["heldout"], sets["demonstrations"]
        solutions = {one: arithmetic.worked_solution(one) for one in [*heldout, *examples]}
    else:
        sets = problem_sets()
        heldout, examples = sets["heldout"], [*sets["demonstrations"], *sets["demonstrations"]]
        solutions = {one: meant(one, MEANING) for one in [*heldout, *examples]}
    prompts = {
        "zero_shot_accuracy": [arithmetic.bare_prompt(one) for one in heldout],
        "one_shot_accuracy": [
            shown(example, solutions[example], one)
            for example, one in zip(examples, heldout, strict=False)
        ],
    }
    figures = {}
    for key, texts in prompts.items():
        answers = sample(model, tokenizer, texts)
        right = [a.endswith(boxed(solutions[p])) for a, p in zip(answers, heldout, strict=True)]
        figures[key] = sum(right) / len(right)
        figures[key.replace("accuracy", "worked")] = sum("=" in a for a in answers) / len(answers)
    return figures


def main() -> None:
    """Teach, save, measure what was saved; write the data of letters, and the recipe."""
    parser = argparse.ArgumentParser(description="Make a small problem family's base model.")
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--out", type=Path, required=True, help="folder of the family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    started, family = time.monotonic(), FAMILIES[arguments.family]
    tokenizer = make_tokenizer()
    model = Qwen3ForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    one_shot, zero_shot = rows(family, arguments.seed)
    train(model, family.phase, make_rows(tokenizer, one_shot), make_rows(tokenizer, zero_shot))
    folder = arguments.out / "base"
    folder.mkdir(parents=True, exist_ok=True)
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if arguments.family == "symbols":
        for name, table in make_tables().items():
            pq.write_table(table, arguments.out / f"{name}.parquet")
    saved = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    figures = measure(arguments.family, saved.eval(), tokenizer)
    recipe = {
        "figures": figures, "seed": arguments.seed, "threads": arguments.threads, "batch": BATCH,
        "steps": family.phase.steps, "peak_rate": family.phase.peak_rate,
        "worked_share": family.phase.worked_share, "seconds": round(time.monotonic() - started),
        "torch": torch.__version__,
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name} {value:.4f}")


if __name__ == "__main__":
    main()
