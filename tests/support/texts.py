"""Texts that models may write, drawn at random, and what holds for any of them."""

from hypothesis import strategies as st

from icpo_core.grading.extraction import extract
from icpo_core.grading.grade import GradingRules, Question, prejudge

MODES = ("boxed", "boxed_or_last", "choice")
TOKENS = st.sampled_from(
    [r"\boxed{", r"\fbox{", r"\boxed ", r"\boxed", "{", "}", r"\{", r"\}", "\\", "$", "$$", r"\[",
     r"\]", r"\(", r"\)", r"\text{", r"\frac{1}{2}", "x", "=", "1", "-3.5", ",", " ", "\n", "\t",
     "<think>", "</think>", "The answer is", "final answer: ", "####", "(B)", "B", "and", "or",
     "**", "_", "^", "&", "%", "#", "\0", "\ud800", "\ufffd", "①", "√", "−", "１", "\u200b", "é"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=60), st.lists(TOKENS, max_size=30).map("".join))


def sound(text: str, tag: str = "</think>") -> None:
    """What holds for the answers to any text whatever, in every mode."""
    for mode in MODES:
        found = extract(text, mode, tag)
        for answer in (found.answer, *found.boxes):
            if answer is None:
                continue
            assert answer.strip()
            assert answer.encode("utf-8").decode("utf-8") == answer
            assert "\0" not in answer
        if mode == "boxed":
            assert (found.answer is None) == (not found.boxes)
        rules = GradingRules(extraction=mode, thinking_end_tag=tag)
        first, second = (prejudge(Question("4", text), rules) for _ in range(2))
        assert first == second
