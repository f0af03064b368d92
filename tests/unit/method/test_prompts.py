"""Stage `prompts`: batches, demonstrations in prompts, templates, token ids."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import REAL, ROOT, SMALL
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from icpo_core.config import PromptsSection, load
from icpo_core.method.problems import read_problems
from icpo_core.method.prompts import PromptMaker, shortfall
from icpo_core.store import tables

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data is not here")

RAW = {
    "problems": "train",
    "batch_size": 16,
    "format": "raw",
    "question_template": "Q:{problem}\nA:",
    "example_template": "Q:{problem}\nA:{solution}\n\n",
}
# The turn markers and the thinking switch of Qwen3's template, with a BOS of its own as Llama's.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
PLAIN_TEMPLATE = CHAT_TEMPLATE.replace("{% if enable_thinking is defined", "{% if false")
PLAIN_TEMPLATE = PLAIN_TEMPLATE.replace(" and enable_thinking is false", "")


@pytest.fixture(scope="module")
def characters() -> Any:
    return AutoTokenizer.from_pretrained(SMALL / "base")


@pytest.fixture(scope="module")
def train() -> pa.Table:
    return read_problems(str(SMALL / "train.parquet"))


@pytest.fixture(scope="module")
def pool() -> pa.Table:
    return read_problems(str(SMALL / "demonstrations.parquet"))


@pytest.fixture(scope="module")
def heldout() -> pa.Table:
    return read_problems(str(SMALL / "heldout.parquet"))


def byte_tokenizer(texts: list[str], template: str | None = CHAT_TEMPLATE) -> Any:
    """A byte-level BPE tokenizer that puts BOS before and EOS after a text, as Llama's can."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet),
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made


@pytest.fixture(scope="module")
def byte_level() -> Any:
    return byte_tokenizer(["Question: What is 2 + 2?\nAnswer: It is \\boxed{4}.\n\n"] * 3)


def problem_set(lengths: list[int], prefix: str, word: str = "word") -> pa.Table:
    return tables.table(
        "problems",
        [
            {
                "id": f"{prefix}{number}",
                "problem": f"{prefix} {number}?",
                "answer": "1",
                "solution": " ".join([word] * length),
                "source": "test",
            }
            for number, length in enumerate(lengths)
        ],
    )


def ids_of(maker: PromptMaker, iteration: int) -> list[str]:
    return maker.batch(iteration).column("prompt_id").to_pylist()


# --- the batch -----------------------------------------------------------------------------------


def test_prompts_of_the_small_family(
    train: pa.Table, pool: pa.Table, heldout: pa.Table, characters: Any
) -> None:
    maker = PromptMaker(train, pool, [heldout], characters, PromptsSection(**RAW), 0)
    solutions = dict(
        zip(pool.column("id").to_pylist(), pool.column("solution").to_pylist(), strict=True)
    )
    examples = dict(
        zip(pool.column("id").to_pylist(), pool.column("problem").to_pylist(), strict=True)
    )
    table = maker.batch(1)
    assert table.schema.equals(tables.TABLES["prompts"])
    assert table.num_rows == 16
    for row in table.to_pylist():
        assert row["policy_prompt"] == f"Q:{row['problem']}\nA:"
        assert row["policy_prompt_ids"] == characters(row["policy_prompt"])["input_ids"]
        [demo] = row["demo_ids"]
        shown = f"Q:{examples[demo]}\nA:{solutions[demo]}\n\n"
        assert row["expert_prompt"] == shown + row["policy_prompt"]
        assert row["expert_prompt_ids"] == characters(row["expert_prompt"])["input_ids"]
        assert characters.decode(row["expert_prompt_ids"]) == row["expert_prompt"]
        assert row["trace"] is None


def test_a_batch_is_a_function_of_seed_and_iteration(
    train: pa.Table, pool: pa.Table, characters: Any
) -> None:
    section = PromptsSection(**RAW)
    maker = PromptMaker(train, pool, [], characters, section, 7)
    forward = [maker.batch(iteration) for iteration in (1, 2, 3, 200)]
    fresh = PromptMaker(train, pool, [], characters, section, 7)
    assert [fresh.batch(iteration) for iteration in (200, 3, 2, 1)] == forward[::-1]
    other = PromptMaker(train, pool, [], characters, section, 8)
    assert ids_of(other, 1) != ids_of(maker, 1)
    # The same problems an epoch later meet other demonstrations.
    assert forward[0].column("demo_ids") != maker.batch(126).column("demo_ids")


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 12), extra=st.integers(0, 30), seed=st.integers(0, 3))
def test_epochs(size: int, extra: int, seed: int, characters: Any) -> None:
    """Every epoch is a permutation of the set, and no batch holds a problem twice."""
    total = size + extra
    section = PromptsSection(**{**RAW, "batch_size": size, "k": 0})
    maker = PromptMaker(problem_set([1] * total, "p"), None, [], characters, section, seed)
    batches = [maker.places(iteration) for iteration in range(1, 5 * total + 1)]
    assert all(len(set(batch)) == size for batch in batches)
    stream = np.concatenate(batches)
    epochs = stream[: len(stream) // total * total].reshape(-1, total)
    assert (np.sort(epochs) == np.arange(total)).all()
    if total >= 8:
        assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1
    late = PromptMaker(problem_set([1] * total, "p"), None, [], characters, section, seed)
    assert late.places(5 * total) == batches[-1]


def test_k_and_no_pool(train: pa.Table, pool: pa.Table, characters: Any) -> None:
    for k in (0, 2, 5):
        section = PromptsSection(**RAW, k=k)
        rows = PromptMaker(train, pool, [], characters, section, 0).batch(3).to_pylist()
        assert all(len(set(row["demo_ids"])) == k for row in rows)
        assert all((row["expert_prompt"] is None) == (k == 0) for row in rows)
        assert all((row["expert_prompt_ids"] is None) == (k == 0) for row in rows)
    section = PromptsSection(**RAW)
    rows = PromptMaker(train, None, [], characters, section, 0).batch(3).to_pylist()
    assert all(row["expert_prompt"] is None and row["demo_ids"] == [] for row in rows)


def test_the_nearest_stands_next_to_the_question(
    train: pa.Table, pool: pa.Table, characters: Any
) -> None:
    section = PromptsSection(**RAW, k=2, selection="similar")
    maker = PromptMaker(train, pool, [], characters, section, 0)
    row = maker.batch(1).to_pylist()[0]
    problems = dict(
        zip(pool.column("id").to_pylist(), pool.column("problem").to_pylist(), strict=True)
    )
    nearest, second = (problems[demo] for demo in row["demo_ids"])
    text = row["expert_prompt"]
    assert text.index(second) < text.index(nearest) < text.index(row["problem"])


def test_traces(train: pa.Table, heldout: pa.Table, characters: Any) -> None:
    section = PromptsSection(**RAW, k=0)
    maker = PromptMaker(train, None, [], characters, section, 0, traces=True)
    solution = dict(
        zip(train.column("id").to_pylist(), train.column("solution").to_pylist(), strict=True)
    )
    rows = maker.batch(1).to_pylist()
    assert [row["trace"] for row in rows] == [solution[row["prompt_id"]] for row in rows]
    with pytest.raises(ValueError, match="300 of 300 have none"):
        PromptMaker(heldout, None, [], characters, section, 0, traces=True)


# --- the token limit -----------------------------------------------------------------------------


def words_section(**changes: Any) -> PromptsSection:
    return PromptsSection(**{**RAW, "batch_size": 4, "k": 1, "max_tokens": 60, **changes})


def test_shorter_examples_are_drawn(characters: Any) -> None:
    pool = problem_set([4] * 3 + [40] * 30, "d")  # 40 words are 200 tokens: never
    maker = PromptMaker(problem_set([1] * 8, "p"), pool, [], characters, words_section(), 0)
    seen = set()
    for iteration in range(1, 30):
        for row in maker.batch(iteration).to_pylist():
            assert len(row["expert_prompt_ids"]) <= 60
            [demo] = row["demo_ids"]
            seen.add(demo)
    assert seen == {"d0", "d1", "d2"}


def test_fewer_where_not_all_fit(characters: Any) -> None:
    pool = problem_set([3] * 5, "d")
    section = words_section(k=4, max_tokens=80)
    maker = PromptMaker(problem_set([1] * 8, "p"), pool, [], characters, section, 0)
    for row in maker.batch(1).to_pylist():
        assert 1 <= len(row["demo_ids"]) < 4
        one = len("Q:d 0?\nA:word word word\n\n")
        assert 80 - one < len(row["expert_prompt_ids"]) <= 80


def test_the_group_goes_without_where_none_fits(characters: Any) -> None:
    pool = problem_set([40] * 5, "d")
    maker = PromptMaker(problem_set([1] * 8, "p"), pool, [], characters, words_section(), 0)
    for row in maker.batch(1).to_pylist():
        assert row["expert_prompt"] is None
        assert row["expert_prompt_ids"] is None
        assert row["demo_ids"] == []
        assert row["policy_prompt_ids"]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    k=st.integers(1, 4),
    limit=st.integers(25, 120),
    chat=st.booleans(),
)
def test_nothing_is_cut_and_nothing_is_left_out_in_vain(
    lengths: list[int], k: int, limit: int, chat: bool, byte_level: Any
) -> None:
    pool = problem_set([length + 1 for length in lengths], "d")
    section = words_section(
        k=min(k, len(lengths)), max_tokens=limit, format="chat" if chat else "raw", instruction=""
    )
    train = problem_set([1] * 6, "p")
    maker = PromptMaker(train, pool, [], byte_level, section, 0)
    examples = {row["id"]: row for row in pool.to_pylist()}
    for row in maker.batch(2).to_pylist():
        for demo in row["demo_ids"]:
            example = examples[demo]
            assert f"Q:{example['problem']}\nA:{example['solution']}\n\n" in row["expert_prompt"]
        if row["expert_prompt"] is None:
            shortest = min(examples.values(), key=lambda one: len(one["solution"]))
            alone = problem_set([1], "p").set_column(
                1, train.schema.field(1), [pa.array([row["problem"]])]
            )
            roomy = words_section(
                k=1, batch_size=1, max_tokens=10_000, format=section.format, instruction=""
            )
            only = pool.filter(pa.compute.equal(pool.column("id"), shortest["id"]))
            [would] = PromptMaker(alone, only, [], byte_level, roomy, 0).batch(1).to_pylist()
            assert len(would["expert_prompt_ids"]) > limit
        else:
            assert len(row["expert_prompt_ids"]) <= limit
            assert row["demo_ids"]


def test_a_long_bare_prompt_is_an_error(characters: Any) -> None:
    train = problem_set([1] * 6, "a rather long problem, longer than sixty characters, number")
    with pytest.raises(ValueError, match=r"6 of 6 training problems are longer .*max_tokens = 60 "):
        PromptMaker(train, None, [], characters, words_section(), 0)
    PromptMaker(train, None, [], characters, words_section(max_tokens=68), 0)


# --- formats -------------------------------------------------------------------------------------


def chat_section(**changes: Any) -> PromptsSection:
    return PromptsSection(**{"problems": "train", "batch_size": 1, **changes})


TWO = problem_set([2], "p")
DEMO = problem_set([2], "d", word="$x^{2}$")


def test_chat_puts_examples_inside_the_user_turn(byte_level: Any) -> None:
    [row] = PromptMaker(TWO, DEMO, [], byte_level, chat_section(), 0).batch(1).to_pylist()
    ask = "Please reason step by step, and put your final answer within \\boxed{}."
    assert row["policy_prompt"] == (
        f"<s><|im_start|>user\np 0?\n{ask}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert row["expert_prompt"] == (
        "<s><|im_start|>user\nQuestion: d 0?\nAnswer: $x^{2}$ $x^{2}$\n\n"
        f"Question: p 0?\n{ask}<|im_end|>\n<|im_start|>assistant\n"
    )
    for ids in (row["policy_prompt_ids"], row["expert_prompt_ids"]):
        assert ids[0] == byte_level.bos_token_id
        assert ids.count(byte_level.bos_token_id) == 1  # the template wrote it: no double BOS
        assert byte_level.eos_token_id not in ids
    assert byte_level.decode(row["expert_prompt_ids"]) == row["expert_prompt"]


def test_chat_template_without_bos_gets_none(byte_level: Any) -> None:
    plain = byte_tokenizer(["x"], CHAT_TEMPLATE.replace("{{ bos_token }}", ""))
    [row] = PromptMaker(TWO, None, [], plain, chat_section(), 0).batch(1).to_pylist()
    assert plain.bos_token_id not in row["policy_prompt_ids"]
    reference = plain.apply_chat_template(
        [{"role": "user", "content": "p 0?\nGo \\boxed{}!"}], add_generation_prompt=True
    )["input_ids"]
    section = chat_section(instruction="Go \\boxed{{}}!")
    [row] = PromptMaker(TWO, None, [], plain, section, 0).batch(1).to_pylist()
    assert row["policy_prompt_ids"] == reference


def test_thinking_switch(byte_level: Any) -> None:
    texts = {}
    for thinking in (None, True, False):
        section = chat_section(thinking=thinking)
        [row] = PromptMaker(TWO, None, [], byte_level, section, 0).batch(1).to_pylist()
        texts[thinking] = row["policy_prompt"]
    assert texts[None] == texts[True]
    assert texts[False] == texts[True] + "<think>\n\n</think>\n\n"
    plain = byte_tokenizer(["x"], PLAIN_TEMPLATE)
    with pytest.raises(ValueError, match="no enable_thinking: leave"):
        PromptMaker(TWO, None, [], plain, chat_section(thinking=False), 0)


def test_raw_has_one_bos_and_no_eos(byte_level: Any) -> None:
    section = chat_section(format="raw")
    [row] = PromptMaker(TWO, DEMO, [], byte_level, section, 0).batch(1).to_pylist()
    assert row["policy_prompt"] == "Question: p 0?\nAnswer:"
    assert row["expert_prompt"] == (
        "Question: d 0?\nAnswer: $x^{2}$ $x^{2}$\n\nQuestion: p 0?\nAnswer:"
    )
    for text, ids in (
        (row["policy_prompt"], row["policy_prompt_ids"]),
        (row["expert_prompt"], row["expert_prompt_ids"]),
    ):
        assert ids == byte_level(text)["input_ids"][:-1]  # all but the EOS it appends
    section = chat_section(format="raw", question_template="<s>{problem}", k=0)
    [row] = PromptMaker(TWO, DEMO, [], byte_level, section, 0).batch(1).to_pylist()
    assert row["policy_prompt_ids"].count(byte_level.bos_token_id) == 1


def test_the_small_models_own_chat_template(
    train: pa.Table, pool: pa.Table, characters: Any
) -> None:
    example = "{problem}\nA:{solution}\n\nQ:"
    section = PromptsSection(
        **{**RAW, "format": "chat", "instruction": "", "example_template": example}
    )
    for row in PromptMaker(train, pool, [], characters, section, 0).batch(1).to_pylist():
        assert row["policy_prompt"] == f"Q:{row['problem']}\nA:"
        assert row["expert_prompt"].endswith(f"\n\nQ:{row['problem']}\nA:")


def test_programs_as_demonstrations(byte_level: Any) -> None:
    """PoT: a solution is code with braces, percent signs and format strings, put in untouched."""
    program = (
        '```python\ndef solve(n: int) -> dict:\n\ttable = {i: f"{i:>3}%" for i in range(n)}\n'
        "\treturn {**table, 'problem': '{problem} {0} {{x}}'}\n\nprint(solve(3))\n```"
    )
    pool = DEMO.set_column(3, DEMO.schema.field(3), [pa.array([program])])
    for kind in ("raw", "chat"):
        section = chat_section(format=kind)
        [row] = PromptMaker(TWO, pool, [], byte_level, section, 0).batch(1).to_pylist()
        assert f"Question: d 0?\nAnswer: {program}\n\nQuestion: p 0?" in row["expert_prompt"]
        assert program in byte_level.decode(row["expert_prompt_ids"])


def test_the_released_scripts_prompts(byte_level: Any) -> None:
    """The bare prompt goes through the chat template, the expert prompt does not; written out from
    the authors' prompt_builder.py and openr1_math_220k-8192.py (docs/released.md)."""
    file = ROOT / "configs" / "paper" / "qwen3-1.7b-released.toml"
    section = load(file).prompts.model_copy(update={"batch_size": 1})
    [row] = PromptMaker(TWO, DEMO, [], byte_level, section, 0).batch(1).to_pylist()
    ask = "Let's think step by step and output the final answer within \\boxed{}"
    assert row["policy_prompt"] == (
        f"<s><|im_start|>user\np 0? {ask}.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert row["expert_prompt"] == (
        f"Question: d 0? {ask}. {ask}\nAnswer: $x^{{2}}$ $x^{{2}}$"
        f"\n\n\nQuestion: p 0? {ask[:-2]}{{{{}}}}\nAnswer:"
    )
    # The chat template wrote its BOS; the text gets the one that the tokenizer gives a text.
    bare, expert = row["policy_prompt_ids"], row["expert_prompt_ids"]
    assert expert == byte_level(row["expert_prompt"])["input_ids"][:-1]
    assert [ids.count(byte_level.bos_token_id) for ids in (bare, expert)] == [1, 1]


@pytest.mark.parametrize("bare", ["chat", "raw"])
@pytest.mark.parametrize("expert", ["chat", "raw"])
def test_each_prompt_is_as_in_a_run_of_its_format(bare: str, expert: str, byte_level: Any) -> None:
    def row(**changes: Any) -> dict[str, Any]:
        section = chat_section(**changes)
        [found] = PromptMaker(TWO, DEMO, [], byte_level, section, 0).batch(1).to_pylist()
        return found

    mixed, theirs = row(format=bare, expert_format=expert), row(format=expert)
    for key in ("policy_prompt", "policy_prompt_ids"):
        assert mixed[key] == row(format=bare)[key]
    for key in ("expert_prompt", "expert_prompt_ids", "demo_ids"):
        assert mixed[key] == theirs[key]


def test_system_message_and_joiner(byte_level: Any) -> None:
    section = chat_section(system="Use {{braces}}.", joiner="\n\n", instruction="Go!")
    [row] = PromptMaker(TWO, DEMO, [], byte_level, section, 0).batch(1).to_pylist()
    start = "<s><|im_start|>system\nUse {braces}.<|im_end|>\n<|im_start|>user\n"
    end = "p 0?\n\nGo!<|im_end|>\n<|im_start|>assistant\n"
    assert row["policy_prompt"] == start + end
    assert row["expert_prompt"].startswith(f"{start}Question: d 0?")
    assert row["expert_prompt"].endswith(f"\n\nQuestion: {end}")


# --- errors --------------------------------------------------------------------------------------


def test_errors_name_the_mend(train: pa.Table, pool: pa.Table, characters: Any) -> None:
    def message(data: pa.Table, shown: pa.Table | None, **changes: Any) -> str:
        section = PromptsSection(**{**RAW, **changes})
        with pytest.raises(ValueError) as error:  # noqa: PT011 - each caller looks at the message
            PromptMaker(data, shown, [], characters, section, 0)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "prompts.batch_size = 16 is more than the 5" in message(train.slice(0, 5), pool)
    assert "set prompts.demonstrations" in message(train, pool.slice(0, 0))
    assert "prompts.k = 4 is more than the 3" in message(train, pool.slice(0, 3), k=4)
    assert "{question}" in message(train, pool, question_template="{question}")
    assert "{{ and }}" in message(train, pool, question_template="{problem} \\boxed{}")
    assert "{{ and }}" in message(train, pool, example_template="{problem} {solution} {")
    assert "must contain {problem} and then {solution}" in message(
        train, pool, example_template="{solution} {problem}"
    )
    assert "prompts.instruction" in message(train, pool, instruction="Box it: \\boxed{}")
    plain = byte_tokenizer(["x"], None)
    with pytest.raises(ValueError, match=r"no chat template: set prompts\.format = raw"):
        PromptMaker(TWO, None, [], plain, chat_section(), 0)
    refusing = byte_tokenizer(["x"], "{{ raise_exception('a system turn is needed') }}")
    with pytest.raises(ValueError, match=r"refuses .*a system turn is needed.*format = raw"):
        PromptMaker(TWO, None, [], refusing, chat_section(), 0)
    with pytest.raises(
        ValueError, match=r"refuses a prompt of a system .*leave prompts\.system out"
    ):
        PromptMaker(TWO, None, [], refusing, chat_section(system="Hm."), 0)
    deaf = byte_tokenizer(["x"], "{{ messages[-1]['content'] }}")
    with pytest.raises(ValueError, match=r"drops the system message: leave prompts\.system out"):
        PromptMaker(TWO, None, [], deaf, chat_section(system="Hm."), 0)
    assert "prompts.system" in message(train, pool, system="{name}")
    with pytest.raises(ValueError, match=r"no chat template: set prompts\.format = raw"):
        PromptMaker(TWO, None, [], plain, chat_section(format="raw", expert_format="chat"), 0)


@needs_real
@pytest.mark.parametrize("selection", ["random", "similar"])
def test_a_batch_of_the_paper(selection: str) -> None:
    pool = read_problems(str(REAL / "math_train_7500.jsonl"))
    train = read_problems(str(REAL / "gsm8k_train.jsonl"))
    benchmark = read_problems(str(REAL / "math500_test.jsonl"))
    tokenizer = byte_tokenizer(pool.column("problem").to_pylist()[:1000])
    section = PromptsSection(problems="train", selection=selection, k=2, max_tokens=700)
    maker = PromptMaker(train, pool, [benchmark], tokenizer, section, 0)
    assert maker.left_out["excluded"] > 0
    rows = maker.batch(1).to_pylist()
    assert len(rows) == 128
    assert all(len(row["expert_prompt_ids"]) <= 700 for row in rows)


def test_fewer_examples_than_asked_for_are_said(
    characters: Any, train: pa.Table, pool: pa.Table, heldout: pa.Table
) -> None:
    def said(k: int) -> tuple[float, str]:
        section = PromptsSection(**RAW, k=k, max_tokens=128)
        made = PromptMaker(train, pool, [heldout], characters, section, 0).batch(1)
        return shortfall(made, section)

    assert said(1) == (0.0, "")
    share, line = said(50)
    assert share == 1.0
    assert line.startswith("prompts.k = 50: 16 of 16 prompts have room for fewer examples (")
    assert line.endswith("prompts.max_tokens = 128: raise that, or lower prompts.k")
