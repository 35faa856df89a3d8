"""Processes that belong together: started with a log each, ended by process id, whatever happens between."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

GRACE = 10.0
"""Seconds between asking a process to end and ending it."""


class Processes:
    """A context in which processes are started, and at whose end none of them or of their children is left.

    Each leads a process group of its own, so that a Ctrl-C at the terminal reaches this program alone, which
    then ends them in the reverse order. ``logs``: the folder where ``NAME.log`` holds what each one says.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process under a name that no running one has."""
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                list(command),
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running[name] = process
        return process

    def log(self, name: str) -> str:
        """What a process has said so far."""
        path = self.logs / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self, name: str, at_once: bool = False) -> None:
        """End one process and its children; ``at_once`` without asking."""
        process = self.running.pop(name)
        kin = descendants(process.pid)
        deadline = time.monotonic() + (0.0 if at_once else GRACE)
        if not at_once:
            _signal(process.pid, signal.SIGTERM)
        _end(process, kin, deadline)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with _undisturbed():
            kin = {name: descendants(process.pid) for name, process in self.running.items()}
            for process in self.running.values():
                _signal(process.pid, signal.SIGTERM)
            deadline = time.monotonic() + GRACE
            for name in reversed(list(self.running)):
                _end(self.running.pop(name), kin[name], deadline)


@dataclass(frozen=True)
class Relative:
    """A process that another one has started, directly or not; ``started`` tells it from a later one of its number."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """Whether it is still there."""
        found = _status(self.pid)
        return found is not None and found[0] != "Z" and found[19] == self.started


def descendants(pid: int) -> list[Relative]:
    """Children, their children and so on, also those that have left the process group; none where there is no /proc.

    To be asked for before ``pid`` ends: afterwards nobody knows whose they were.
    """
    statuses = {int(path.name): _status(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    family, found = [pid], []
    for one in family:
        children = [child for child, status in statuses.items() if status and int(status[1]) == one]
        family += children
        found += [Relative(child, (statuses[child] or [])[19]) for child in children]
    return found


def _status(pid: int) -> list[str] | None:
    """State, parent and the rest of what the kernel says after a process's name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _end(process: subprocess.Popen[bytes], kin: Sequence[Relative], deadline: float) -> None:
    """Wait until a process and its kin have gone, and end what is left then.

    Flower starts a SuperLink's SuperExec and ServerApp in sessions of their own; they go when they see that it is gone.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, deadline - time.monotonic()))
    _signal(process.pid, signal.SIGKILL)
    process.wait()
    while time.monotonic() < deadline and any(one.alive for one in kin):
        time.sleep(0.05)
    for one in kin:
        if one.alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(one.pid, signal.SIGKILL)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not cut short what the first one began."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal(group: int, number: int) -> None:
    """To a process and the children it left in its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end this program as Ctrl-C does, so that contexts are left in order."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_ports(count: int) -> list[int]:
    """So many ports of the loopback interface that nobody listens on, each another one."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def wait_until(condition: Callable[[], object], seconds: float, what: str, pause: float = 0.1) -> None:
    """Wait until the condition holds. Raises ``TimeoutError`` that says what did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s.")
        time.sleep(pause)
