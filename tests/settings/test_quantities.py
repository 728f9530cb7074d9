"""One parser of numbers and times, wherever people type them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.errors import SettingsError
from service.settings import load
from service.settings.quantities import MOST_INTEGER, future_time, number, past_time, whole_number

NOW = datetime(2026, 11, 2, 15, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0), ("7", 7), ("5M", 5_000_000), ("1.5k", 1_500), ("1.5K", 1_500), ("2_000_000", 2_000_000),
        ("20,000,000", 20_000_000), ("0.25G", 250_000_000), ("2T", 2 * 10**12), (" 5 M ", 5_000_000), (".5k", 500),
        ("9007199254740992", MOST_INTEGER),
    ],
)  # fmt: skip
def test_a_number_has_many_forms(text: str, expected: int) -> None:
    """Those in which people write it, and in which `status` shows it."""
    assert whole_number(text, 0, MOST_INTEGER) == expected
    assert number(text, 0, MOST_INTEGER) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a number"), ("much", "not a number"), ("nan", "not a number"), ("inf", "not a number"),
        ("1e9", "not a number"), ("20MB", "not a number"), ("0x10", "not a number"), ("M", "not a number"),
        ("١٢", "not a number"), ("1__0", "not a number"), ("1,5", "not a number"), ("1,0000", "not a number"),
        ("5m", "use k, M, G or T"), ("1.5", "not a whole number"), ("1.0001k", "not a whole number"),
        ("-1", "not between 0 and 2^53"), ("99999999T", "not between 0 and 2^53"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused(text: str, words: str) -> None:
    """Nothing is guessed: `1,5` is 1.5 to some and 15 to others, `5m` may be minutes."""
    with pytest.raises(ValueError, match=words.replace("^", r"\^")):
        whole_number(text, 0, MOST_INTEGER)


@pytest.mark.parametrize(
    ("text", "ago"),
    [("30s", timedelta(seconds=30)), ("90m", timedelta(minutes=90)), ("12h", timedelta(hours=12)),
     ("7d", timedelta(days=7)), ("4w", timedelta(weeks=4)), ("2026-11-02T14:00", timedelta(hours=1)),
     ("2026-11-02T14:00+02:00", timedelta(hours=3)), ("2026-11-01", timedelta(hours=39))],
)  # fmt: skip
def test_a_time_is_a_date_a_time_or_a_duration(text: str, ago: timedelta) -> None:
    """In the past, from now or in UTC."""
    assert NOW - past_time(text, NOW) == ago


def test_a_date_in_the_future_is_whole() -> None:
    """A key that ends on a day works on that day."""
    assert future_time("2026-11-03", NOW) == datetime(2026, 11, 4, tzinfo=UTC)
    assert future_time("30d", NOW) == NOW + timedelta(days=30)


@pytest.mark.parametrize(
    "text", ["", "soon", "5", "-5d", "5y", "999999w", "2026-13-01", "9999-12-31", "0001-01-01T00:00+14:00"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    """With what is understood; times out of the calendar, too."""
    reader = past_time if text.startswith("0001") else future_time
    with pytest.raises(ValueError, match="is not a time; use a date"):
        reader(text, NOW)


def test_numbers_of_the_file_may_be_texts(tmp_path: Path) -> None:
    """TOML has no `20M`; a text is read like a variable, and a mistake names its place."""
    config = tmp_path / "ccproxy.toml"
    routes = '[[routes]]\nid = "work"\nprovider = "anthropic"\nweekly_tokens = "{}"\nconcurrency = "1_000"\n'
    config.write_text(routes.format("1.5M") + '[models."x-*"]\ncontext_tokens = "200k"\n', encoding="utf-8")
    settings = load(config, {"CCPROXY_HOME": str(tmp_path)})
    assert (settings.routes[0].weekly_tokens, settings.routes[0].concurrency) == (1_500_000, 1_000)
    assert dict(settings.policy.models)["x-*"].context_tokens == 200_000
    config.write_text(routes.format("many"), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"ccproxy.toml: routes.weekly_tokens: 'many' is not a number"):
        load(config, {"CCPROXY_HOME": str(tmp_path)})
