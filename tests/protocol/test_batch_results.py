"""The tap on batch results: what each item used, however the lines are cut."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ledger.events import TokenCounts
from service.protocol import batch_results as batches
from service.protocol.batch_results import BatchItem, BatchTap
from service.protocol.usage_reader import UsageReading


def line(custom_id: str, kind: str = "succeeded", **usage: int) -> bytes:
    message = {"type": "message", "id": "msg_1", "model": "claude-opus-4-8", "usage": usage, "content": []}
    result = {"type": kind, "message": message} if kind == "succeeded" else {"type": kind}
    return msgspec.json.encode({"custom_id": custom_id, "result": result})


RESULTS = b"\n".join(
    [line("a", input_tokens=3, output_tokens=4), line("b", "errored"), b"no json", line("ü", input_tokens=5)]
)
ITEMS = [
    BatchItem("a", UsageReading(TokenCounts(input=3, output=4), "claude-opus-4-8")),
    BatchItem("ü", UsageReading(TokenCounts(input=5), "claude-opus-4-8")),
]


@given(st.lists(st.integers(min_value=0, max_value=len(RESULTS)), max_size=8), st.booleans())
def test_any_cut_gives_the_same_items(cuts: list[int], ends_with_a_break: bool) -> None:  # noqa: FBT001
    """However the results are cut into chunks, each item that used anything is told once, in order."""
    whole = RESULTS + (b"\n" if ends_with_a_break else b"")
    edges = sorted({0, *cuts, len(whole)})
    tap = BatchTap()
    parts = [tap.feed(whole[start:end]) for start, end in itertools.pairwise(edges)]
    parts.append(tap.finish())
    assert [item for items, _ in parts for item in items] == ITEMS
    assert b"".join(ready for _, ready in parts) == whole
    assert all(ready.endswith(b"\n") for _, ready in parts[:-1] if ready), "a line is held back until it is whole"


def test_a_line_over_the_limit_passes_uncounted_and_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: a line that is too long is passed over, the next one counts."""
    monkeypatch.setattr(batches, "LINE_BYTES", 300)
    tap = BatchTap()
    assert tap.feed(b"x" * 400) == ([], b"x" * 400)
    assert tap.feed(b"y") == ([], b"y")
    last = b"z\n" + line("a", input_tokens=3, output_tokens=4) + b"\n"
    assert tap.feed(last) == (ITEMS[:1], last)
    assert tap.finish() == ([], b"")


@pytest.mark.parametrize(("size", "counted"), [(300, True), (301, False)])
@pytest.mark.parametrize("ends", [b"\n", b""])
def test_a_line_of_just_the_limit_counts(
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    counted: bool,  # noqa: FBT001 - a case
    ends: bytes,
) -> None:
    """Also the last one, without a line break."""
    monkeypatch.setattr(batches, "LINE_BYTES", 300)
    whole = line("a", input_tokens=3, output_tokens=4).ljust(size)
    tap = BatchTap()
    parts = (tap.feed(whole), tap.feed(ends), tap.finish())
    assert [item for items, _ in parts for item in items] == (ITEMS[:1] if counted else [])
    assert b"".join(ready for _, ready in parts) == whole + ends


@pytest.mark.parametrize(
    ("usage", "content", "tokens", "estimated"),
    [
        ({"input_tokens": 3, "output_tokens": 1}, "x" * 400, TokenCounts(input=3, output=1), False),
        ({"input_tokens": 3}, "x" * 398, TokenCounts(input=3, output=100), True),
        ({}, "x" * 398, TokenCounts(input=1, output=100), True),
        ({"input_tokens": 3}, [], TokenCounts(input=3), False),
    ],
    ids=["told", "no output was told", "nothing was told", "no content"],
)
def test_an_item_without_usage_counts_by_its_size(
    usage: dict[str, int],
    content: object,
    tokens: TokenCounts,
    estimated: bool,  # noqa: FBT001 - a case
) -> None:
    """Four bytes of its content to a token; its request is not known here, and counts as one."""
    message = {"type": "message", "model": "m", "usage": usage, "content": content}
    raw = msgspec.json.encode({"custom_id": "a", "result": {"type": "succeeded", "message": message}})
    items, _ = BatchTap().feed(raw + b"\n")
    assert items == [BatchItem("a", UsageReading(tokens, "m", estimated=estimated))]


def test_the_end_of_a_line_over_the_limit_is_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it looks like one."""
    monkeypatch.setattr(batches, "LINE_BYTES", 300)
    tap = BatchTap()
    item = line("a", input_tokens=3, output_tokens=4)
    assert tap.feed(b"x" * 400)[0] + tap.feed(item + b"\n")[0] == []
    assert tap.feed(item + b"\n")[0] == ITEMS[:1]


def test_half_a_surrogate_pair_hides_no_item() -> None:
    """A client could have the model write it; JSON has it, and clients read it."""
    for text in (rb"\ud83d", rb"\uDE00\ud83d", rb"\ud83d\ude00", rb"\\ud83d"):
        raw = line("a", input_tokens=3, output_tokens=4).replace(b'"content":', b'"note":"' + text + b'","content":')
        assert text in raw
        items, ready = BatchTap().feed(raw + b"\n")
        assert (items, ready) == (ITEMS[:1], raw + b"\n")
