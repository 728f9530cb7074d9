"""Tokens of texts by words, signs and scripts, and the rates that are learnt of a model."""

import pytest

from service.protocol.text_tokens import TextTokens
from service.protocol.token_rates import FURTHEST, MEMORY, Mean, ModelRates


def counted(text: str, weight: float = 1) -> TextTokens:
    """A text, counted."""
    found = TextTokens()
    found.add(text, weight)
    return found


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("word", 0.78),
        ("longer", 0.78 + 2 * 0.21),
        ("a b", 2 * 0.78),
        ("1234", 2 * 1.6),
        ("...", 1.0),
        (". .", 2.0),
        ("    \n\n", 2 * 0.5),
        ("éé", 2 * 0.85),
        ("汉字か", 3 * 0.92),
        ("한국", 2 * 1.05),
        ("дом", 3 * 0.43),
        ("עברי", 4 * 0.8),
    ],
)
def test_each_kind_of_sign_has_its_tokens(text: str, tokens: float) -> None:
    """A text that stands for more counts as often."""
    assert counted(text).tokens == pytest.approx(tokens)
    assert counted(text, 3).tokens == pytest.approx(3 * tokens)
    assert counted(text, 3).chars == len(text)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("plain words", "ascii"),
        ("x" * 149 + "é", "ascii"),
        ("x" * 148 + "éé", "latin"),
        ("é", "latin"),
        ("汉字 abc", "han"),
        ("汉a" + "b" * 2, "ascii"),
        ("汉汉a" + "b" * 4, "han"),
        ("дом é", "cyrillic"),
        ("é дом", "cyrillic"),
        ("ééé д", "latin"),
    ],
)
def test_the_script_is_that_of_most_letters(text: str, script: str) -> None:
    """Above a quarter of the text; accents show that it is not English."""
    assert counted(text).script == script


@pytest.mark.parametrize(
    ("counted_tokens", "rate"),
    [(200, 2.0), (100 * FURTHEST, FURTHEST), (100 * FURTHEST + 1, 1.0), (100 / FURTHEST, 1 / FURTHEST), (24, 1.0)],
)
def test_a_rate_follows_what_is_near_the_published_one(counted_tokens: float, rate: float) -> None:
    """What is further off is of something else."""
    rates = ModelRates({"ascii": Mean(1.0)}, Mean(60.0), Mean(500.0))
    rates.learn("ascii", 100, counted_tokens)
    assert rates.rate("ascii") == pytest.approx(rate)


@pytest.mark.parametrize(("answers", "due"), [(0, True), (31, True), (32, True), (33, False), (63, False), (64, True)])
def test_few_of_the_later_answers_are_looked_at(answers: int, due: bool) -> None:  # noqa: FBT001 - a case
    """The first 32, then one in as many."""
    assert ModelRates({}, Mean(60.0), Mean(500.0), answers).is_due is due


def test_a_mean_follows_the_last_values() -> None:
    """Of as many as it remembers it is the plain mean; the published one that it began with counts as none."""
    mean = Mean(500.0)
    for value in (10, 20, 60):
        mean.follow(value)
    assert mean.value == 30
    for _ in range(10 * MEMORY):
        mean.follow(90)
    assert mean.value == pytest.approx(90, abs=0.1)
