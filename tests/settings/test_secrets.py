"""Secrets never show themselves."""

import copy
import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.settings import Secret, StaticKey, load

TEXT = "hunter2-very-secret"


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        "{}".format,
        "{!r}".format,
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - the old form shows as much
        lambda secret: f"{secret}",
        lambda secret: repr([secret, {"a": (secret,)}]),
        lambda secret: repr(StaticKey("a", secret)),
        lambda secret: repr(copy.deepcopy(secret)),
    ],
    ids=["repr", "str", "format", "format repr", "percent", "f-string", "in containers", "in a struct", "copied"],
)
def test_a_secret_shows_nothing(show: Callable[[Secret], str]) -> None:
    """However it is turned into text."""
    shown = show(Secret(TEXT))
    assert "hunter2" not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "encode",
    [json.dumps, msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins, lambda secret: f"{secret:>10}"],
    ids=["json", "msgspec json", "msgspec msgpack", "msgspec builtins", "a format with a width"],
)
def test_a_secret_cannot_be_encoded(encode: Callable[[object], object]) -> None:
    """Nothing that writes it down takes it, and the refusal does not tell it either."""
    with pytest.raises(TypeError) as error:
        encode(Secret(TEXT))
    assert "hunter2" not in str(error.value)


def test_keys_do_not_show_in_the_settings() -> None:
    """Whoever logs all settings logs no key."""
    names = ("ANTHROPIC_API_KEY", "ZAI_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "PROXY_API_KEYS")
    settings = load(environ={"CCPROXY_HOME": "/nonexistent"} | dict.fromkeys(names, TEXT))
    assert "hunter2" not in repr(settings)
    assert settings.routes[0].api_key.reveal() == TEXT


@given(st.text(), st.text())
def test_secrets_compare_by_their_text(one: str, other: str) -> None:
    """Equal texts are equal secrets, with one hash; an empty one is false; a text is no secret."""
    assert (Secret(one) == Secret(other)) == (one == other)
    assert hash(Secret(one)) == hash(Secret(one))
    assert bool(Secret(one)) == bool(one)
    assert Secret(one) != one
