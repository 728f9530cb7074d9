"""Estimates the tokens of a text that a model has written, by its words and signs.

Tokenizers are not public for most models, and a fixed number of characters per token is wrong by half between prose,
code and Chinese. So words, numbers and signs are weighed one by one, and the rest is learnt: how a model's own counts
compare, for each kind of text (`token_rates`).

Not here: prompts (`token_estimate`), which are long and need bounds, not figures.
"""

import re
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

Script = Literal["ascii", "latin", "han", "hangul", "cyrillic", "other"]
"""Kinds of text that tokenizers treat differently: English and code, other languages in Latin letters, Chinese and
Japanese, Korean, Cyrillic and Greek, and all other scripts."""

WORD = re.compile(r"[A-Za-z]+")
OTHER_SIGNS = (
    (1.6, re.compile(r"[0-9]{1,3}")),
    (0.5, re.compile(r"[^\S\n]{2,}|\n+")),
    (1.0, re.compile(r"[^\sA-Za-z0-9\x80-\U0010ffff]+")),
)
"""Tokens of a number's digits by threes, of indentation and line ends, and of punctuation."""
WORD_TOKENS = 0.78
SHORT_WORD = 4
LONGER_WORD_TOKENS = 0.21
"""A word of up to four letters, and each letter beyond them."""
LETTERS: tuple[tuple[Script, float, re.Pattern[str]], ...] = (
    ("latin", 0.85, re.compile(r"[\x80-\u024f\u1e00-\u1eff]")),
    ("han", 0.92, re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")),
    ("hangul", 1.05, re.compile(r"[\uac00-\ud7af]")),
    ("cyrillic", 0.43, re.compile(r"[\u0370-\u052f]")),
)
OTHER_TOKENS = 0.8
"""Tokens of a letter beyond ASCII."""
LATIN_SHARE = 1 / 150
"""Texts of which more than this is accented letters are not English."""
SCRIPT_SHARE = 1 / 4
"""The weights are the means of a least-squares fit to three public tokenizers, over 600 pieces of documentation in 20
languages and of code."""


class TextTokens(Struct):
    """Estimated tokens of texts, and their letters beyond ASCII, by script."""

    tokens: float = 0
    chars: int = 0
    letters: dict[Script, int] = {}

    @property
    def script(self) -> Script:
        """The script that makes most of the difference."""
        if not self.letters:
            return "ascii"
        most = max(self.letters, key=self.letters.__getitem__)
        if most != "latin" and self.letters[most] > self.chars * SCRIPT_SHARE:
            return most
        return "latin" if self.letters.get("latin", 0) > self.chars * LATIN_SHARE else "ascii"

    def add(self, text: str, weight: float = 1) -> None:
        """Count a text that stands for `weight` times as much."""
        words = WORD.findall(text)
        tokens = WORD_TOKENS * len(words) + LONGER_WORD_TOKENS * letters_beyond(words)
        for tokens_each, sign in OTHER_SIGNS:
            tokens += tokens_each * len(sign.findall(text))
        if not text.isascii():
            tokens += self._add_letters(text)
        self.tokens += tokens * weight
        self.chars += len(text)

    def _add_letters(self, text: str) -> float:
        """Count letters beyond ASCII; return their tokens."""
        rest = len(text) - len(text.encode("ascii", "ignore"))
        tokens = 0.0
        for script, tokens_each, letter in LETTERS:
            count = len(letter.findall(text))
            self._count(script, count)
            rest -= count
            tokens += tokens_each * count
        self._count("other", rest)
        return tokens + OTHER_TOKENS * rest

    def _count(self, script: Script, letters: int) -> None:
        if letters:
            self.letters[script] = self.letters.get(script, 0) + letters


def letters_beyond(words: Iterable[str]) -> int:
    """Return how many letters words have beyond the first four."""
    return sum(size - SHORT_WORD for size in map(len, words) if size > SHORT_WORD)
