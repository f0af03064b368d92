"""The language of a problem's words, formulas aside."""

from __future__ import annotations

import re

# A single letter of these scripts may be a symbol; Chinese characters never are.
_SCRIPTS = {
    "ja": re.compile(r"[\u3040-\u30ff]"),
    "ko": re.compile(r"[\uac00-\ud7af]"),
    "zh": re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]"),
    "ru": re.compile(r"[\u0400-\u04ff]{2}"),
    "ar": re.compile(r"[\u0600-\u06ff]{2}"),
    "hi": re.compile(r"[\u0900-\u097f]{2}"),
    "th": re.compile(r"[\u0e00-\u0e7f]{2}"),
    "el": re.compile(r"[\u0370-\u03ff]{4}"),
}
# The commonest words that are none in the other languages here, and no English ones.
_WORDS = {
    "en": "the of and is are that for with find what how many if be let which from by when each",
    "fr": "les est une dans pour que des qui soit sont avec calculer trouver nombre deux du",
    "de": "der die das und ist mit ein eine einer von wie den zu sind für auf bestimme nicht",
    "es": "el los las una es que del por para con cuántos hallar número si cuál y son sea",
    "it": "il di che della sono per con una gli trovare quanti numero è sia delle nel",
    "pt": "os uma que do da para com são quantos encontre número se é dos em seja",
}
_INDEX = {
    word: [language for language, words in _WORDS.items() if word in words.split()]
    for words in _WORDS.values()
    for word in words.split()
}
# Formulas, and figures drawn in Asymptote.
_FORMULA = re.compile(
    r"\[asy\].*?\[/asy\]|\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]|\\[a-zA-Z]+", re.S | re.I
)
_WORD = re.compile(r"[^\W\d_]+")
FEWEST_WORDS = 3
LANGUAGES = tuple(sorted({*_SCRIPTS, *_WORDS}))


def language_of(text: str, default: str = "en") -> str:
    """ISO 639-1 code of the text's language; `default` where the words do not tell."""
    if not text.isascii():
        for language, letters in _SCRIPTS.items():
            if letters.search(text):
                return language
    counts = dict.fromkeys(_WORDS, 0)
    for word in _WORD.findall(_FORMULA.sub(" ", text).lower()):
        for language in _INDEX.get(word, ()):
            counts[language] += 1
    best = max(counts, key=lambda language: (counts[language], language == default))
    clear = counts[best] >= FEWEST_WORDS and counts[best] > 2 * counts.get(default, 0)
    return best if clear else default
