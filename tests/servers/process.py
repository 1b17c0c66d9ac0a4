"""How does a test own a server process, so that it never outlives the test run?

State: the child process, its log file and a guard. Outputs: a running process, or an exception that
quotes the end of the log. It does not know what is being run, nor when it is ready to serve.
"""

import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_LOG_LINES_QUOTED = 25
_POLL_S = 0.05


class ServerUnavailable(Exception):
    """What the server needs cannot be had on this machine; the message says how to get it."""


class ServerFailed(Exception):
    """The server is installed but did not start, or died; the message quotes its log."""


class ServerProcess:
    """One child process with a log file; it can be started again after it stopped or was killed."""

    def __init__(self, name: str, *, log: Path) -> None:
        self.name = name
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, command: Sequence[str]) -> None:
        """Start `command`; its output is appended to the log file. Does not wait for readiness."""
        if self.running:
            raise ServerFailed(f"{self.name} is already running")
        # An own session: Ctrl-C must reach the owner only, which then stops servers in order.
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # The guard blocks on a pipe that only this process holds open. When this process dies, even
        # by SIGKILL, the pipe closes and the server goes too. A parent-death signal would be
        # simpler but fires when the starting *thread* ends, and tests start servers from threads.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read -r _; kill -9 "$1"', "guard", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def await_ready(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Poll `ready` until it is true; ServerFailed when the process dies or time runs out."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise ServerFailed(f"{self.name} ended while starting\n{self._log_end()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ServerFailed(
                    f"{self.name} was not ready after {timeout_s:.0f} s\n{self._log_end()}"
                )
            time.sleep(_POLL_S)

    def stop(self, *, timeout_s: float = 60.0) -> int | None:
        """End the process by SIGTERM, then SIGKILL; return its exit code, None if not started."""
        return self._end(signal.SIGTERM, timeout_s=timeout_s)

    def kill(self) -> int | None:
        """End the process by SIGKILL, as a crash would; return its exit code."""
        return self._end(signal.SIGKILL, timeout_s=60.0)

    def _end(self, sign: signal.Signals, *, timeout_s: float) -> int | None:
        process, self._process = self._process, None
        guard, self._guard = self._guard, None
        if guard is not None:
            # Before the server is reaped: afterwards its process id may belong to someone else.
            guard.kill()
            guard.wait()
            if guard.stdin is not None:
                guard.stdin.close()
        if process is None:
            return None
        process.send_signal(sign)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _log_end(self) -> str:
        if not self.log.exists():
            return f"(no log at {self.log})"
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES_QUOTED:]
        return "\n".join([f"end of {self.log}:", *lines])


def free_ports(count: int) -> list[int]:
    """Return `count` distinct ports, free on 127.0.0.1 now, outside the usual ephemeral range.

    Not port 0: Linux would pick from the ephemeral range, and while a server is down between a stop
    and a start on the same port, a client that retries can be given that very port as its *source*
    port, connect to itself, and keep the server from binding it again.
    """
    candidates = random.SystemRandom().sample(range(20_000, 32_000), k=200)
    ports: list[int] = []
    for port in candidates:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise ServerUnavailable("no free port between 20000 and 32000 on 127.0.0.1")


def accepts_connections(port: int) -> bool:
    """Whether something listens on 127.0.0.1 at `port`."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False
