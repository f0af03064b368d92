r"""From a response to its answer: rules one by one, and properties."""

import hypothesis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import TEXTS, sound

from icpo_core.grading.answers.notation import tidy
from icpo_core.grading.answers.reading import read
from icpo_core.grading.extraction import (
    CONVENTIONS,
    Extraction,
    after_thinking,
    choice_letter,
    extract,
)


def boxed(response: str) -> str | None:
    return extract(response, "boxed").answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{4}", "4"),
        (r"\boxed{3}, no: it is \boxed{4}", "4"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed {4}", "4"),
        (r"\fbox{4}", "4"),
        (r"$\boxed 4$", "4"),
        (r"\boxed\pi", r"\pi"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x : x > 1 \right\}}", r"\left\{ x : x > 1 \right\}"),
        (r"\boxed{\boxed{4}}", r"\boxed{4}"),
        (r"\boxed{11 + \boxed{30}}", r"11 + \boxed{30}"),
        (r"\boxed{1} \boxed{2 + \fbox{3}}", r"1, 2 + \fbox{3}"),
        (r"\boxed{a \text{ if } \boxed{b}}", r"a \text{ if } \boxed{b}"),
        ("\\boxed{\n4\n}", "4"),
        (r"\boxed{4} and then \boxed{}", "4"),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed{4", "4"),
        ("\\boxed{4\nand so on", "4"),
        (r"} } \boxed{4}", "4"),
        ("boxed{4}", None),
        (r"\\boxed{4}", None),  # a line break, and the word
        ("", None),
        ("The answer is 4.", None),
    ],
)
def test_the_last_box(response: str, answer: str | None) -> None:
    assert boxed(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"$x = \boxed{1}$, $y = \boxed{2}$", "1, 2"),
        (r"\boxed{1}, \boxed{2}, and \boxed{3}", "1, 2, 3"),
        (r"(a) \boxed{1} (b) \boxed{2}", "1, 2"),
        (r"\boxed{1} or \boxed{1}", "1"),
        (r"\boxed{1}; but since that cannot be, \boxed{2}", "2"),
        (r"\boxed{1} is the first, \boxed{2} the second", "2"),
    ],
)
def test_several_boxes_are_one_answer_if_little_stands_between(response: str, answer: str) -> None:
    assert boxed(response) == answer


def test_all_boxes_are_kept_in_order() -> None:
    assert extract(r"\boxed{1} thus \boxed{2}", "boxed") == Extraction("2", ("1", "2"))


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("The answer is 4", "4"),
        ("The final answer is: **4**\nThank you", "4"),
        ("We get 3.\nSo the answers are 1 and 2", "1 and 2"),
        ("#### 42", "42"),
        ("x + 1", "x + 1"),
        ("First $a$,\nthen $b$.", "b"),
        ("First\n\\[ a \\]\nthen \\( b \\) at last.", "b"),
        ("One is 3\nand another 4,000.5", "4,000.5"),
        ("Nothing\nat all", None),
        ("  \n ", None),
        (r"The answer is 3, so \boxed{4}", "4"),
    ],
)
def test_without_a_box_in_evaluation(response: str, answer: str | None) -> None:
    assert extract(response, "boxed_or_last").answer == answer


@pytest.mark.parametrize(
    "response",
    [
        "Final Answer: The final answer is $5$. I hope it is correct.",
        "The final answer is $5$. I hope it is correct.\n\nProblem:\n2+2?\nThe answer is 4.",
        "The answer is 5.\n\nQ: What is 3+4?\nA: The answer is 7.",
        "The answer is 5.<|im_end|>",
        "The answer is 5<|endoftext|>Human: what is 7?",
        "So the answer is 5, which means he has 6 apples less.",
        "<think>..</think><answer>5</answer>",
        "<answer> The answer is 5 </answer>",
        "答案是5。",
        "所以答案为 $5$",
        "Ответ: 5",
        "La respuesta es 5.",
        "La réponse est 5.",
        "Die Antwort lautet 5.",
        "答えは5です。",
        "정답은 5입니다.",
        "The total is **5**.",
        "Adding 2 and 3.\n\n**5**",
        "**Final Answer**\n\n5",
        "**Final Answer:**\n\\[5\\]",
        "### Final Answer\n5",
        "**Answer:** 5",
        '{"answer": 5}',
        "Using $x=3$ we get two more.\nSo she has 5 apples.",
        "So Tom has 5 apples left.",
        "Therefore, 5 is the answer.",
        "Answer: 5\n\nExplanation: because 2+3 is 5 and 7 is prime",
        "The answer isn't 4. The answer is 5.",
        "Cevap: 5",
        "Odpowiedź: 5",
        "Antwoord: 5",
        "Đáp án là 5.",
        "Jawabannya adalah 5.",
        "उत्तर: 5",
        "الجواب هو 5",
        "Risposta finale: 5",
        "<b>Answer:</b> 5",
        "final_answer = 5",
        "The answer is 5, not 6.",
        "## Answer\n\n$$5$$",
    ],
)
def test_ordinary_endings_without_a_box(response: str) -> None:
    assert extract(response, "boxed_or_last").answer == "5"
    assert extract(response, "boxed").answer is None


def test_a_convention_has_a_source() -> None:
    assert len(CONVENTIONS) == len({convention.name for convention in CONVENTIONS})
    assert all(convention.source for convention in CONVENTIONS)
    assert {convention.find("Nothing at all") for convention in CONVENTIONS[:2]} == {None}


def test_what_follows_the_end_of_a_turn_is_no_answer() -> None:
    assert boxed(r"\boxed{5}<|im_end|>\boxed{6}") == "5"
    assert boxed(r"<|im_end|>\boxed{6}") == "6"  # it ended nothing


@pytest.mark.parametrize(
    "text", ["answer:\n", "<answer>", "\n\n", "**", "$", "Q:\n", "answer is . "]
)
def test_long_texts_take_no_longer_than_they_are(text: str) -> None:
    extract(text * 30_000, "boxed_or_last")  # what grows with the square of it ends in the limit


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{(B)}}", "B"),
        (r"\boxed{\textbf{(B)}\ 12}", "B"),
        (r"\boxed{B. 12}", "B"),
        (r"\boxed{\boxed{B}}", "B"),
        (r"\boxed{\fbox{(B)}\ 12}", "B"),
        ("The answer is (B)", "B"),
        ("The answer is A. No, the answer is B, I think", "B"),
        ("A\nor\nB", "B"),
        ("**B**", "B"),
        ("Banana", None),
        ("the answer is Banana", None),
        ("I do not know", None),
    ],
)
def test_the_letter_of_a_choice(response: str, letter: str | None) -> None:
    assert extract(response, "choice").answer == letter


@pytest.mark.parametrize("text", ["", "12", "Banana", "the B", "AB", "b"])
def test_what_is_no_letter(text: str) -> None:
    assert choice_letter(text) is None


def test_the_thinking_part_does_not_count() -> None:
    assert boxed(r"<think>\boxed{1}</think>\boxed{2}") == "2"
    assert boxed(r"\boxed{1}</think>\boxed{2}") == "2"  # opened by the prompt
    assert boxed(r"<think>\boxed{1}") is None
    assert boxed(r"<think>\boxed{1}</think>") is None
    assert boxed(r"<think>a</think>\boxed{1}<think>b</think>\boxed{2}") == "2"
    assert boxed(r"\boxed{2}") == "2"
    assert after_thinking("<think>a", "") == "<think>a"


# Properties.

BALANCED = st.recursive(
    st.text(st.characters(blacklist_characters="\\{}", blacklist_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(st.one_of(inner, inner.map("{{{}}}".format)), max_size=4).map("".join),
    max_leaves=12,
).filter(lambda text: text.strip() and "\0" not in text)


@given(TEXTS, st.sampled_from(["</think>", "", "[/T]"]))
@settings(max_examples=500, deadline=None)
def test_any_text_has_an_answer_or_none(text: str, tag: str) -> None:
    sound(text, tag)


@given(TEXTS, BALANCED, st.text(max_size=20))
@settings(max_examples=300, deadline=None)
def test_a_last_box_is_found_whatever_stands_before(before: str, content: str, after: str) -> None:
    texts = after + content
    hypothesis.assume("think" not in texts and "boxed" not in texts and "fbox" not in texts)
    # Braces left open before would hold the box; a backslash would make it a line break.
    before = before.replace("{", "").replace("}", "").replace("\\", "") + "\nso it is: "
    hypothesis.assume("think" not in before)
    found = extract(f"{before}\\boxed{{{content}}} {after}", "boxed")
    assert found.answer == content.strip()


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_notation_and_structure_are_read_without_a_crash(text: str) -> None:
    plain = tidy(extract(text, "boxed_or_last").answer or "")
    read(plain)
    read(plain, True)
