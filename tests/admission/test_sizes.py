"""How large the next attempt may be, from those before."""

from service.admission import KINDS, OUTPUT_GUESS_TOKENS, SIZES_NEEDED, Sizes


def test_the_largest_of_a_hundred() -> None:
    """The p99 of recent attempts of the same route and model."""
    sizes = Sizes()
    for tokens in range(1, 101):
        sizes.note("zai", "m", tokens)
    assert sizes.large("zai", "m", 10**9, 10**9) == 100
    assert sizes.mean("zai", "m", 7) == 50
    assert sizes.mean("zai", "other", 7) == 7


def test_no_larger_than_body_and_limit_allow() -> None:
    """A short question with a small max_tokens can't be large."""
    sizes = Sizes()
    for _ in range(SIZES_NEEDED):
        sizes.note("zai", "m", 10**6)
    assert sizes.large("zai", "m", 300, 50) == 150
    assert sizes.large("zai", "m", 0, 0) == 1


def test_a_guess_while_little_is_known() -> None:
    """The body, and an answer of usual length: a client's max_tokens is often its model's."""
    sizes = Sizes()
    for _ in range(SIZES_NEEDED - 1):
        sizes.note("zai", "m", 5)
    assert sizes.large("zai", "m", 3_000, 128_000) == 1_000 + OUTPUT_GUESS_TOKENS
    assert sizes.large("zai", "m", 3_000, 64) == 1_064


def test_memory_is_bounded() -> None:
    """Model names are the client's to invent."""
    sizes = Sizes()
    for number in range(KINDS + 10):
        sizes.note("zai", f"m{number}", 5)
    assert sizes.mean("zai", "m0", 7) == 7
    assert sizes.mean("zai", f"m{KINDS + 9}", 7) == 5
