"""Spool: events on disk while Redis is unavailable. Frames with a checksum; a torn tail is tolerated.

One folder per process, under a lock released with the process; any process of the host may adopt a folder whose lock is
free. A frame is `length, crc32` (big-endian, 4 bytes each) and `stream NUL event`. Not here: when to write and read
(`outbox`).
"""

import fcntl
import os
import shutil
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from zlib import crc32

from msgspec import Struct, field

from service.ledger.events import Event
from service.ledger.state import Heard
from service.ledger.wire import Decoded, Undecodable, decode_event, encode_event
from service.private_files import make_closed_folder, opener

HEAD = struct.Struct(">II")
SEGMENT_BYTES = 8 * 1024 * 1024
"""Segments are deleted whole, so they should be small; but a long outage should not create thousands."""
FRAME_LIMIT_BYTES = 1024 * 1024
"""Far above any event; a longer frame means a torn or foreign file."""
LOCK_NAME = "lock"
UNLOCKED_PREFIX = "making-"
"""Prefix of a folder that is not locked yet, and so is never adopted."""


class SpoolRecord(Struct, frozen=True):
    """An event and its stream."""

    stream: str
    event: Event


class Segment(Struct):
    """A file of frames, with spans of the numbers of each (stream, replica) in it.

    Several spans, since a number lost in between must not keep the file forever. `unread`: it contains events that this
    version does not know; the file stays for one that does.
    """

    path: Path
    unread: bool = False
    spans: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict)
    size_bytes: int = 0

    def extend(self, record: SpoolRecord) -> None:
        """Extend the last span of the record's replica, or start another."""
        seq = record.event.seq
        spans = self.spans.setdefault((record.stream, record.event.replica), [])
        if spans and seq == spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], seq)
        else:
            spans.append((seq, seq))

    def write(self, frames: bytes) -> None:
        """Append frames durably, all or none: a partial frame would hide what follows it."""
        with open(self.path, "ab", buffering=0, opener=opener) as file:
            start, rest = file.tell(), memoryview(frames)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
                if start == 0:  # a power cut may otherwise remove the file's name
                    sync_folder(self.path.parent)
                    sync_folder(self.path.parent.parent)
            except OSError:
                self.size_bytes = SEGMENT_BYTES + 1  # write no more to this file, should the next line fail too
                file.truncate(start)
                self.size_bytes = start
                raise
        self.size_bytes = start + len(frames)


class Spool:
    """This process's folder. Blocking and thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.segments: list[Segment] = []
        self._lock: int | None = None
        self._number = 0
        self._write_lock = threading.Lock()

    def append(self, records: Sequence[SpoolRecord]) -> None:
        """Write records and fsync; raises OSError if the disk fails."""
        with self._write_lock:
            self._open()
            segment = self._current()
            segment.write(b"".join(frame(record) for record in records))
            for record in records:
                segment.extend(record)

    def drop_acknowledged(self, heard: dict[str, dict[str, Heard]]) -> None:
        """Delete segments whose events are all in snapshots; `heard` is stream -> replica -> acknowledged numbers."""
        with self._write_lock:
            for segment in [segment for segment in self.segments if segment_is_acknowledged(segment, heard)]:
                segment.path.unlink(missing_ok=True)
                self.segments.remove(segment)

    def close(self) -> None:
        """Release the folder; deletes it if empty."""
        with self._write_lock:
            if self._lock is None:
                return
            if not self.segments:
                shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock)
            self._lock = None

    def _open(self) -> None:
        """Create the folder under a name that is never adopted, lock it, then rename it."""
        if self._lock is not None:
            return
        making = self.folder.with_name(UNLOCKED_PREFIX + self.folder.name)
        make_closed_folder(making.parent)
        make_closed_folder(making)
        lock = try_lock(making)
        if lock is None:
            raise OSError(f"{self.folder} is another process's spool")
        try:
            making.rename(self.folder)
        except OSError:
            os.close(lock)
            raise
        self._lock = lock

    def _current(self) -> Segment:
        if not self.segments or self.segments[-1].size_bytes > SEGMENT_BYTES:
            self._number += 1
            self.segments.append(Segment(self.folder / f"{self._number:08d}.spool"))
        return self.segments[-1]


class Orphan:
    """An adopted folder of a dead process, locked until snapshots include its events."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock
        self.segments = [load_segment(path) for path in sorted(folder.glob("*.spool"))]

    def is_acknowledged(self, heard: dict[str, dict[str, Heard]]) -> bool:
        """True if snapshots include all of its events."""
        return all(segment_is_acknowledged(segment, heard) for segment in self.segments)

    def remove(self) -> None:
        """Delete the folder; its events are in the ledger."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()

    @property
    def streams(self) -> set[str]:
        """The streams of its events."""
        return {stream for segment in self.segments for stream, _ in segment.spans}

    def release(self) -> None:
        """Unlock the folder so that another process may adopt it."""
        os.close(self._lock)


def adopt(root: Path, own: Path) -> list[Orphan]:
    """Adopt the spools of dead processes on this host."""
    orphans = []
    for folder in sorted(root.glob("*")) if root.is_dir() else []:
        if folder == own or not folder.is_dir() or folder.name.startswith(UNLOCKED_PREFIX):
            continue
        lock = try_lock(folder)
        if lock is not None:
            orphans.append(Orphan(folder, lock))
    return orphans


def try_lock(folder: Path) -> int | None:
    """Return a lock on the folder, released with this process; None if another process holds it."""
    handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def frame(record: SpoolRecord) -> bytes:
    """Encode a record as a frame."""
    body = record.stream.encode() + b"\0" + encode_event(record.event)
    return HEAD.pack(len(body), crc32(body)) + body


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that new names in it are durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_segment(path: Path) -> Iterator[SpoolRecord]:
    """Yield the records of a file, without those that this version does not know."""
    return (SpoolRecord(stream, event) for stream, event in read_frames(path) if not isinstance(event, Undecodable))


def read_frames(path: Path) -> Iterator[tuple[str, Decoded]]:
    """Yield the valid frames of a file with their streams; stops at the first torn one."""
    try:
        content = memoryview(path.read_bytes())
    except FileNotFoundError:
        return
    at = 0
    while at + HEAD.size <= len(content):
        length, checksum = HEAD.unpack_from(content, at)
        body = bytes(content[at + HEAD.size : at + HEAD.size + length])
        if length > FRAME_LIMIT_BYTES or len(body) < length or crc32(body) != checksum:
            return
        stream, _, raw = body.partition(b"\0")
        yield stream.decode(), decode_event(raw)
        at += HEAD.size + length


def load_segment(path: Path) -> Segment:
    """Load a segment with its spans from the file."""
    segment = Segment(path)
    for stream, event in read_frames(path):
        if isinstance(event, Undecodable):
            segment.unread = True
        else:
            segment.extend(SpoolRecord(stream, event))
    return segment


def segment_is_acknowledged(segment: Segment, heard: dict[str, dict[str, Heard]]) -> bool:
    """True if all numbers of the segment are acknowledged, and it holds nothing else."""
    return not segment.unread and all(
        span_is_acknowledged(heard.get(stream, {}).get(replica), span)
        for (stream, replica), spans in segment.spans.items()
        for span in spans
    )


def span_is_acknowledged(account: Heard | None, span: tuple[int, int]) -> bool:
    """True if all numbers of a span are acknowledged."""
    first, last = span
    if account is None or account.high < last:
        return False
    return not any(start <= last and first <= end for start, end in account.gaps)
