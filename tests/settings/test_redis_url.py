"""A Redis URL says what Redis is and where; a mistake in it repeats nothing of it."""

import re
from pathlib import Path

import pytest

import service
import workers
from service.settings.redis_url import place_of

CLIENT = re.compile(r"\bfrom_url\(|\b(?:Strict|Async)?Redis(?:Cluster)?\(|\bSentinel\(")
"""How redis-py's clients are made."""


@pytest.mark.parametrize(
    ("url", "kind", "shown", "plain"),
    [
        ("redis://h", "server", "h:6379", "redis://h:6379"),
        ("redis://:p@h:1/2", "server", "h:1", "redis://:p@h:1/2"),
        ("rediss://u:p@[::1]:1/2?ssl_ca_certs=/c", "server", "[::1]:1", "rediss://u:p@[::1]:1/2?ssl_ca_certs=/c"),
        ("unix:///run/r.sock?db=1", "server", "/run/r.sock", "unix:///run/r.sock?db=1"),
        ("redis+sentinel://h1,h2:2/main", "sentinel", "h1:26379,h2:2 (sentinel main)", "redis://h1:26379/"),
        ("rediss+sentinel://u:p@h1:1/main/3?db=1", "sentinel", "h1:1 (sentinel main)", "rediss://u:p@h1:1/3?db=1"),
        ("redis+cluster://:p@h1,h2:2", "cluster", "h1:6379,h2:2 (cluster)", "redis://:p@h1:6379"),
        ("rediss+cluster://h1/0", "cluster", "h1:6379 (cluster)", "rediss://h1:6379/0"),
    ],
)
def test_a_url_says_where_redis_is(url: str, kind: str, shown: str, plain: str) -> None:
    """Its kind, its nodes without secrets, and what redis-py is told."""
    place = place_of(url)
    assert (place.kind, place.shown, place.plain_url) == (kind, shown, plain)
    assert place.tls == url.startswith("rediss")


@pytest.mark.parametrize(
    "url",
    [
        "http://:hunter2@h",
        "redis://",
        "redis://:hunter2@h1,h2",
        "redis://:hun/ter2@h",
        "redis://h:hunter2",
        "redis+sentinel://:hunter2@h1,h2",
        "redis+sentinel://:hunter2@/main",
        "redis+cluster://:hunter2@h/3",
    ],
)
def test_a_mistake_repeats_nothing(url: str) -> None:
    """What may be a password is not in the words of the error."""
    with pytest.raises(ValueError, match=r".") as error:
        place_of(url)
    assert "hun" not in str(error.value)


def test_redis_is_opened_by_one_page_alone() -> None:
    """Nobody but `redis_client.factory` makes a client: TLS, Sentinel and Cluster work wherever Redis is asked."""
    pages = [page for house in (service, workers) for page in Path(house.__path__[0]).rglob("*.py")]
    found = {page.stem for page in pages if CLIENT.search(page.read_text("utf-8"))}
    assert found == {"factory"}
