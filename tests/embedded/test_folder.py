"""Locks, private files, ports and logs."""

import os
import socket
from pathlib import Path

import pytest

from service.embedded import folder, up


def test_a_lock_is_held_once_and_can_be_had_again_when_given_back(tmp_path: Path) -> None:
    """Two never hold one folder at a time."""
    path = tmp_path / "lock"
    with folder.Locked(path, timeout_s=0), pytest.raises(folder.FolderBusy):
        folder.lock(path, timeout_s=0)
    os.close(folder.lock(path, timeout_s=0))


def test_a_private_file_is_its_owners_alone(tmp_path: Path) -> None:
    """Passwords can be read by nobody else, whatever the umask, also where the file was open before."""
    path = tmp_path / "password"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o644)
    folder.write_private(path, "secret\n")
    assert (folder.read(path), path.stat().st_mode & 0o777) == ("secret", 0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["password"]


def test_a_port_is_kept_while_it_is_free_and_changed_when_it_is_taken(tmp_path: Path) -> None:
    """Addresses are stable between runs, and a foreign server on the port is no reason not to start."""
    note = tmp_path / "port"
    port = folder.choose_port(note)
    assert folder.choose_port(note) == port
    with socket.create_server(("127.0.0.1", port)):
        other = folder.choose_port(note)
    assert other != port
    assert folder.choose_port(note) == other


def test_ports_are_never_such_as_outgoing_connections_get(tmp_path: Path) -> None:
    """A server that is away can't lose its port to a client that looks for it."""
    assert folder.FIRST_PORT <= folder.choose_port(tmp_path / "port") <= folder.LAST_PORT < 32_768


def test_an_address_of_another_machine_is_not_free() -> None:
    """What can't be listened on is refused before anything is started (192.0.2.0/24 belongs to nobody)."""
    assert not folder.is_free("192.0.2.1", 4181)
    assert not folder.is_free("no-such-host.invalid", 4181)


def test_a_log_that_grew_too_long_is_put_aside_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs are bounded: one that is too long at a start becomes the only older one."""
    monkeypatch.setattr(folder, "MAX_LOG_BYTES", 4)
    log = tmp_path / "logs" / "worker.log"
    for text in (b"first", b"second", b"3"):
        descriptor = folder.open_log(log)
        os.write(descriptor, text)
        os.close(descriptor)
    assert (log.read_bytes(), log.with_name("worker.log.1").read_bytes()) == (b"3", b"second")


def test_a_log_of_a_process_that_goes_on_is_emptied_and_its_next_lines_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service runs for months: its logs are bounded while their writers hold them open."""
    monkeypatch.setattr(folder, "MAX_LOG_BYTES", 4)
    path = tmp_path / "logs" / "worker.log"
    descriptor = folder.open_log(path)
    now_s = [0.0]
    logs = up.LogRotation(path.parent, lambda: now_s[0])
    os.write(descriptor, b"long enough\n")
    logs.step()
    assert path.stat().st_size == 12  # it is not yet time
    now_s[0] = up.ROTATION_S
    logs.step()
    os.write(descriptor, b"new\n")
    now_s[0] = 2 * up.ROTATION_S
    logs.step()
    os.close(descriptor)
    old = path.with_name("worker.log.1")
    assert (old.read_bytes(), path.read_bytes()) == (b"long enough\n", b"new\n")
    assert old.stat().st_mode & 0o777 == 0o600
