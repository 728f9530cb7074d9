"""Bytes of every released version of every event decode for ever: see tests/ledger/golden.

A file is `TAG.VERSION.full.json` (every field set) or `TAG.VERSION.least.json` (defaults left out). A file is never
changed once it was released. An event that gets a field gets files of a new version, and the old ones stay:
`python -m tests.ledger.golden_events` writes what is missing.
"""

from pathlib import Path

import msgspec
import pytest

from service.ledger import wire
from service.ledger.events import EventBase
from tests.ledger.golden_events import GOLDEN, TYPES, file_of, made


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_golden_bytes_decode_for_ever(path: Path) -> None:
    """Whatever was released is understood, as the event that it was; nothing in it is passed over."""
    raw = path.read_bytes()
    event = wire.decode_event(raw)
    assert isinstance(event, EventBase)
    tag = path.name.partition(".")[0]
    assert type(event) is TYPES[tag]
    assert msgspec.json.decode(msgspec.json.encode(event)) == msgspec.json.decode(raw)


@pytest.mark.parametrize("form", ["full", "least"])
@pytest.mark.parametrize("tag", TYPES)
def test_todays_event_has_the_golden_bytes(tag: str, form: str) -> None:
    """Every event type has its files, and what is written now is what they hold, byte for byte."""
    raw = file_of(tag, form).read_bytes()
    assert wire.encode_event(made(tag, form)) == raw  # type: ignore[arg-type]
    assert wire.decode_event(raw) == made(tag, form)


@pytest.mark.parametrize("tag", TYPES)
def test_the_full_file_sets_every_field(tag: str) -> None:
    """A field that is at its default is not in the bytes, so that nothing would watch over it."""
    fields = msgspec.json.decode(file_of(tag, "full").read_bytes())
    assert list(fields) == ["type", *TYPES[tag].__struct_fields__]


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_a_later_field_has_a_default(kind: type[EventBase]) -> None:
    """What the least bytes of the first version lack must never be asked for."""
    least = msgspec.json.decode(file_of(str(kind.__struct_config__.tag), "least", "v1").read_bytes())
    assert {field.name for field in msgspec.structs.fields(kind) if field.required} == set(least) - {"type"}
