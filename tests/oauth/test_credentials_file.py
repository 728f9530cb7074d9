"""Claude Code's credentials file: nothing in it is lost, whoever else writes it and whatever its folder allows."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from service.oauth import credentials_file
from service.oauth.credentials_file import CredentialsFile, NoLogin, OAuthTokens, Unreadable
from tests.support.subscriptions import MCP, OLD_ACCESS, OLD_REFRESH, log_in, told

ISSUED = OAuthTokens("sk-ant-oat01-new", "sk-ant-ort01-new", 4_000_000_000_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A credentials file whose token has expired."""
    return log_in(tmp_path / ".credentials.json")


@pytest.fixture
def stubborn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that alone is mounted: nothing can be moved onto it."""

    def replace(_old: str, _new: str) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "replace", replace)


def test_the_tokens_are_read(path: Path) -> None:
    """All three, and nothing of them shows."""
    tokens = CredentialsFile(str(path)).read()
    assert (tokens.access_token, tokens.refresh_token) == (OLD_ACCESS, OLD_REFRESH)
    assert tokens.expires_at_ms == told(path)["expiresAt"]
    assert "sk-ant" not in repr(tokens)


def test_a_change_is_seen(path: Path) -> None:
    """It is read again when it is another file, not otherwise."""
    file = CredentialsFile(str(path))
    assert file.read() is file.read()
    log_in(path, access="another")
    assert file.read().access_token == "another"


@pytest.mark.parametrize("content", [None, "{}", '{"claudeAiOauth":null}', '{"claudeAiOauth":{"accessToken":""}}'])
def test_without_a_log_in_there_is_none(tmp_path: Path, content: str | None) -> None:
    """No file, or a file after a log-out."""
    path = tmp_path / "c"
    if content is not None:
        path.write_text(content)
    with pytest.raises(NoLogin):
        CredentialsFile(str(path)).read()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"), (b'{"claudeAiOauth":{"mark', "not JSON"), (b"mark=1", "not JSON"),
        (b"\xff\xfemark", "not JSON"), (b"[" * 9999, "expected claudeAiOauth"), (b'["mark"]', "expected claudeAiOauth"),
        (b'{"claudeAiOauth":{"accessToken":["mark"]}}', "expected claudeAiOauth"),
        (b'{"claudeAiOauth":{"accessToken":"a","expiresAt":"mark"}}', "expected claudeAiOauth"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_unreadable(tmp_path: Path, content: bytes, words: str) -> None:
    """Said as what it should be, without a word of what is in it."""
    path = tmp_path / "c"
    path.write_bytes(content)
    with pytest.raises(Unreadable) as raised:
        CredentialsFile(str(path)).read()
    assert words in str(raised.value)
    assert "mark" not in str(raised.value)


def test_a_half_written_file_is_read_once_it_is_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes it has a moment to end."""
    whole = path.read_text()
    path.write_text(whole[:40])
    waits: list[float] = []

    def end_writing(wait_s: float) -> None:
        waits.append(wait_s)
        path.write_text(whole)

    monkeypatch.setattr(time, "sleep", end_writing)
    assert CredentialsFile(str(path)).read().access_token == OLD_ACCESS
    assert len(waits) == 1


# -- saving


@pytest.mark.parametrize("place", ["beside", "in place"])
@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_saved_tokens_stand_in_the_file(path: Path, request: pytest.FixtureRequest, place: str, mode: int) -> None:
    """With the same mode, and every other value byte for byte; nothing lies beside it. In place it is the same file."""
    if place == "in place":
        request.getfixturevalue("stubborn")
    path.chmod(mode)
    before = path.stat()
    assert CredentialsFile(str(path)).save(OLD_REFRESH, ISSUED)
    raw = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
    assert list(raw) == ["mcpOAuth", "claudeAiOauth", "later"]
    assert bytes(raw["mcpOAuth"]).decode() == MCP
    assert bytes(raw["later"]) == b"1e3"
    assert told(path) == {
        "accessToken": ISSUED.access_token,
        "refreshToken": ISSUED.refresh_token,
        "expiresAt": ISSUED.expires_at_ms,
        "scopes": ["user:inference", "user:profile"],
        "subscriptionType": "max",
    }
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert (after.st_ino == before.st_ino) == (place == "in place")
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("number", sorted(credentials_file.CANNOT_REPLACE), ids=lambda number: errno.errorcode[number])
def test_a_file_that_cannot_be_replaced_is_written_in_place(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whatever it is that the system says."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    assert CredentialsFile(str(path)).save(OLD_REFRESH, ISSUED)
    assert told(path)["refreshToken"] == ISSUED.refresh_token


@pytest.mark.usefixtures("stubborn")
def test_shorter_content_leaves_no_rest(path: Path) -> None:
    """What was longer is cut off."""
    CredentialsFile(str(path)).save(OLD_REFRESH, OAuthTokens("a", "r", 1))
    assert path.read_bytes().endswith(b"1e3}")


def test_another_error_is_told_and_leaves_the_file_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is no reason to write over what is there."""
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        CredentialsFile(str(path)).save(OLD_REFRESH, ISSUED)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_all_is_on_the_disk_before_it_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content, then name, then folder."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        steps.append("fsync")
        fsync(descriptor)

    def noted_replace(old: str, new: str) -> None:
        steps.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    CredentialsFile(str(path)).save(OLD_REFRESH, ISSUED)
    assert steps == ["fsync", "replace", "fsync"]


def test_newer_tokens_of_another_are_kept(path: Path) -> None:
    """Claude Code has logged in again meanwhile."""
    log_in(path, access="theirs", refresh="their-refresh")
    before = path.read_bytes()
    assert not CredentialsFile(str(path)).save(OLD_REFRESH, ISSUED)
    assert path.read_bytes() == before


def test_a_file_that_went_is_not_made_again(path: Path) -> None:
    """Its owner has logged out."""
    path.unlink()
    with pytest.raises(NoLogin):
        CredentialsFile(str(path)).save(OLD_REFRESH, ISSUED)
    assert not path.exists()


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    """What it leads to is written."""
    link = tmp_path / "elsewhere"
    link.symlink_to(path)
    assert CredentialsFile(str(link)).save(OLD_REFRESH, ISSUED)
    assert link.is_symlink()
    assert told(path)["refreshToken"] == ISSUED.refresh_token


def test_what_a_crash_left_beside_is_no_hindrance(path: Path) -> None:
    """It is written anew."""
    (path.parent / (path.name + credentials_file.BESIDE_SUFFIX)).write_text("half")
    assert CredentialsFile(str(path)).save(OLD_REFRESH, ISSUED)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


# -- the lock

HOLD = "import sys; from service.oauth.credentials_file import CredentialsFile as F; l = F(sys.argv[1]).try_lock(); "
HOLD += "print(l is not None, flush=True); sys.stdin.read()"


def test_one_process_has_the_lock(path: Path) -> None:
    """Until it gives it back; a killed one gives it back as well."""
    file = CredentialsFile(str(path))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert file.try_lock() is None
        other.kill()
        other.wait()
    lock = file.try_lock()
    assert lock is not None
    assert file.try_lock() is None
    lock.release()
    again = file.try_lock()
    assert again is not None
    again.release()


def test_the_lock_holds_while_the_file_is_replaced(path: Path) -> None:
    """The one beside it stays."""
    lock = CredentialsFile(str(path)).try_lock()
    assert lock is not None
    CredentialsFile(str(path)).save(OLD_REFRESH, ISSUED)
    assert CredentialsFile(str(path)).try_lock() is None
    lock.release()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS], ids=lambda number: errno.errorcode[number])
def test_two_containers_that_share_the_file_alone_exclude_each_other(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Each has a folder of its own around it, in which one of them may make nothing."""
    mounted = tmp_path / "elsewhere" / path.name
    mounted.parent.mkdir()
    os.link(path, mounted)
    locked = credentials_file._locked

    def no_file_beside(place: str, flags: int) -> list[int]:
        if place == str(mounted) + credentials_file.LOCK_SUFFIX:
            raise OSError(number, os.strerror(number))
        return locked(place, flags)

    monkeypatch.setattr(credentials_file, "_locked", no_file_beside)
    one, other = CredentialsFile(str(path)), CredentialsFile(str(mounted))
    for first, second in ((one, other), (other, one)):
        lock = first.try_lock()
        assert lock is not None
        assert second.try_lock() is None
        lock.release()


def test_a_lock_on_a_file_that_was_replaced_meanwhile_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be a lock on nothing."""
    locked = credentials_file._locked

    def replaced_meanwhile(place: str, flags: int) -> list[int]:
        held = locked(place, flags)
        if place == str(path):
            log_in(path.parent / "new").rename(path)
        return held

    monkeypatch.setattr(credentials_file, "_locked", replaced_meanwhile)
    assert CredentialsFile(str(path)).try_lock() is None
    monkeypatch.undo()
    lock = CredentialsFile(str(path)).try_lock()
    assert lock is not None
    lock.release()
