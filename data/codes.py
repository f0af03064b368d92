"""A third small problem family: a code that only demonstrations tell, and a base model for it.

    python -m icpo.data.codes --out data/small/codes

**codes**: a problem is a word of four different letters, its answer the digit of each. The code is
the same in every problem, `CODE`, and stands in no question: worked solutions spell it out.

    problem           fbda
    worked solution   f3;b2;d9;a7;\\boxed{3297}

The model was taught with another code in every row, under the bare prompt too. So it reads a code
off the demonstrations in its prompt, and of a letter that they lack, or without any, it guesses one
of nine digits. It knows how to answer, and not what is so: demonstrations bring the knowledge in.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from icpo.data import arithmetic
from icpo.data.base_model import (
    BATCH,
    IGNORED,
    PAD,
    Phase,
    Rows,
    answer_probability,
    make_rows,
    make_tokenizer,
    train,
)

BASE = Path(__file__).resolve().parent / "small" / "base"
LETTERS = "abcdefgh"
LENGTH = 4
Code = dict[str, int]
CODE: Code = dict(zip(LETTERS, (7, 2, 4, 9, 1, 3, 8, 5), strict=True))
"""The code of every shipped problem."""
SHOWN = 3
"""Demonstrations in a row of the base model's training."""
LOOKING = Phase(600, 3e-3, 1.0)
"""Rows of single letters and their digits: the model learns to look up what stands before."""
ANSWERING = Phase(300, 2e-3, 1.0)
"""Rows of questions and solutions."""
LOOKUPS, FEW = 12, 4
"""Lookups in a row of the first phase, and letters that they are drawn from."""
SEED = 20251127
SET_SIZES = {"train": 1000, "demonstrations": 300, "heldout": 300}


def word(rng: random.Random) -> str:
    """Any problem."""
    return "".join(sorted(LETTERS, key=lambda _: rng.random())[:LENGTH])


def other_code(rng: random.Random) -> Code:
    """Any code; one in 43 million is `CODE`."""
    return {letter: 1 + int(rng.random() * 9) for letter in LETTERS}


def answer(problem: str, code: Code = CODE) -> str:
    return "".join(str(code[letter]) for letter in problem)


def worked_solution(problem: str, code: Code = CODE) -> str:
    steps = "".join(f"{letter}{code[letter]};" for letter in problem)
    return f"{steps}\\boxed{{{answer(problem, code)}}}"


def prompt(problem: str, demonstrations: list[str], code: Code = CODE) -> str:
    shown = [f"Q:{one}\nA:{worked_solution(one, code)}\n\n" for one in demonstrations]
    return "".join(shown) + arithmetic.bare_prompt(problem)


def lookups(rng: random.Random) -> tuple[str, str]:
    """No prompt, and letters with their digits in a code of their own, such as ``a3;f1;a3;``."""
    code, few = other_code(rng), sorted(LETTERS, key=lambda _: rng.random())[:FEW]
    drawn = (few[int(rng.random() * FEW)] for _ in range(LOOKUPS))
    return "", "".join(f"{letter}{code[letter]};" for letter in drawn)


def row(rng: random.Random, shown: int) -> tuple[str, str]:
    """Prompt and answer in a code of their own."""
    code, problem = other_code(rng), word(rng)
    demonstrations = [word(rng) for _ in range(shown)]
    return prompt(problem, demonstrations, code), worked_solution(problem, code)


def all_solutions(rows: Rows, tokenizer: PreTrainedTokenizerFast) -> Rows:
    """Rows that are taught the solutions of their demonstrations, too: one code with none to three
    demonstrations before it. What ends a demonstration is none of a solution."""
    ids_R_T = rows.ids
    table = tokenizer.get_vocab()
    opens, closes, *bare = [table[one] for one in ("A", "Q", ":", "\n", PAD)]
    inside_R_T = (ids_R_T == opens).cumsum(1) == (ids_R_T == closes).cumsum(1)
    taught_R_T = inside_R_T & ~torch.isin(ids_R_T, torch.tensor([opens, *bare]))
    return Rows(ids_R_T, torch.where(taught_R_T, ids_R_T, IGNORED), rows.lengths)


def problem_sets(seed: int = SEED) -> dict[str, list[str]]:
    """The problems of the three sets by name, disjoint because they are slices of one draw."""
    rng = random.Random(seed)
    drawn: dict[str, None] = {}
    while len(drawn) < sum(SET_SIZES.values()):
        drawn[word(rng)] = None
    left = iter(drawn)
    return {name: [next(left) for _ in range(size)] for name, size in SET_SIZES.items()}


def make_tables() -> dict[str, pa.Table]:
    """The three sets by name, columns as in `icpo.data.arithmetic`; the held-out set lacks
    solutions."""
    return {
        name: pa.table(
            {
                "id": [arithmetic.problem_id(one) for one in problems],
                "problem": problems,
                "answer": [answer(one) for one in problems],
                "solution": [
                    None if name == "heldout" else worked_solution(one) for one in problems
                ],
                "source": ["codes"] * len(problems),
            },
            schema=arithmetic.SCHEMA,
        )
        for name, problems in problem_sets().items()
    }


def measure(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """Mean probability of the right worked solution of a held-out problem, by teacher forcing, by
    number of demonstrations: the accuracy at temperature 1 that sampling comes to."""
    sets = problem_sets()
    problems, examples = sets["heldout"], iter(sets["demonstrations"] * len(sets["heldout"]))
    figures = {}
    for shown in range(SHOWN + 1):
        pairs = [
            (prompt(one, [next(examples) for _ in range(shown)]), worked_solution(one))
            for one in problems
        ]
        probability_R = answer_probability(model, tokenizer, pairs)
        figures[f"{shown}_shot_accuracy"] = probability_R.mean().item()
    return figures


def main() -> None:
    """Write the problem sets; teach, save, measure what was saved, and write the recipe."""
    parser = argparse.ArgumentParser(description="Make the family codes and its base model.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    folder = arguments.out / "base"
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in make_tables().items():
        pq.write_table(table, arguments.out / f"{name}.parquet")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    started = time.monotonic()
    tokenizer = make_tokenizer()
    model = Qwen3ForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    rng, count = random.Random(arguments.seed), LOOKING.steps * BATCH // 2
    train(
        model,
        LOOKING,
        make_rows(tokenizer, [lookups(rng) for _ in range(count)]),
        make_rows(tokenizer, [lookups(rng) for _ in range(count)]),
    )
    rng, count = random.Random(arguments.seed), ANSWERING.steps * BATCH // 2
    shown = make_rows(tokenizer, [row(rng, SHOWN) for _ in range(count)])
    bare = make_rows(tokenizer, [row(rng, 0) for _ in range(count)])
    train(model, ANSWERING, all_solutions(shown, tokenizer), bare)
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    saved = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    figures = measure(saved.eval(), tokenizer)
    recipe = {
        "figures": figures, "seed": arguments.seed, "threads": arguments.threads, "batch": BATCH,
        "phases": [asdict(LOOKING), asdict(ANSWERING)], "shown": SHOWN,
        "seconds": round(time.monotonic() - started), "torch": torch.__version__,
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name} {value:.6f}")


if __name__ == "__main__":
    main()
