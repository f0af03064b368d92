"""Likeness of problem texts: the same problem in other clothes, or most of it.

Two texts are *near-duplicates* if their words are the same, or if they share at least
`MIN_SHARED` distinct word n-grams (n = `GRAM`) and these are at least `SHARE` of the n-grams of the
shorter text. N-grams that stand in very many texts ("where m and n are relatively prime positive
integers") are boilerplate and count for nothing on either side.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

GRAM = 8
"""Words of an n-gram."""
MIN_SHARED = 6
"""Fewest shared n-grams: 13 words in a row, the length that GPT-3's contamination study used."""
SHARE = 0.5
"""Smallest share of the shorter text's n-grams."""
BOILERPLATE_SHARE = 0.01
"""An n-gram in more than this share of a collection's texts is boilerplate …"""
BOILERPLATE_TEXTS = 10
"""… if that is more than so many texts."""

# LaTeX (and Markdown's bold) that changes the looks of a text and not what it says.
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:rm|bf|it|sf|bb|cal)|mbox|operatorname)\s*\{([^{}]*)\}"
)
_DRESS = re.compile(
    r"\\(?:left|right|bigg?[lr]?|displaystyle|limits|quad|qquad|hspace|vspace|noindent)(?![a-z])"
    r"|\\[,;:! ()\[\]]|[$~]"
    r"|(?<![\w)])\*\*|\*\*(?![\w(])"
)
_SPELLINGS = [
    (re.compile(r"\\[dt]?frac(?![a-z])\s*(\d)"), r"\\frac{\1}"),
    (re.compile(r"\\[dt]?frac(?![a-z])"), r"\\frac"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\\(?:times|cdot)(?![a-z])|[×·∙⋅]"), "*"),
    (re.compile(r"\\div(?![a-z])|÷"), "/"),
    (re.compile(r"\\le(?:q|qslant)?(?![a-z])|≤"), "<="),
    (re.compile(r"\\ge(?:q|qslant)?(?![a-z])|≥"), ">="),
    (re.compile(r"\\(?:neq|ne)(?![a-z])|≠"), "!="),
    (re.compile(r"\\ldots|\\cdots|\\dots|…"), " "),
    (re.compile(r"\^\{?\\circ\}?|°"), " degrees "),
    (re.compile(r"[−–—‐‑]"), "-"),
    (re.compile(r"[’′]|\^\{?\\prime\}?"), "'"),
    (re.compile(r"π"), r"\\pi "),
    (re.compile(r"√"), r"\\sqrt "),
]
# A hyphen between letters joins words; a minus stands beside a digit, a bracket or a space.
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\d_\u3400-\u9fff]+|\d+(?:\.\d+)?|!=|[-+*/=<>^!]")


def spelled(text: str) -> str:
    """The text in lower case and in one spelling of formulas, without what only changes looks."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = _DRESS.sub(" ", _TEXT.sub(r" \1 ", text.casefold()))
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    return _HYPHEN.sub(" ", text)


def words(text: str) -> list[str]:
    """Words, numbers, LaTeX commands (without their backslash) and operators, in one spelling."""
    return _WORD.findall(spelled(text))


@dataclass(frozen=True)
class _Grams:
    """The distinct n-grams of a collection of texts, without boilerplate.

    `hashes` (G,) and `texts` (G,): which n-gram stands in which text; `sizes` (N,): a text's count.
    """

    hashes: np.ndarray
    texts: np.ndarray
    sizes: np.ndarray


class NearDuplicates:
    """An index of texts that tells which of them a text is, or nearly is."""

    def __init__(self, texts: Sequence[str]) -> None:
        split = [words(text) for text in texts]
        self._vocabulary: dict[str, int] = {}
        for text in split:
            for word in text:
                self._vocabulary.setdefault(word, len(self._vocabulary) + 1)
        self._whole: dict[str, list[int]] = {}
        for place, text in enumerate(split):
            self._whole.setdefault("".join(text), []).append(place)
        grams = self._grams(split)
        order = np.argsort(grams.hashes, kind="stable")
        self._hashes = grams.hashes[order]
        self._texts = grams.texts[order]
        self._sizes = grams.sizes

    def find(self, texts: Sequence[str]) -> list[list[int]]:
        """For each text the places, in ascending order, of its near-duplicates in the index."""
        split = [words(text) for text in texts]
        found = [set(self._whole.get("".join(text), ())) for text in split]
        for text, place in self._similar(self._grams(split)):
            found[text].add(place)
        return [sorted(places) for places in found]

    def _similar(self, grams: _Grams) -> Iterator[tuple[int, int]]:
        first = np.searchsorted(self._hashes, grams.hashes, "left")
        count = np.searchsorted(self._hashes, grams.hashes, "right") - first
        # Row g of `grams` meets the index rows first[g] … first[g] + count[g] - 1.
        starts = np.cumsum(count) - count
        rows = np.arange(count.sum()) - np.repeat(starts - first, count)
        pairs = np.repeat(grams.texts, count) * max(1, len(self._sizes)) + self._texts[rows]
        pairs, shared = np.unique(pairs, return_counts=True)
        text, place = np.divmod(pairs, max(1, len(self._sizes)))
        shorter = np.minimum(grams.sizes[text], self._sizes[place])
        alike = (shared >= MIN_SHARED) & (shared >= SHARE * shorter)
        return zip(text[alike].tolist(), place[alike].tolist(), strict=True)

    def _grams(self, split: list[list[str]]) -> _Grams:
        lengths = np.array([len(text) for text in split], np.int64)
        known = self._vocabulary
        # A word that the index has never seen is 0, and so is every n-gram with it alike: such an
        # n-gram may equal another unseen one, but none of the index.
        ids = np.fromiter(
            (known.get(word, 0) for text in split for word in text), np.uint64, lengths.sum()
        )
        texts = np.repeat(np.arange(len(split)), lengths)
        if len(ids) < GRAM:
            empty = np.zeros(0, np.int64)
            return _Grams(empty.astype(np.uint64), empty, np.zeros(len(split), np.int64))
        mixed = _mix(ids)
        last = len(ids) - GRAM + 1
        hashes = np.zeros(last, np.uint64)
        for offset in range(GRAM):
            hashes = _mix(hashes + mixed[offset : offset + last])
        whole = texts[:last] == texts[GRAM - 1 :]
        order = np.lexsort((texts[:last][whole], hashes[whole]))
        hashes, texts = hashes[whole][order], texts[:last][whole][order]
        new = np.ones(len(hashes), bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (texts[1:] != texts[:-1])
        hashes, texts = hashes[new], texts[new]
        _, place, count = np.unique(hashes, return_inverse=True, return_counts=True)
        rare = (count <= max(BOILERPLATE_TEXTS, BOILERPLATE_SHARE * len(split)))[place]
        hashes, texts = hashes[rare], texts[rare]
        return _Grams(hashes, texts, np.bincount(texts, minlength=len(split)))


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64, (N,) uint64 each: neighbouring numbers become unlike ones."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed
