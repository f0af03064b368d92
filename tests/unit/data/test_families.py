"""The two further families, as they are made and as they lie in `data/small`."""

import json
import random
import re

import pytest
import torch
from transformers import Qwen3ForCausalLM

from icpo.data import arithmetic, base_model, families

SMALL = families.BASE.parent


def test_a_solution_slips_step_by_step_and_goes_on_from_there():
    rng = random.Random(1)
    right = wrong = 0
    for _ in range(1000):
        problem = arithmetic.problem_number(int(rng.random() * arithmetic.FAMILY_SIZE))
        *steps, box = families.slipping(problem, rng).split(";")
        left = int(problem[0])
        for step, part in zip(steps, re.findall("[-+*].", problem), strict=True):
            sign, digit = part
            said, made = step.split("=")
            assert said == f"{left}{sign}{digit}"
            exact = {"+": left + int(digit), "-": left - int(digit), "*": left * int(digit)}[sign]
            right, wrong = right + (exact % 10 == int(made)), wrong + (exact % 10 != int(made))
            left = int(made)
        assert box == f"\\boxed{{{left}}}"
    assert wrong / (right + wrong) == pytest.approx(families.SLIP, abs=0.02)


def test_without_slips_the_chain_is_the_worked_solution():
    problem = "3+8*4-7+2*5"
    chain = families.chain([int(one) for one in problem[::2]], problem[1::2])
    assert "".join(chain) == arithmetic.worked_solution(problem)


def test_a_row_of_letters_means_the_same_before_and_after():
    """The answer is that of the meaning in the demonstration, which has every letter."""
    rng = random.Random(2)
    meanings = set()
    for _ in range(200):
        prompt, answer = families._symbols_one_shot(rng)
        example, question = prompt.removesuffix("\nA:").split("\n\nQ:")
        meaning = {one[0]: int(one[2]) for one in example.split("A:")[1].split(";")[:4]}
        assert sorted(meaning) == list(families.LETTERS)
        assert answer == families.meant(question, meaning)
        meanings.add(tuple(sorted(meaning.items())))
    assert len(meanings) > 190


def recorded(family):
    return json.loads((SMALL / family / "base" / "recipe.json").read_text())["figures"]


def measured(family, monkeypatch):
    """On part of the held-out set, with a seed of its own."""
    model = Qwen3ForCausalLM.from_pretrained(SMALL / family / "base", dtype=torch.float32)
    torch.manual_seed(1)
    sets = families.problem_sets() if family == "symbols" else arithmetic.problem_sets()
    part = {**sets, "heldout": sets["heldout"][:60]}
    owner = families if family == "symbols" else arithmetic
    monkeypatch.setattr(owner, "problem_sets", lambda: part)
    return families.measure(family, model.eval(), base_model.make_tokenizer())


def test_in_context_answers_of_slips_are_often_wrong(monkeypatch):
    found = measured("slips", monkeypatch)
    assert 0.45 < found["one_shot_accuracy"] < 0.85
    assert found["zero_shot_accuracy"] < 0.4
    for name, value in recorded("slips").items():
        assert found[name] == pytest.approx(value, abs=0.28), name  # 4 standard deviations


def test_both_families_are_small():
    size = sum(
        path.stat().st_size
        for name in ("slips", "symbols")
        for path in (SMALL / name).rglob("*")
        if path.is_file()
    )
    assert size <= 3_000_000
