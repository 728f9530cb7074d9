"""How large the next attempt may be, from those before."""

from service.fleet.admission import KINDS, SIZES_NEEDED, SizeEstimates


def test_the_largest_of_a_hundred() -> None:
    """The p99 of recent attempts of the same route and model."""
    sizes = SizeEstimates()
    for tokens in range(1, 101):
        sizes.record("zai", "m", tokens)
    assert sizes.p99("zai", "m", maximum=10**9, guess=7) == 100
    assert sizes.mean("zai", "m", 7) == 50
    assert sizes.mean("zai", "other", 7) == 7


def test_no_larger_than_body_and_limit_allow() -> None:
    """A short question with a small max_tokens can't be large."""
    sizes = SizeEstimates()
    for _ in range(SIZES_NEEDED):
        sizes.record("zai", "m", 10**6)
    assert sizes.p99("zai", "m", maximum=150, guess=7) == 150
    assert sizes.p99("zai", "m", maximum=0, guess=7) == 1


def test_a_guess_while_little_is_known() -> None:
    """A client's max_tokens is often its model's: no measure of its answers."""
    sizes = SizeEstimates()
    for _ in range(SIZES_NEEDED - 1):
        sizes.record("zai", "m", 5)
    assert sizes.p99("zai", "m", maximum=129_000, guess=9_000) == 9_000
    assert sizes.p99("zai", "m", maximum=64, guess=9_000) == 64


def test_memory_is_bounded() -> None:
    """Model names are the client's to invent."""
    sizes = SizeEstimates()
    for number in range(KINDS + 10):
        sizes.record("zai", f"m{number}", 5)
    assert sizes.mean("zai", "m0", 7) == 7
    assert sizes.mean("zai", f"m{KINDS + 9}", 7) == 5
