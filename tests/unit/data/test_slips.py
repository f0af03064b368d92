"""The family `slips`, as it is made and as it lies in `data/small`."""

import json
import random
import re

import pytest
import torch
from transformers import Qwen3ForCausalLM

from icpo.data import arithmetic, base_model, slips

SLIPS = slips.BASE.parent / "slips" / "base"


def test_a_solution_slips_step_by_step_and_goes_on_from_there():
    rng = random.Random(1)
    right = wrong = 0
    for _ in range(1000):
        problem = arithmetic.problem_number(int(rng.random() * arithmetic.FAMILY_SIZE))
        *steps, box = slips.slipping(problem, rng).split(";")
        left = int(problem[0])
        for step, part in zip(steps, re.findall("[-+*].", problem), strict=True):
            sign, digit = part
            said, made = step.split("=")
            assert said == f"{left}{sign}{digit}"
            exact = {"+": left + int(digit), "-": left - int(digit), "*": left * int(digit)}[sign]
            right, wrong = right + (exact % 10 == int(made)), wrong + (exact % 10 != int(made))
            left = int(made)
        assert box == f"\\boxed{{{left}}}"
    assert wrong / (right + wrong) == pytest.approx(slips.SLIP, abs=0.02)


def test_without_slips_the_chain_is_the_worked_solution():
    problem = "3+8*4-7+2*5"
    chain = slips.chain([int(one) for one in problem[::2]], problem[1::2])
    assert "".join(chain) == arithmetic.worked_solution(problem)


def test_in_context_answers_are_often_wrong():
    """On part of the held-out set, with a seed of its own."""
    model = Qwen3ForCausalLM.from_pretrained(SLIPS, dtype=torch.float32)
    torch.manual_seed(1)
    found = slips.measure(model.eval(), base_model.make_tokenizer(), 60)
    assert 0.45 < found["one_shot_accuracy"] < 0.85
    assert found["zero_shot_accuracy"] < 0.5
    for name, value in json.loads((SLIPS / "recipe.json").read_text())["figures"].items():
        assert found[name] == pytest.approx(value, abs=0.28), name  # 4 standard deviations
