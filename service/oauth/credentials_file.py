"""Claude Code's credentials file: reading, locking, and saving without losing anything in it. All functions block.

Laws
- New tokens replace only those that they were issued for: if another program saved its own meanwhile, those stay.
- Everything else in the file stays byte for byte, as do its mode and owner.
- A refresh keeps the log-in, and a new log-in changes it: the lock's file says which tokens a refresh brought.
- A file that can't be replaced (it is mounted by itself, or its folder is read-only) is overwritten in place.

Not here: when a token is stale and how it is refreshed (`token_manager`). Claude Code does not use the lock.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Raw, Struct

from service.routing.error_words import account_of

OAUTH_KEY = "claudeAiOauth"
LOCK_SUFFIX = ".ccproxy.lock"
BESIDE_SUFFIX = ".ccproxy.tmp"
CANNOT_REPLACE = frozenset((errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES, errno.EROFS))
"""Errors when creating a file in the folder, or renaming it over the old one, if only the file itself is writable."""
READS = 6
READ_AGAIN_S = 0.05
"""A program that overwrites in place takes a moment; a file unreadable for longer is broken."""
MAX_BYTES = 4 * 1024 * 1024
TOKEN = re.compile(r"[!-~]{1,16384}")
"""Tokens are visible ASCII (RFC 6750), so that they can be sent in a header; Anthropic's have about 100 characters."""
LATEST_MS = 253_402_300_799_000
"""The end of the year 9999. Redis and JSON support no later expiry."""


class NoLogin(Exception):
    """There is no file, or no log-in in it. The message says how to fix that."""


class Unreadable(Exception):
    """The file can't be read, or is not JSON of the known shape."""


class OAuthTokens(Struct, frozen=True):
    """A subscription's tokens. An empty `refresh_token`: can't be refreshed. `expires_at_ms` is Unix time; 0: never.
    `account`: a hash that names the log-in, which a refresh keeps; "" until it is looked up.
    """

    access_token: str
    refresh_token: str = ""
    expires_at_ms: int = 0
    account: str = ""

    def __repr__(self) -> str:
        return "Tokens(***)"


class LoginRecord(Struct, rename="camel"):
    """The known fields of `claudeAiOauth`; others are left to Claude Code."""

    access_token: str | None = None
    refresh_token: str | None = None
    expires_at: float | None = None


class RefreshRecord(Struct):
    """Which log-in a refresh has kept: its account, and a fingerprint of the refresh token that it brought."""

    account: str
    token: str


class Content(Struct, rename="camel"):
    """The known fields of the file."""

    claude_ai_oauth: LoginRecord | None = None


class FileLock:
    """Held until `release` or the end of the process."""

    def __init__(self, held: Sequence[int]) -> None:
        self._descriptors = held

    def release(self) -> None:
        """Release the lock."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = ()


class CredentialsFile:
    """A credentials file. Symbolic links are resolved."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._seen: tuple[tuple[int, int, int], OAuthTokens] | None = None

    def read(self) -> OAuthTokens:
        """Return its tokens, decoded again only if the file has changed. Raises NoLogin, Unreadable."""
        try:
            found = os.stat(self.path)
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if self._seen and self._seen[0] == stamp:
                return self._seen[1]
            tokens = tokens_of(self._complete_content())
        except FileNotFoundError:
            raise NoLogin("does not exist") from None
        except OSError as error:
            raise Unreadable(error.strerror or type(error).__name__) from None
        self._seen = (stamp, tokens)
        return tokens

    def account_of(self, tokens: OAuthTokens) -> str:
        """The log-in that tokens of this file are of: the one that a refresh kept, else a new one."""
        token = tokens.refresh_token or tokens.access_token
        with contextlib.suppress(OSError, msgspec.DecodeError):
            record = msgspec.json.decode(_content(os.path.realpath(self.path) + LOCK_SUFFIX), type=RefreshRecord)
            if record.token == fingerprint(token):
                return record.account
        return account_of(token)

    def can_write(self) -> bool:
        """Return True if refreshed tokens can be saved here."""
        return os.access(self.path, os.W_OK)

    def try_lock(self) -> FileLock | None:
        """Lock this file against all proxies of the host, or return None if another holds it.

        It takes two locks: on a file beside it, which survives replacement of the file, and on the file itself, the
        only one that processes share which have just that file mounted. Raises OSError.
        """
        place = os.path.realpath(self.path)
        held: list[int] = []
        try:
            held += _locked_beside(place)
            held += _locked(place, os.O_RDWR)
            is_it = os.fstat(held[-1]).st_ino == os.stat(place).st_ino
        except BlockingIOError:
            is_it = False
        except OSError:
            FileLock(held).release()
            raise
        lock = FileLock(held)
        if is_it:
            return lock
        lock.release()
        return None

    def save(self, spent: str, issued: OAuthTokens) -> bool:
        """Replace the tokens whose refresh token is `spent`. False: another program has saved newer ones.

        Raises NoLogin, Unreadable, and OSError if it can't be written.
        """
        place = os.path.realpath(self.path)
        try:
            content = self._complete_content()
        except FileNotFoundError:
            raise NoLogin("does not exist") from None
        if tokens_of(content).refresh_token != spent:
            return False
        if issued.account:
            record_refresh(place, issued)
        write(place, with_tokens(content, issued))
        return True

    def _complete_content(self) -> bytes:
        """Return the content once it is complete JSON: a program that writes in place gets a moment to finish."""
        for _ in range(READS - 1):
            content = _content(self.path)
            if is_whole(content):
                return content
            time.sleep(READ_AGAIN_S)
        return _content(self.path)


def tokens_of(content: bytes) -> OAuthTokens:
    """Decode the tokens in a file's content. Raises NoLogin, Unreadable."""
    try:
        login = msgspec.json.decode(content, type=Content).claude_ai_oauth
    except msgspec.ValidationError:
        raise Unreadable(f"expected {OAUTH_KEY} with accessToken, refreshToken and expiresAt") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unreadable("it is not JSON, which Claude Code writes there") from None
    if login is None or not login.access_token:
        raise NoLogin("has no login")
    if not is_token(login.access_token) or not is_token(login.refresh_token or "none"):
        raise Unreadable("a token in it has invalid characters")
    return OAuthTokens(login.access_token, login.refresh_token or "", int(min(login.expires_at or 0, LATEST_MS)))


def is_token(text: str) -> bool:
    """True if this is a valid token."""
    return TOKEN.fullmatch(text) is not None


def is_whole(content: bytes) -> bool:
    """True if this is complete JSON."""
    try:
        msgspec.json.decode(content, type=Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def with_tokens(content: bytes, issued: OAuthTokens) -> bytes:
    """Return the content with other tokens; every other value stays byte for byte."""
    whole = msgspec.json.decode(content, type=dict[str, Raw])
    login = msgspec.json.decode(whole[OAUTH_KEY], type=dict[str, Raw])
    fresh = {
        "accessToken": issued.access_token,
        "refreshToken": issued.refresh_token,
        "expiresAt": issued.expires_at_ms,
    }
    login |= {name: Raw(msgspec.json.encode(value)) for name, value in fresh.items()}
    whole[OAUTH_KEY] = Raw(msgspec.json.encode(login))
    return msgspec.json.encode(whole)


def record_refresh(path: str, issued: OAuthTokens) -> None:
    """Note which log-in these tokens are of, where a file can be made beside theirs; elsewhere they are a new one."""
    record = msgspec.json.encode(RefreshRecord(issued.account, fingerprint(issued.refresh_token)))
    with contextlib.suppress(OSError):
        descriptor = os.open(path + LOCK_SUFFIX, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            _write_all(descriptor, record)
            os.ftruncate(descriptor, len(record))
        finally:
            os.close(descriptor)


def fingerprint(token: str) -> str:
    """Names a token without telling it."""
    return sha256(token.encode()).hexdigest()[:16]


def write(path: str, content: bytes) -> None:
    """Replace a file's content, durably. Raises OSError."""
    try:
        replace_file(path, content)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(path + BESIDE_SUFFIX)
        if error.errno not in CANNOT_REPLACE:
            raise
        write_in_place(path, content)


def replace_file(path: str, content: bytes) -> None:
    """Write a temporary file and rename it, so that no reader sees half of it. A crash leaves the old or the new
    content."""
    old = os.stat(path)
    beside = path + BESIDE_SUFFIX
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)  # left by a crash
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        made = os.fstat(descriptor)
        if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
            os.fchown(descriptor, old.st_uid, old.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
        _write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(beside, path)
    _sync_folder(path)


def write_in_place(path: str, content: bytes) -> None:
    """Overwrite the content, padded with blanks if the old one was longer, so that it is almost always valid JSON."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        _write_all(descriptor, content.ljust(os.fstat(descriptor).st_size))
        os.fsync(descriptor)
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _content(path: str) -> bytes:
    """Read a regular file; reading a pipe could block forever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES)
    finally:
        os.close(descriptor)


def _locked(path: str, flags: int) -> list[int]:
    """Open and lock a file. Raises BlockingIOError if another process holds the lock."""
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return [descriptor]


def _locked_beside(path: str) -> list[int]:
    """Lock the file beside it, if one can be created."""
    try:
        return _locked(path + LOCK_SUFFIX, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if error.errno not in CANNOT_REPLACE:
            raise
        return []


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _sync_folder(path: str) -> None:
    """Fsync the folder, which makes a new name durable; some file systems don't support it."""
    with contextlib.suppress(OSError):
        folder = os.open(Path(path).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
