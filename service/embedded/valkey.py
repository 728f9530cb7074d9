"""The embedded Valkey: TCP on the loopback with a password, every write in an append-only file, no eviction.

Not here: what is stored in it. No unix socket, since its path is limited to 107 bytes. The readiness check sends a few
commands by itself: importing the client library takes longer than the server's start.
"""

import json
import signal
import socket
from pathlib import Path
from typing import ClassVar

from service.embedded import binaries, folder
from service.embedded.managed_process import ManagedProcess
from service.embedded.server import ENVIRON, Server
from service.private_files import close_to_others

ANSWER_TIMEOUT_S = 0.5
MAX_ANSWER_BYTES = 64 * 1024
CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir {data}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


class Valkey(Server):
    """A Valkey (or Redis 7.0 and newer) server. Data survive a stop, and a SIGKILL of the process."""

    name = "Valkey"
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    @property
    def url(self) -> str:
        """`redis://default:PASSWORD@127.0.0.1:PORT/0`; redis-cli 7.0 rejects a URL without the user."""
        return f"redis://default:{self._password()}@127.0.0.1:{self.port}/0"

    def is_ready(self) -> bool:
        """True if our own process answers, and has loaded its data. A bare PONG could come from any server."""
        questions = f"AUTH {self._password()}\r\nINFO server\r\nINFO persistence\r\nPING\r\nQUIT\r\n"
        try:
            answer = exchange(self.port, questions.encode())
        except OSError:
            return False
        lines = answer.decode(errors="replace").splitlines()
        return {f"process_id:{self.pid}", "loading:0", "+PONG"} <= set(lines)

    def _program(self) -> Path:
        return binaries.redis_program()

    def _launch(self, lock: int, output: int) -> ManagedProcess:
        if not self.data.exists():
            self._make_data_folder(self.data)
        close_to_others(self.data)
        configuration = CONFIGURATION.format(
            port=self.port, password=self._password(), data=json.dumps(str(self.data), ensure_ascii=False)
        )
        return ManagedProcess(
            # The configuration goes through stdin, because arguments are visible to every user of the machine.
            [self._program(), "-"],
            account=self.account,
            environ=ENVIRON,
            output=output,
            stdin=configuration.encode(),
            stop_signal=self.stop_signal,
            inherit=(lock,),
        )

    def _password(self) -> str:
        note = self.place / "password"
        password = folder.read(note)
        if not password:
            password = folder.new_password()
            folder.write_private(note, f"{password}\n")
        return password


def exchange(port: int, questions: bytes) -> bytes:
    """Return the server's replies until it closes the connection (the last command is QUIT)."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT_S) as connection:
        connection.sendall(questions)
        while len(answer) < MAX_ANSWER_BYTES:
            piece = connection.recv(MAX_ANSWER_BYTES)
            if not piece:
                break
            answer += piece
    return answer
