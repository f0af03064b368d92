"""A fuzzer of extraction and of the reader of answers."""

import itertools
import time

import hypothesis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import TEXTS, TOKENS, sound

from icpo_core.grading.answers.notation import tidy
from icpo_core.grading.answers.reading import read
from icpo_core.grading.extraction import extract

FUZZ_SECONDS = 600


@pytest.mark.timeout(FUZZ_SECONDS + 120)
def test_fuzz_for_ten_minutes() -> None:
    """`-s` shows how many texts it tried."""
    texts = st.one_of(
        TEXTS,
        st.lists(TOKENS, max_size=400).map("".join),
        st.binary().map(lambda b: b.decode("latin-1")),
    )
    end = time.monotonic() + FUZZ_SECONDS
    examples = 0

    def crash(text: str) -> None:
        nonlocal examples
        examples += 1
        sound(text)
        read(tidy((extract(text, "boxed_or_last").answer or "")[:2000]))

    quiet = settings(
        max_examples=2000,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    for seed in itertools.count():
        hypothesis.seed(seed)(quiet(given(texts)(crash)))()
        if time.monotonic() > end:
            break
    print(f"\n{examples:,} texts in {FUZZ_SECONDS} s")
