"""NO_PROXY is read as curl reads it, and ports are heeded."""

import pytest

from service.no_proxy import is_direct


@pytest.mark.parametrize(
    ("host", "no_proxy"),
    [
        ("api.z.ai", "*"),
        ("api.z.ai", "z.ai"),
        ("api.z.ai", ".z.ai"),
        ("z.ai", ".z.ai"),
        ("api.z.ai.", "Z.AI."),
        ("api.z.ai", "other,  api.z.ai:443"),
        ("api.z.ai", "*:443"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3", "172.16.0.0/12 10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.9/24"),
        ("10.1.2.3", "10.0.0.0/8:443"),
        ("::1", "::1"),
        ("::1", "[::1]"),
        ("::1", "[0:0::1]:443"),
        ("fd00::5", "fd00::/8"),
    ],
)
def test_who_is_excepted(host: str, no_proxy: str) -> None:
    """Names and what lies below them, addresses, networks, with a port or for all."""
    assert is_direct(host, 443, no_proxy)


@pytest.mark.parametrize(
    ("host", "no_proxy"),
    [
        ("api.z.ai", ""),
        ("api.z.ai", ",  ,"),
        ("api.z.ai", "xz.ai,i,ai.z,."),
        ("xz.ai", "z.ai"),
        ("api.z.ai", "z.ai:8443,*:80"),
        ("api.z.ai", "10.0.0.0/8,z.ai/8"),
        ("10.1.2.3", "10.0.0.0/99,11.0.0.0/8,2.3,10.1.2"),
        ("10.1.2.3", "10.0.0.0/8:80"),
        ("::1", "[::1]:80,fd00::/8,0.0.0.0/0,[::1"),
        ("", "a"),
    ],
)
def test_who_is_not(host: str, no_proxy: str) -> None:
    """Another port, half a name, and what can't be read."""
    assert not is_direct(host, 443, no_proxy)
