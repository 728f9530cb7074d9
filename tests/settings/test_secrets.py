"""Secrets never show themselves."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.errors import SettingsError
from service.settings import SECRETS, VARIABLES, Secret, StaticKey, load

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


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_may_lie_in_a_file(name: str, tmp_path: Path) -> None:
    """As containers are given them; the line's end that editors leave is no part of it."""
    schemes = {"REDIS": "redis", "DATABASE": "postgresql"}
    scheme = next((scheme for word, scheme in schemes.items() if f"{word}_" in name), None)
    password = "a-password-of-more-than-32-characters"
    text = f"{scheme}://:{password}@server/0" if scheme else password
    file = tmp_path / "secret"
    file.write_text(text + "\n", encoding="utf-8")
    home = {"CCPROXY_HOME": str(tmp_path)}
    assert load(environ=home | {f"{name}_FILE": str(file)}) == load(environ=home | {name: text})
    both = load(environ=home | {name: text, f"{name}_FILE": "/nonexistent"})
    assert replace(both, notices=()) == load(environ=home | {name: text})
    assert both.notices == (f"{name}_FILE has no effect: {name} is set",)


def test_the_key_of_a_route_in_the_file_may_lie_in_a_file(tmp_path: Path) -> None:
    """Whatever its variable is called."""
    (tmp_path / "key").write_text(TEXT, encoding="utf-8")
    config = tmp_path / "ccproxy.toml"
    config.write_text('[[routes]]\nid = "work"\nprovider = "anthropic"\napi_key_env = "WORK_KEY"\n', encoding="utf-8")
    settings = load(config, {"CCPROXY_HOME": str(tmp_path), "WORK_KEY_FILE": str(tmp_path / "key")})
    assert settings.routes[0].api_key.reveal() == TEXT


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "no text"])
def test_a_secret_file_that_cannot_be_read_is_an_error_with_its_name(content: bytes | None, tmp_path: Path) -> None:
    """It names the variable and the path."""
    if content:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(SettingsError, match=r"ZAI_API_KEY_FILE: .*key"):
        load(environ={"CCPROXY_HOME": str(tmp_path), "ZAI_API_KEY_FILE": str(tmp_path / "key")})


def test_whatever_is_called_a_secret_may_lie_in_a_file() -> None:
    """No variable is forgotten."""
    endings = ("_KEY", "_KEYS", "_TOKEN", "_PASSWORD", "_SECRET")
    assert {variable.name for variable in VARIABLES if variable.name.endswith(endings)} <= set(SECRETS)


@pytest.mark.parametrize(
    "variable", ["ANTHROPIC_API_KEY", "ZAI_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "toml", "env of toml"]
)
@pytest.mark.parametrize(
    "key", ["sk-{0}\nsecond", "sk-{0}\r\nx-other: 1", "Bearer {0}", "sk {0}", "sk-{0}…", "sk-{0}\u200b", "\ufeff{0}"]
)
def test_a_key_that_no_header_can_carry_is_refused(variable: str, key: str, tmp_path: Path) -> None:
    """In one line that names the place and repeats nothing. Else each request fails, and the route looks well."""
    value = key.format(TEXT)
    variables = {"CCPROXY_HOME": str(tmp_path), variable: value, "OTHER": value}
    if "toml" in variable:
        table = '[[routes]]\nid = "a"\nprovider = "zai"\n'
        given = f"api_key = {json.dumps(value)}" if variable == "toml" else 'api_key_env = "OTHER"'
        (tmp_path / "ccproxy.toml").write_text(table + given, encoding="utf-8")
    place = {"toml": "route 'a': api_key: ", "env of toml": "route 'a': OTHER: "}.get(variable, f"{variable}: ")
    with pytest.raises(SettingsError, match=r"copy the key again|leave it out") as error:
        load(environ=variables)
    assert place in str(error.value)
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfkey-of-a-file\r\n", b'"key-of-a-file"\n', b"  key-of-a-file"])
def test_a_key_is_read_from_what_editors_write(content: bytes, tmp_path: Path) -> None:
    """With a byte order mark, a line break, quotes or spaces around it."""
    (tmp_path / "key").write_bytes(content)
    settings = load(environ={"CCPROXY_HOME": str(tmp_path), "ZAI_API_KEY_FILE": str(tmp_path / "key")})
    assert settings.routes[2].api_key.reveal() == "key-of-a-file"
