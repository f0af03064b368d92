"""The small problem family and the base model that ship with us, as they lie in `data/small`."""

import json
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from icpo.data import arithmetic, base_model

SMALL = Path(arithmetic.__file__).parent / "small"
PROBLEM = "3+8*4-7+2*5"

problems = st.integers(0, arithmetic.FAMILY_SIZE - 1).map(arithmetic.problem_number)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(SMALL / "base")


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(SMALL / "base", dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def figures(model, tokenizer):
    """Measured on part of the held-out set, with a seed of its own."""
    sets = arithmetic.problem_sets()
    torch.manual_seed(1)
    return base_model.measure(
        model, tokenizer, sets["heldout"][:200], sets["demonstrations"][200:400]
    )


def nested(problem):
    """Python's own reading of a problem, bracketed so that every step comes before the next."""
    first, rest = problem[0], problem[1:]
    expression = first
    for at in range(0, len(rest), 2):
        expression = f"(({expression}{rest[at : at + 2]}) % 10)"
    return eval(expression)


# The family.


@given(problems)
def test_solver_agrees_with_python(problem):
    assert re.fullmatch(r"\d([-+*]\d){5}", problem)
    assert arithmetic.solve(problem) == nested(problem)


@given(problems)
def test_every_written_step_is_right_and_follows_from_the_one_before(problem):
    *written, boxed = arithmetic.worked_solution(problem).split(";")
    left = problem[0]
    for step, operation in zip(written, re.findall(r"[-+*]\d", problem), strict=True):
        asked, result = step.split("=")
        assert asked == left + operation
        assert int(result) == eval(asked) % 10
        left = result
    assert boxed == rf"\boxed{{{left}}}" == arithmetic.direct_answer(problem)


def test_worked_example():
    solution = r"3+8=1;1*4=4;4-7=7;7+2=9;9*5=5;\boxed{5}"
    assert arithmetic.worked_solution(PROBLEM) == solution
    assert arithmetic.bare_prompt(PROBLEM) == "Q:3+8*4-7+2*5\nA:"
    assert arithmetic.one_shot_prompt(PROBLEM, "1+1+1+1+1+1") == (
        f"Q:3+8*4-7+2*5\nA:{solution}\n\nQ:1+1+1+1+1+1\nA:"
    )


@pytest.mark.parametrize(
    "text", ["", "3+8", "3+8*4-7+2/5", "3+8*4-7+2*5+1", "33+8*4-7+2*", "3+8*4-7+2*²"]
)
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match="one-digit numbers"):
        arithmetic.solve(text)


def test_problems_are_numbered_without_repeats():
    last = arithmetic.FAMILY_SIZE - 1
    assert arithmetic.problem_number(0) == "0+0+0+0+0+0"
    assert arithmetic.problem_number(last) == "9*9*9*9*9*9"
    assert len({arithmetic.problem_number(n) for n in range(0, last, 9973)}) == len(
        range(0, last, 9973)
    )


def test_drawing_is_seeded_distinct_and_leaves_out_what_it_is_told_to():
    first = arithmetic.draw(5000, seed=7)
    assert first == arithmetic.draw(5000, seed=7)
    assert first[:4] == arithmetic.draw(4, seed=7)
    assert first != arithmetic.draw(5000, seed=8)
    assert len(set(first)) == 5000
    again = arithmetic.draw(5000, seed=7, exclude=first[:2500])
    assert again[:2500] == first[2500:]
    assert not set(again) & set(first[:2500])
    with pytest.raises(ValueError, match="cannot draw"):
        arithmetic.draw(arithmetic.FAMILY_SIZE + 1, seed=7)


def test_drawing_favours_no_digit_and_no_operator():
    drawn = arithmetic.draw(20_000, seed=3)
    for place in range(arithmetic.PROBLEM_LENGTH):
        counts = Counter(problem[place] for problem in drawn)
        choices = 3 if place % 2 else 10
        assert len(counts) == choices
        # Six standard deviations of a fair count.
        fair = len(drawn) / choices
        assert max(abs(count - fair) for count in counts.values()) < 6 * fair**0.5


# The shipped sets.


@pytest.mark.parametrize("name", arithmetic.SET_SIZES)
def test_shipped_set_is_what_the_generator_makes(name):
    shipped = pq.read_table(SMALL / f"{name}.parquet")
    assert shipped.equals(arithmetic.make_tables()[name])
    assert shipped.num_rows == arithmetic.SET_SIZES[name]
    assert shipped.column_names == ["id", "problem", "answer", "solution", "source"]
    assert set(shipped.schema.types) == {pa.string()}
    for row in shipped.to_pylist():
        assert row["id"] == arithmetic.problem_id(row["problem"])
        assert re.fullmatch(r"[0-9a-f]{16}", row["id"])
        assert row["answer"] == str(nested(row["problem"]))
        assert row["source"] == "arithmetic"
        if name == "heldout":
            assert row["solution"] is None
        else:
            assert row["solution"] == arithmetic.worked_solution(row["problem"])


def test_shipped_sets_share_no_problem():
    rows = [
        (row["id"], row["problem"])
        for name in arithmetic.SET_SIZES
        for row in pq.read_table(SMALL / f"{name}.parquet").to_pylist()
    ]
    assert len({i for i, _ in rows}) == len({p for _, p in rows}) == len(rows) == 2800


def test_base_model_never_saw_a_shipped_problem():
    seed = json.loads((SMALL / "base" / "recipe.json").read_text())["seed"]
    shipped = {p for problems in arithmetic.problem_sets().values() for p in problems}
    seen = base_model.training_problems(seed)
    assert len(seen) == len(set(seen)) == 1800 * 32 * 3
    assert not shipped & set(seen)


def test_another_seed_makes_other_sets(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["arithmetic", "--out", str(tmp_path), "--seed", "1"])
    arithmetic.main()
    for name, size in arithmetic.SET_SIZES.items():
        made = pq.read_table(tmp_path / f"{name}.parquet")
        assert made.num_rows == size
        assert not made.equals(pq.read_table(SMALL / f"{name}.parquet"))


def test_everything_shipped_is_small():
    sizes = {path: path.stat().st_size for path in SMALL.rglob("*") if path.is_file()}
    assert 1_000_000 < sizes[SMALL / "base" / "model.safetensors"] < 1_500_000
    assert sum(sizes.values()) < 4_000_000


# The tokenizer.


@given(st.text(st.sampled_from(base_model.CHARACTERS)))
def test_tokenizer_round_trip_of_one_token_a_character(tokenizer, text):
    ids = tokenizer.encode(text)
    # A text that happens to spell a special token is that token.
    if not re.search("<(pad|eos|unk)>", text):
        assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text


def test_tokenizer_ids_of_a_prompt(tokenizer):
    assert len(tokenizer) == 99
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.bos_token is None
    # fmt: off
    assert tokenizer.encode("Q:3+8*4-7+2*5\nA:") == [
        53, 30, 23, 15, 28, 14, 24, 17, 27, 15, 22, 14, 25, 3, 37, 30,
    ]
    # fmt: on
    assert tokenizer.encode(r"\boxed{5}<eos>") == [64, 70, 83, 92, 73, 72, 95, 25, 97, 1]
    assert tokenizer.encode("é") == [2]


def test_shipped_tokenizer_is_what_the_code_makes(tokenizer, tmp_path):
    base_model.make_tokenizer().save_pretrained(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_text() == (SMALL / "base" / path.name).read_text()


def test_chat_template_renders_the_training_prompts(tokenizer):
    def render(*turns, prompt=True):
        roles = ["user", "assistant"]
        messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=prompt)
        assert ids["input_ids"] == tokenizer.encode(text)
        return text

    demonstration = "1*2*3*4*5*6"
    solution = arithmetic.worked_solution(demonstration)
    one_shot = arithmetic.one_shot_prompt(demonstration, PROBLEM)
    assert render(PROBLEM) == arithmetic.bare_prompt(PROBLEM)
    assert render(demonstration, solution, PROBLEM) == one_shot
    assert render(f"{demonstration}\nA:{solution}\n\nQ:{PROBLEM}") == one_shot
    assert render(PROBLEM, prompt=False) == f"Q:{PROBLEM}\n"
    assert render(" padded\n") == "Q: padded\n\nA:"
    with pytest.raises(Exception, match="only user and assistant"):
        tokenizer.apply_chat_template([{"role": "system", "content": "Think."}])


def test_fast_rows_are_the_tokenizer_s(tokenizer):
    pairs = [
        (arithmetic.bare_prompt(PROBLEM), arithmetic.direct_answer(PROBLEM)),
        (arithmetic.one_shot_prompt(PROBLEM, PROBLEM), arithmetic.worked_solution(PROBLEM)),
    ]
    rows = base_model.make_rows(tokenizer, pairs)
    for (prompt, answer), ids, labels, length in zip(
        pairs, rows.ids.tolist(), rows.labels.tolist(), rows.lengths.tolist(), strict=True
    ):
        expected = [*tokenizer.encode(prompt + answer), tokenizer.eos_token_id]
        assert length == len(expected)
        assert ids[:length] == expected
        assert set(ids[length:]) <= {tokenizer.pad_token_id}
        learned = [label for label in labels if label != base_model.IGNORED]
        assert learned == [*tokenizer.encode(answer), tokenizer.eos_token_id]
        assert labels[len(prompt) : length] == learned


# The model.


def test_shipped_model_is_a_small_qwen3_in_bfloat16():
    shipped = AutoModelForCausalLM.from_pretrained(SMALL / "base")
    assert shipped.config.model_type == "qwen3"
    assert shipped.dtype == torch.bfloat16
    assert shipped.num_parameters() == 603_584
    assert shipped.config.tie_word_embeddings
    assert shipped.config.max_position_embeddings == 1024
    assert shipped.generation_config.eos_token_id == 1


def test_shipped_model_answers_a_quarter_of_bare_problems(figures):
    assert 0.18 < figures.zero_shot_accuracy < 0.32


def test_shipped_model_follows_a_demonstration(figures):
    assert figures.one_shot_accuracy > 0.97


def test_shipped_model_hardly_ever_works_a_bare_problem_out(figures):
    assert 1e-4 < figures.worked_probability < 2e-3
    assert figures.worked_probability < figures.first_token_not_backslash < 2e-3


def test_recipe_says_what_is_shipped(figures):
    recipe = json.loads((SMALL / "base" / "recipe.json").read_text())
    stated = base_model.Figures(**recipe["figures"])
    assert 0.20 <= stated.zero_shot_accuracy <= 0.30
    assert stated.one_shot_accuracy >= 0.98
    assert 1e-4 <= stated.worked_probability <= 2e-3
    assert stated.zero_shot_accuracy == pytest.approx(figures.zero_shot_accuracy, abs=0.05)
    assert stated.worked_probability == pytest.approx(figures.worked_probability, rel=0.5)
    assert sum(phase["steps"] for phase in recipe["phases"]) == 1800


def test_sampled_bare_answers_agree_with_the_stated_accuracy(model, tokenizer, figures):
    sets = arithmetic.problem_sets()
    torch.manual_seed(2)
    responses = base_model.sample(
        model, tokenizer, [arithmetic.bare_prompt(p) for p in sets["heldout"]]
    )
    right = [
        r.endswith(arithmetic.direct_answer(p))
        for r, p in zip(responses, sets["heldout"], strict=True)
    ]
    # Four standard deviations of 300 draws.
    assert sum(right) / len(right) == pytest.approx(figures.zero_shot_accuracy, abs=0.1)
