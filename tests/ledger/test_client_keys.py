"""Client keys as they are issued: their text, their id, and what is told from a token."""

from hashlib import sha256

import pytest

from service.ledger.keys import id_in, is_issued, make_key

CHANCE = bytes(range(27))


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("ann", "ann"),
        ("Ann B. (laptop)", "ann-b-laptop"),
        ("--x--", "x"),
        ("n" * 60, "n" * 48),
        ("", "key"),
        ("\u00fc!", "key"),
    ],
)
def test_a_key_is_named_after_its_owner(name: str, slug: str) -> None:
    """In small letters, digits and hyphens, bounded; `key` where nothing is left of the name."""
    key = make_key(name, CHANCE)
    assert key.key_id == f"{slug}-18191a"
    assert key.text == f"ccp_{key.key_id}_{CHANCE[:24].hex()}"
    assert key.sha256 == sha256(key.text.encode()).hexdigest()


def test_a_key_says_its_own_id() -> None:
    """So that it is found at once; other tokens say none."""
    token = make_key("ann", CHANCE).text.encode()
    assert (is_issued(token), id_in(token)) == (True, "ann-18191a")
    assert (is_issued(b"sk-ant-x"), id_in(b"x")) == (False, "")
