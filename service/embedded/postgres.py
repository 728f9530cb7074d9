"""The embedded Postgres: TCP on the loopback, where the only login role owns its database and nothing else.

Not here: the schema (created by the workers' migrations) and a client library: role and database are created in the
server's single-user mode, which needs neither a socket nor a superuser's password. No unix socket, since its path is
limited to 107 bytes.
"""

import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from service.embedded import EmbeddedError, binaries, folder
from service.embedded.managed_process import ManagedProcess, run
from service.embedded.server import ENVIRON, Server

ROLE = "ccproxy"
SUPERUSER = "postgres"
BUILTIN_LOCALES_SINCE = 17
INITDB_TIMEOUT_S = 60.0
SINGLE_TIMEOUT_S = 60.0
PID_LINE, STATUS_LINE = 0, 7
"""Lines of `postmaster.pid`: the first and the eighth."""


class Postgres(Server):
    """A Postgres server. Data survive a stop, and a SIGKILL of the process."""

    name = "Postgres"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # fast shutdown; SIGTERM would wait for every client

    @property
    def url(self) -> str:
        """`postgresql://ccproxy:PASSWORD@127.0.0.1:PORT/ccproxy`; the role is not a superuser, and owns the
        database."""
        password = folder.read(self.place / "password") or ""
        return f"postgresql://{ROLE}:{password}@127.0.0.1:{self.port}/{ROLE}"

    def is_ready(self) -> bool:
        """True if our own process reports in its pid file that it accepts connections."""
        lines = (folder.read(self.data / "postmaster.pid") or "").splitlines()
        return len(lines) > STATUS_LINE and lines[PID_LINE] == str(self.pid) and lines[STATUS_LINE].strip() == "ready"

    def prepare(self) -> None:
        """Prepare like every server, and refuse data of another major version."""
        super().prepare()
        made_by = folder.read(self.data / "PG_VERSION")
        if made_by is not None and made_by != self._major():
            raise EmbeddedError(
                f"The data in {self.data} was created by Postgres {made_by}, and the program is {self.version}. To "
                f"keep it: set {binaries.POSTGRES_VARIABLE} to a Postgres {made_by}, run `ccproxy up`, and in another "
                f"terminal `ccproxy backup FILE`; then stop it, move {self.place} away, unset that variable, and run "
                "`ccproxy up` and `ccproxy restore --replace FILE`. To start over: set CCPROXY_HOME to another folder."
            )

    def _program(self) -> Path:
        return binaries.postgres_folder() / "postgres"

    def _major(self) -> str:
        return self.version.split(".")[0]

    def _launch(self, lock: int, output: int) -> ManagedProcess:
        if not self.data.exists():
            self._make_data(output)
        elif folder.read(self.place / "password") is None:
            self._set_password(self.data, "ALTER ROLE {role} PASSWORD '{password}'\n")
        # We hold the lock, so the previous server is gone. Its pid file might name a current process by chance (likely
        # in a container), and Postgres would refuse to start.
        with suppress(FileNotFoundError):
            (self.data / "postmaster.pid").unlink()
        options = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "timezone=UTC", "log_timezone=UTC")
        return ManagedProcess(
            [self._program(), "-D", self.data, "-p", str(self.port), *(f"--{option}" for option in options)],
            account=self.account,
            environ=ENVIRON,
            output=output,
            stop_signal=self.stop_signal,
            inherit=(lock,),
        )

    def _make_data(self, output: int) -> None:
        """Create the data in a temporary folder and rename it once complete."""
        draft = self.place / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        self._make_data_folder(draft)
        status = run(
            [binaries.postgres_folder() / "initdb", "-D", draft, *self._initdb_options()],
            account=self.account,
            environ=ENVIRON,
            output=output,
            timeout_s=INITDB_TIMEOUT_S,
        )
        if status != 0:
            raise EmbeddedError(f"initdb exited with status {status}; see {self.log}")
        self._set_password(
            draft, "CREATE ROLE {role} LOGIN PASSWORD '{password}'\nCREATE DATABASE {role} OWNER {role}\n"
        )
        draft.rename(self.data)

    def _initdb_options(self) -> tuple[str, ...]:
        options = ("-U", SUPERUSER, "--auth-local=reject", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C")
        if int(self._major()) < BUILTIN_LOCALES_SINCE:
            return options
        return (*options, "--locale-provider=builtin", "--builtin-locale=C.UTF-8")

    def _set_password(self, data: Path, statements: str) -> None:
        """Run `statements`, one per line, with a new password, and store it once it applies."""
        password = folder.new_password()
        # A failing statement must not be logged, because it contains the password.
        command: list[str | Path] = [
            self._program(),
            "--single",
            "-D",
            data,
            "-c",
            "log_min_error_statement=panic",
            SUPERUSER,
        ]
        with tempfile.TemporaryFile() as answer:
            status = run(
                command,
                account=self.account,
                environ=ENVIRON,
                output=answer.fileno(),
                stdin=statements.format(role=ROLE, password=password).encode(),
                timeout_s=SINGLE_TIMEOUT_S,
            )
            answer.seek(0)
            text = answer.read().decode(errors="replace")
        if status != 0 or "ERROR:" in text or "FATAL:" in text:  # the single-user mode exits with 0 even after an error
            raise EmbeddedError(f"The database could not be created:{os.linesep}{text[-2000:]}")
        folder.write_private(self.place / "password", f"{password}\n")
