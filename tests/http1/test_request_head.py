"""Requests as they go on the wire: the bytes, and what never gets there."""

import httpx
import pytest

from service.http1.request_head import Origin, base_of, request_head, target_under, upload_bytes

PLAIN = Origin("api.example", 80, tls=False)


def test_a_head_is_these_bytes() -> None:
    """Host and framing are ours; the rest goes as given."""
    head = request_head("POST", PLAIN, b"/v1/messages?a=b", [(b"x-api-key", b"k"), (b"accept", b"*/*")], 12)
    assert head == (
        b"POST /v1/messages?a=b HTTP/1.1\r\nhost: api.example\r\nx-api-key: k\r\naccept: */*\r\n"
        b"content-length: 12\r\n\r\n"
    )


def test_a_given_host_is_kept_and_given_framing_is_not() -> None:
    """Framing headers say how an upload is framed; they never frame it."""
    given = [(b"Host", b"other"), (b"Content-Length", b"5"), (b"Transfer-Encoding", b"gzip"), (b"Connection", b"x")]
    head = request_head("POST", PLAIN, b"/", given, None)
    assert head == b"POST / HTTP/1.1\r\nhost: other\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(("method", "told"), [("GET", 0), ("DELETE", 0), ("POST", 1), ("PUT", 1)])
def test_an_empty_body_is_told_where_one_is_usual(method: str, told: int) -> None:
    """A POST without a body says so."""
    assert request_head(method, PLAIN, b"/", [], 0).count(b"content-length: 0") == told


@pytest.mark.parametrize(
    ("method", "target", "name", "value"),
    [
        ("POST", b"/", b"x-a", b"b\r\nx-b: c"),
        ("POST", b"/", b"x-a", b"b\nx-b: c"),
        ("POST", b"/", b"x-a", b"b\r"),
        ("POST", b"/", b"x-a", b"b\0"),
        ("POST", b"/", b"x-a", b"b\x7f"),
        ("POST", b"/", b"host", b"a\r\nx-b: c"),
        ("POST", b"/", b"x-a\r\nx-b", b"c"),
        ("POST", b"/", b"x a", b"c"),
        ("POST", b"/", b"x-a:", b"c"),
        ("POST", b"/", b"", b"c"),
        ("PO ST", b"/", b"x-a", b"b"),
        ("POST\r\n", b"/", b"x-a", b"b"),
        ("TRACE", b"/", b"x-a", b"b"),
        ("", b"/", b"x-a", b"b"),
        ("POST", b"/ HTTP/1.1\r\nx-b: c\r\n\r\n", b"x-a", b"b"),
        ("POST", b"/\n", b"x-a", b"b"),
    ],
)
def test_nothing_ends_a_line_early(method: str, target: bytes, name: bytes, value: bytes) -> None:
    """No header, target or method writes a second one; and the refusal quotes nothing."""
    with pytest.raises(httpx.LocalProtocolError) as raised:
        request_head(method, PLAIN, target, [(name, value)], 0)
    assert "x-b" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "origin", "prefix"),
    [
        ("http://a/b", Origin("a", 80, tls=False), b"/b"),
        ("http://a/b/", Origin("a", 80, tls=False), b"/b"),
        ("https://A.Example:8443/b/c", Origin("a.example", 8443, tls=True), b"/b/c"),
        ("https://a", Origin("a", 443, tls=True), b""),
        ("http://[::1]:99/b", Origin("::1", 99, tls=False), b"/b"),
        ("http://müller.example/b c", Origin("xn--mller-kva.example", 80, tls=False), b"/b%20c"),
    ],
)
def test_a_base_url_is_an_origin_and_a_prefix(url: str, origin: Origin, prefix: bytes) -> None:
    """A setting, read once; targets are put behind its path."""
    assert base_of(url) == (origin, prefix)


@pytest.mark.parametrize("url", ["ftp://a/", "a/b", "", "http://", "http:///b", "http://a:x/", "http://a:99999999/"])
def test_what_is_no_url_is_refused(url: str) -> None:
    """No scheme, no host, or another kind of address."""
    with pytest.raises((httpx.UnsupportedProtocol, httpx.InvalidURL)):
        base_of(url)


@pytest.mark.parametrize("target", [b"/v1/x?c=d|e~f!(g)*;h:i@j,k$l", b"/%2e%2F?q=%20", b"//h/x"])
def test_a_target_stays_as_it_is(target: bytes) -> None:
    """Nothing in it is resolved, escaped or taken for a host."""
    assert target_under(target, b"/base") == b"/base" + target


@pytest.mark.parametrize("target", [b"", b"x", b"@h/", b"/b\r\nx-b: c", b"/b c", b"/b#c", b"/\xe9", b"/" * 65_537])
def test_what_is_no_target_is_refused(target: bytes) -> None:
    """Only origin form, in printable ASCII and within the bound."""
    with pytest.raises(httpx.InvalidURL):
        target_under(target)


@pytest.mark.parametrize(
    ("origin", "authority"),
    [
        (Origin("a", 443, tls=True), b"a"),
        (Origin("a", 80, tls=True), b"a:80"),
        (Origin("::1", 80, tls=False), b"[::1]"),
        (Origin("::1", 81, tls=False), b"[::1]:81"),
    ],
)
def test_the_host_names_a_port_that_is_not_usual(origin: Origin, authority: bytes) -> None:
    """As browsers and httpx do."""
    assert origin.authority == authority


def test_an_uploads_length_is_a_number() -> None:
    """None where nothing is said."""
    assert upload_bytes([(b"Content-Length", b"12")]) == 12
    assert upload_bytes([]) is None
    with pytest.raises(httpx.LocalProtocolError):
        upload_bytes([(b"content-length", b"-1")])
