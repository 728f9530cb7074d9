"""An error's words: what of them a client may have written, and what points into its request.

Not here: what follows from it for the route (`test_failure`, and `tests/relay/test_whose_fault.py`).
"""

import pytest

from service.routing.error_words import echo_of, points_into_request, without_echoes

SUSPENDED = ("account suspended", "欠费")


@pytest.mark.parametrize(
    ("message", "text", "left"),
    [
        pytest.param("no: account suspended", "account suspended", "no:  ", id="the text itself"),
        pytest.param("no: my account suspended", "my account suspended, why?", "no:  ", id="its beginning"),
        pytest.param("no: 欠费", "欠费, why?", "no:  ", id="a word of two characters"),
        pytest.param("account suspended", "hello", "account suspended", id="another text"),
        pytest.param("is account suspended", "is not an account suspended", "is account suspended", id="begins alike"),
        pytest.param("an account suspended", "un account suspended", "an account suspended", id="begins otherwise"),
    ],
)
def test_a_text_is_left_out_up_to_the_phrase(message: str, text: str, left: str) -> None:
    """What comes after it in the text, the provider need not repeat."""
    assert without_echoes(message, SUSPENDED, [text]) == left


def test_a_text_is_looked_at_as_far_as_twice_the_length_of_the_error() -> None:
    """A request of megabytes costs no more."""
    message = "refused: account suspended"
    within = "account".ljust(2 * len(message) - len("suspended")) + "suspended"
    assert without_echoes(message, SUSPENDED, [within]) == "refused:  "
    assert without_echoes(message, SUSPENDED, [within.replace("account", "account ")]) == message


def test_the_longest_beginning_that_is_repeated_is_the_echo() -> None:
    """Of two phrases in a text the later one is tried first; one that the message lacks is none."""
    text, phrases = "no credit, so my account is closed", ("credit", "account is closed")
    assert echo_of(text, phrases, f"refused: {text}") == text
    assert echo_of(text, phrases, "refused: no credit, sorry") == "no credit"
    assert echo_of(text, phrases, "refused") == ""


@pytest.mark.parametrize(
    ("text", "echo"),
    [("account", ""), ("account2", ""), ("konto-account", "konto-account"), ("の account", "の account"), ("軒", "軒")],
)
def test_a_single_plain_word_is_no_echo(text: str, echo: str) -> None:
    """Providers use it on their own; other scripts write whole sentences without a blank."""
    assert echo_of(text, ("account", "account2", "軒"), f"x {text} x") == echo


@pytest.mark.parametrize(
    ("words", "fields", "expected"),
    [
        ("temperature and sorrow", (), True),
        ("the sorrow of colours", (), False),
        ("the sorrow of colours", ("colours",), True),
        ("", ("colours",), False),
    ],
)
def test_one_word_for_a_field_points_into_the_request(words: str, fields: tuple[str, ...], *, expected: bool) -> None:
    """Of the documentation's words, or of the request's own fields."""
    assert points_into_request(words, fields) is expected
