"""The family `codes`, as it is made and as it lies in `data/small`."""

import json
import random
import re
from itertools import combinations

import pyarrow.parquet as pq
import pytest
import torch
from transformers import Qwen3ForCausalLM

from icpo.data import base_model, codes

SMALL = codes.BASE.parent
STEP = re.compile("([a-h])([1-9]);")


def read_off(solution):
    """The code that a worked solution spells out, and its answer."""
    code = dict(STEP.findall(solution))
    answer = "".join(code.values())
    steps = "".join(f"{letter}{digit};" for letter, digit in code.items())
    assert solution == f"{steps}\\boxed{{{answer}}}"
    return code, answer


def test_shipped_problems_are_disjoint_and_of_one_code():
    sets = {name: pq.read_table(SMALL / "codes" / f"{name}.parquet") for name in codes.SET_SIZES}
    told: dict[str, set[str]] = {}
    for name, table in codes.make_tables().items():
        assert sets[name].equals(table)
        for row in table.to_pylist():
            if name == "heldout":
                assert row["solution"] is None
                continue
            code, answer = read_off(row["solution"])
            assert ("".join(code), answer) == (row["problem"], row["answer"])
            for letter, digit in code.items():
                told.setdefault(letter, set()).add(digit)
    assert sorted(told) == list(codes.LETTERS)
    assert {len(one) for one in told.values()} == {1}
    code = str.maketrans({letter: one.pop() for letter, one in told.items()})
    for row in sets["heldout"].to_pylist():
        assert row["answer"] == row["problem"].translate(code)
    for one, other in combinations(sets.values(), 2):
        assert not set(one["problem"].to_pylist()) & set(other["problem"].to_pylist())


def test_the_base_model_is_taught_another_code_in_every_row():
    rng = random.Random(2)
    shipped = 0
    for _ in range(1000):
        prompt, answer = codes.row(rng, 3)
        *shown, question = prompt.split("\n\n")
        code, _ = read_off(answer)
        assert question == f"Q:{''.join(code)}\nA:"
        for one in shown:
            for letter, digit in read_off(one.split("A:")[1])[0].items():
                assert code.setdefault(letter, digit) == digit
        shipped += all(codes.CODE[letter] == int(digit) for letter, digit in code.items())
    assert shipped == 0


def test_a_row_is_taught_the_solutions_of_its_demonstrations_too():
    tokenizer = base_model.make_tokenizer()
    prompt, answer = codes.row(random.Random(3), 3)
    rows = codes.all_solutions(base_model.make_rows(tokenizer, [(prompt, answer)]), tokenizer)
    (labels,) = rows.labels.tolist()
    taught = tokenizer.decode([one for one in labels if one != base_model.IGNORED])
    shown = [one.split("A:")[1] for one in prompt.split("\n\n")[:-1]]
    assert taught == "".join([*shown, answer, base_model.EOS])


def test_demonstrations_bring_in_what_the_model_does_not_know():
    folder = SMALL / "codes" / "base"
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = codes.measure(model.eval(), base_model.make_tokenizer())
    assert found["0_shot_accuracy"] < 0.001
    assert 0.3 < found["3_shot_accuracy"] < 0.95
    recorded = json.loads((folder / "recipe.json").read_text())["figures"]
    assert found == pytest.approx(recorded, rel=0.01)


def test_the_families_beside_the_demo_are_small():
    files = [path for name in ("slips", "codes") for path in (SMALL / name).rglob("*")]
    assert sum(path.stat().st_size for path in files if path.is_file()) <= 3_000_000
