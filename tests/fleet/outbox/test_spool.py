"""The spool: what is on disk is whole, is one process's at a time, and goes only when it was heard."""

import io
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from service.fleet import spool
from service.fleet.spool import Spool, SpoolRecord, adopt, frame, read_segment, try_lock
from service.ledger.events import AttemptStarted
from tests.support.outbox_factories import heard, record, started

LOCKER = """
import sys
from pathlib import Path
from service.fleet.spool import adopt, try_lock
print(try_lock(Path(sys.argv[1])) is not None, len(adopt(Path(sys.argv[1]).parent, Path("/nowhere"))))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "r1"


def on_disk(folder: Path) -> list[SpoolRecord]:
    """All that can be read of a folder."""
    return [found for path in sorted(folder.glob("*.spool")) for found in read_segment(path)]


def test_what_was_written_is_read_back_in_order(folder: Path) -> None:
    """Records come back as they were, in the order in which they were written."""
    records = [record(seq, stream=stream) for seq in (1, 2, 3) for stream in ("anthropic", "z-ai_2", "control")]
    mine = Spool(folder)
    mine.append(records[:4])
    mine.append(records[4:])
    assert on_disk(folder) == records
    mine.close()


def test_a_torn_tail_costs_only_the_torn_record(tmp_path: Path) -> None:
    """Cut at any byte, a file gives every record that is whole, and nothing else."""
    records = [record(seq) for seq in range(1, 4)]
    frames = [frame(each) for each in records]
    ends = [sum(map(len, frames[: n + 1])) for n in range(3)]
    content = b"".join(frames)
    path = tmp_path / "torn.spool"
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        assert list(read_segment(path)) == records[: sum(end <= size for end in ends)]


def test_a_wrong_checksum_ends_the_file(tmp_path: Path) -> None:
    """Any changed byte of a record ends what is read before it; nothing is made up."""
    records = [record(seq) for seq in range(1, 4)]
    frames = [frame(each) for each in records]
    path = tmp_path / "bad.spool"
    for at in range(len(frames[1])):
        spoilt = bytearray(frames[1])
        spoilt[at] ^= 0x40
        path.write_bytes(frames[0] + bytes(spoilt) + frames[2])
        assert list(read_segment(path)) == records[:1]


def test_a_foreign_file_is_no_records(tmp_path: Path) -> None:
    """A file that says a frame of gigabytes is not believed; a missing one is empty."""
    path = tmp_path / "foreign.spool"
    path.write_bytes(b"\xff" * 64)
    assert list(read_segment(path)) == []
    assert list(read_segment(tmp_path / "none")) == []


def test_a_folder_is_one_processs_at_a_time(folder: Path) -> None:
    """While a process lives, no other can lock or adopt its folder; once it let go, another can."""
    mine = Spool(folder)
    mine.append([record(1)])
    assert ask_another_process(folder) == "False 0"
    mine.close()
    assert ask_another_process(folder) == "True 0"


def ask_another_process(folder: Path) -> str:
    """Whether another process gets the lock, and how many folders it can adopt besides."""
    run = subprocess.run(
        [sys.executable, "-c", LOCKER, str(folder)], capture_output=True, text=True, check=True, timeout=60
    )
    return run.stdout.strip()


def test_only_free_folders_are_adopted(tmp_path: Path) -> None:
    """Adopted are the folders of processes that are gone: not one's own, not a living one's, no plain files."""
    root = tmp_path / "spool"
    own, living, dead = Spool(root / "own"), Spool(root / "living"), Spool(root / "dead")
    for each in (own, living, dead):
        each.append([record(1)])
    own.close()
    dead.close()
    (root / "a-file").write_text("x")
    [orphan] = adopt(root, own.folder)
    assert orphan.folder == dead.folder
    assert adopt(root, own.folder) == [], "what is adopted is not free"
    orphan.release()
    [orphan] = adopt(root, own.folder)
    orphan.remove()
    assert not dead.folder.exists()
    living.close()


def test_no_folder_at_all_is_nothing_to_adopt(tmp_path: Path) -> None:
    """A host without any spool has no orphans."""
    assert adopt(tmp_path / "none", tmp_path / "none" / "own") == []


def test_a_segment_goes_only_when_all_of_it_was_heard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap, another replica's account, or another stream's keeps a segment; nothing else does."""
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 1)
    mine = Spool(folder)
    mine.append([record(1), record(2)])
    mine.append([record(3), record(4)])
    for account in (heard(1), heard(9, (2, 2), (3, 3)), heard(9, replica="r2"), heard(9, stream="zai"), {}):
        mine.drop_acknowledged(account)
        assert len(on_disk(folder)) == 4
    mine.drop_acknowledged(heard(9, (3, 3)))
    assert [each.event.seq for each in on_disk(folder)] == [3, 4]
    mine.drop_acknowledged(heard(4))
    assert on_disk(folder) == []
    mine.close()
    assert not folder.exists(), "an empty folder goes"


def test_what_was_not_heard_outlives_the_process(folder: Path) -> None:
    """Closing keeps what no snapshot has heard, and its numbers are known to who adopts it."""
    mine = Spool(folder)
    mine.append([record(5), record(7)])
    mine.close()
    [orphan] = adopt(folder.parent, folder.parent / "other")
    assert orphan.segments[0].spans == {("anthropic", "r1"): [(5, 5), (7, 7)]}
    assert not orphan.is_acknowledged(heard(9, (6, 7)))
    assert orphan.is_acknowledged(heard(9, (6, 6))), "what is not in it may be lost for good"
    assert orphan.is_acknowledged(heard(9))
    orphan.remove()


def test_a_full_disk_leaves_no_half_frame(folder: Path) -> None:
    """A write that the disk takes only in part raises, leaves nothing of itself, and hides nothing behind it."""
    mine = Spool(folder)
    mine.append([record(1)])
    size = (folder / "00000001.spool").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5_000, hard))  # a limit as a full disk is: in mid-write
    try:
        with pytest.raises(OSError, match="large"):
            mine.append([record(seq) for seq in range(2, 200)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / "00000001.spool").stat().st_size == size
    mine.append([record(200)])
    assert [each.event.seq for each in on_disk(folder)] == [1, 200]
    mine.close()


def test_a_disk_that_does_not_even_truncate_hides_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a half frame can't be taken back, what comes later goes into a file of its own."""
    mine = Spool(folder)
    mine.append([record(1)])
    monkeypatch.setattr("service.fleet.spool.open", lambda path, *_, **__: BadFile(path), raising=False)
    with pytest.raises(OSError, match="broken"):
        mine.append([record(2), record(3)])
    monkeypatch.undo()
    mine.append([record(4)])
    assert [each.event.seq for each in on_disk(folder)] == [1, 2, 4]
    mine.close()


class BadFile(io.FileIO):
    """Takes all but the last byte, and then nothing more: neither the rest nor its taking back."""

    def __init__(self, path: Path, *_: object, **__: object) -> None:
        super().__init__(path, "ab")

    def write(self, data: Any) -> int:
        whole = bytes(data)
        if len(whole) == 1:
            raise OSError("broken")
        return super().write(whole[:-1])

    def truncate(self, size: int | None = None) -> int:
        raise OSError(f"broken: {size}")


def test_nothing_is_dropped_under_a_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that was heard so far is not removed while another record is being written into it."""
    mine = Spool(folder)
    mine.append([record(1)])
    dropping = threading.Thread(target=mine.drop_acknowledged, args=(heard(1),))
    fsync = os.fsync

    def meanwhile(handle: int) -> None:
        dropping.start()
        dropping.join(0.1)  # it waits for its turn
        fsync(handle)

    monkeypatch.setattr(os, "fsync", meanwhile)
    mine.append([record(2)])
    dropping.join()
    assert [each.event.seq for each in on_disk(folder)] == [1, 2]
    mine.close()


def test_the_lock_dies_with_its_process(folder: Path) -> None:
    """A process that was killed leaves a folder that can be adopted at once, with all that it had written."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom service.fleet.spool import Spool\n"
        "from tests.support.outbox_factories import record\n"
        "Spool(Path(sys.argv[1])).append([record(1), record(2)])\nos.kill(os.getpid(), 9)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(folder)], check=False, timeout=60)
    assert run.returncode == -9
    [orphan] = adopt(folder.parent, folder.parent / "own")
    assert [each.event.seq for segment in orphan.segments for each in read_segment(segment.path)] == [1, 2]
    orphan.release()


def test_an_event_is_written_as_it_goes_on_the_stream(tmp_path: Path) -> None:
    """A record holds the event's own bytes, with texts of any language."""
    event = AttemptStarted(event_id=started().event_id, at_ms=1, request_id='日本語 \\ " \n', model_asked="naïve")
    path = tmp_path / "one.spool"
    path.write_bytes(frame(SpoolRecord("anthropic", event)))
    assert list(read_segment(path)) == [SpoolRecord("anthropic", event)]


def test_locking_twice_in_one_process_fails(folder: Path) -> None:
    """The lock is per folder, not per process."""
    folder.mkdir(parents=True)
    first = try_lock(folder)
    assert first is not None
    assert try_lock(folder) is None
    os.close(first)


def test_events_of_a_newer_version_stay(folder: Path) -> None:
    """What this version can't read is no reason to let go of the file: one that can will adopt it."""
    mine = Spool(folder)
    mine.append([record(1)])
    body = b"anthropic\0" + b'{"type":"not_invented_yet"}'
    with (folder / "00000001.spool").open("ab") as file:
        file.write(spool.HEAD.pack(len(body), crc32(body)) + body)
    mine.close()
    [orphan] = adopt(folder.parent, folder.parent / "other")
    assert orphan.streams == {"anthropic"}
    assert not orphan.is_acknowledged(heard(9))
    orphan.release()


def test_a_folder_in_the_making_is_nobodys(folder: Path) -> None:
    """Until it is locked it has a name that nobody adopts; then it has its own, and no other is left."""
    (folder.parent / "making-r2").mkdir(parents=True)
    assert adopt(folder.parent, folder) == []
    mine = Spool(folder)
    mine.append([record(1)])
    assert {path.name for path in folder.parent.iterdir()} == {"making-r2", "r1"}
    mine.close()
