"""All local benchmark files on a real small language model: template, extraction, grading."""

import json

import pytest
from language_model import convert, needs_language_model
from places import REAL

from icpo.flows.ui.table import fill, open_targets
from icpo_core.evaluation.protocol import load
from icpo_core.grading.grade import Question, grade
from icpo_core.store import tables

FILES = {
    "aime2024": "aime2024_test", "aime2025": "aime2025_test", "amc2023": "amc2023_test",
    "math500": "math500_test", "minerva": "minerva_math_test",
    "olympiadbench": "olympiadbench_oe_to_maths_en_test", "gsm8k": "gsm8k_test",
}  # fmt: skip
EASY = [("What is 2 + 3?", "5"), ("What is 10 - 4?", "6"), ("What is 3 times 3?", "9"),
        ("What is 7 + 1?", "8"), ("What is 20 divided by 2?", "10")]  # fmt: skip
CHOICE = [
    {"question": "What do plants need to grow?", "choices": ["Sunlight", "Plastic"], "answer": "A"},
    {"question": "Which is an animal?", "choices": ["A stone", "A dog"], "answer": "B"},
]
CHANGES = [
    "sampling.temperature=0", "sampling.max_tokens=192", "sampling.limit=2", "sampling.samples=1",
    "engine.max_model_len=3072", "engine.cpu_kv_cache_gib=1",
    # So that there is something to read in a response that was cut short.
    "grading.extraction=boxed_or_last", "grading.accept_truncated=true",
    "benchmarks.easy.limit=5",
]  # fmt: skip


@needs_language_model
@pytest.mark.skipif(not REAL.is_dir(), reason="the shared data sets are not here")
@pytest.mark.timeout(1800)
def test_every_local_benchmark_runs_on_a_real_language_model(tmp_path):
    model = convert(tmp_path / "smollm2")
    easy, choice = tmp_path / "easy.jsonl", tmp_path / "choice.jsonl"
    rows = [{"problem": text, "answer": answer} for text, answer in EASY]
    easy.write_text("".join(json.dumps(row) + "\n" for row in rows))
    choice.write_text("".join(json.dumps(row) + "\n" for row in CHOICE))
    names = [f"{name}={REAL / file}.jsonl" for name, file in FILES.items()]
    targets = open_targets([str(model)])
    table = fill(
        targets,
        [*names, str(easy), str(choice)],
        ["paper"],
        CHANGES,
        tmp_path / "e",
        lambda *_: None,
    )
    [row] = table.rows.values()
    assert list(row) == [*FILES, "easy", "choice"]
    rules = load("paper", CHANGES)
    answered = 0
    for name, one in row.items():
        [path] = one.folder.glob("samples-*.parquet")
        [asked] = one.folder.glob("questions-*.parquet")
        prompts = tables.read("questions", asked).to_pylist()
        prompt = prompts[0]["prompt"]
        assert prompt.startswith("<|im_start|>system\n"), name
        assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n"), name
        instruction = "letter of your final answer" if name == "choice" else "final answer within"
        assert instruction in prompt, name
        ids = targets[0].tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert prompts[0]["prompt_ids"] == ids, name
        samples = tables.read("samples", path).to_pylist()
        assert len(samples) == one.figures["samples"] == (5 if name == "easy" else 2)
        for sample in samples:
            text, tokens = sample["response"], sample["response_ids"]
            # Real text, decoded from just these tokens, ended by EOS or by the limit.
            assert len(text) > 1, name
            assert targets[0].tokenizer.decode(tokens, skip_special_tokens=True) == text
            cut = sample["finish_reason"] == "length"
            assert cut is (len(tokens) == 192 and tokens[-1] != 2)
            # The verdict is that of the rules, in this process as in the judges'.
            again = grade(
                Question(sample["gold"], text, cut),
                rules.rules("choice" if name == "choice" else "math"),
            )
            assert (sample["status"], sample["extracted"]) == (again.status, again.extracted)
            answered += sample["extracted"] is not None
    assert answered >= 10
    assert row["easy"].figures["accuracy"] >= 0.4
    assert {len(prompt["demo_ids"]) for prompt in prompts} == {0}
