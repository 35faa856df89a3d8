"""A node's process that stays, because Flower starts a new one for each message.

Importing torch takes longer than a round's training. So the process that Flower starts imports neither
torch nor the data: it hands the message to one that did so for the first message, over a Unix socket in a
folder that only this user can enter. That one ends when nothing came for a while, or when its SuperNode
has ended. It holds nothing that is not on disk: where it is gone the next message starts another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from flwr.app import Context, Message

from protocol.transport import context_from_bytes, context_to_bytes, message_from_bytes, message_to_bytes
from settings.options import OptionError
from settings.paths import absolute, status_of

START = 120.0
"""Seconds within which a resident process must listen."""

LONGEST_ADDRESS = 100
"""Bytes of a Unix socket's path."""

BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from client.deployed.resident import main; main(*sys.argv[2:])"


REPLY, ERROR = b"reply", b"error"
"""What follows in an answer: a Flower message in its own encoding, or an error as JSON. Nothing is pickled."""

ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (OptionError, ValueError, TypeError, RuntimeError, OSError)
}
"""Errors that arrive with their type; others as ``RuntimeError`` with their type's name."""


class ResidentError(RuntimeError):
    """The resident process ended before it answered."""


def answer(message: Message, context: Context, seconds: float) -> Message:
    """The reply of this node's resident process, which stays for ``seconds`` after it.

    Raises what the node raised, ``ResidentError`` where its process died, ``OSError`` where none can be started.
    """
    app_dir = Path(__file__).resolve().parents[2]
    with _connected(_address(context, app_dir), app_dir, seconds) as connection:
        try:
            connection.send_bytes(message_to_bytes(message))
            connection.send_bytes(context_to_bytes(context))
            kind, result = connection.recv_bytes(), connection.recv_bytes()
        except (EOFError, ConnectionError) as error:
            raise ResidentError("This node's process ended before it answered; its log may say why.") from error
    if kind != REPLY:
        raise _error(**json.loads(result))
    return message_from_bytes(result)


def _connected(address: Path, app_dir: Path, seconds: float) -> Connection:
    """A connection to the process at this address; it is started where there is none."""
    connection = _connect(address)
    if connection is not None:
        return connection
    address.unlink(missing_ok=True)
    command = [sys.executable, "-c", BOOT, str(app_dir), str(address), str(os.getppid()), str(seconds)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.poll() is None:
        connection = _connect(address)
        if connection is not None:
            return connection
        time.sleep(0.02)
    process.kill()
    raise OSError(f"This node's process could not be started (exit status {process.wait()}).")


def _connect(address: Path) -> Connection | None:
    channel = socket.socket(socket.AF_UNIX)
    try:
        channel.connect(str(address))
    except (FileNotFoundError, ConnectionError):
        channel.close()
        return None
    return Connection(channel.detach())


def _address(context: Context, app_dir: Path) -> Path:
    """One socket for a node of a SuperNode process, a version of the program, and what else it has read by then."""
    # The parent is Flower's SuperExec, which lives as long as its SuperNode.
    identity = f"{context.node_id} {os.getppid()} {app_dir} {_files_of_run(context)}"
    path = _private_folder() / hashlib.sha256(identity.encode()).hexdigest()[:24]
    if len(os.fsencode(path)) > LONGEST_ADDRESS:
        raise OSError(
            "The path of the folder for temporary files is too long for a socket: set TMPDIR to a shorter one."
        )
    return path


def _files_of_run(context: Context) -> str:
    """The user's own classes and the node's own data as they were at the run's first message.

    A process remembers them as it read them: another version needs another one, but not in the middle of a run.
    """
    files = _files_now(context)
    if not files:
        return ""
    note = _private_folder() / f"{context.run_id}-{context.node_id}.files"
    if not note.exists():
        note.write_text("\n".join(files))
    return note.read_text()


def _files_now(context: Context) -> list[str]:
    plugins, data = (
        str(config.get(name, ""))
        for config, name in ((context.run_config, "plugin-dir"), (context.node_config, "data"))
    )
    files = sorted(absolute("plugin-dir", plugins).glob("*.py")) if plugins else []
    files += [absolute("data", path) for path in (data, str(context.run_config.get("dataset", ""))) if path]
    return [f"{path} {found.st_mtime_ns}" for path in files if (found := status_of("data", path))]


def _private_folder() -> Path:
    """Only this user may enter it: who can write to a socket in it could make the node run anything."""
    folder = Path(tempfile.gettempdir()) / f"robust-fedrec-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise OSError(f"{folder.name}, in the folder for temporary files, must be one that this user alone can enter.")
    return folder


def main(address: str, supernode: str, seconds: str) -> None:
    """Listen at ``address`` until nothing came for ``seconds``, or the process ``supernode`` has ended."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # One message at a time: that is what a SuperNode hands out.
    with contextlib.suppress(KeyboardInterrupt), socket.socket(socket.AF_UNIX) as listener:
        # In a private folder already; its mode keeps others out where that folder's is changed.
        before = os.umask(0o177)
        listener.bind(address)
        os.umask(before)
        listener.listen()
        # From here on its first message waits in the queue while this is imported.
        from client.answers import answer
        from client.state.connections import outlast_power_cuts

        outlast_power_cuts()
        try:
            serve(listener, answer, lambda: _exists(int(supernode)), float(seconds))
        finally:
            Path(address).unlink(missing_ok=True)
        # Whoever connected before the socket's name was gone still gets an answer.
        serve(listener, answer, lambda: True, 0.0)


def serve(
    listener: socket.socket, app: Callable[[Message, Context], Message], alive: Callable[[], bool], seconds: float
) -> None:
    """Answer one connection after another, until none came for ``seconds`` or ``alive`` says no."""
    quiet_since = time.monotonic()
    while True:
        left = quiet_since + seconds - time.monotonic()
        ready = select.select([listener], [], [], max(0.0, min(1.0, left)))[0]
        if ready:
            with Connection(listener.accept()[0].detach()) as connection, contextlib.suppress(EOFError, OSError):
                for part in _answered(app, connection.recv_bytes(), connection.recv_bytes()):
                    connection.send_bytes(part)
            quiet_since = time.monotonic()
        elif left <= 0 or not alive():
            return


def _answered(app: Callable[[Message, Context], Message], message: bytes, context: bytes) -> tuple[bytes, bytes]:
    try:
        reply = app(message_from_bytes(message), context_from_bytes(context))
        return REPLY, message_to_bytes(reply)
    except Exception as error:
        from client.deployed.public_errors import public_text

        # The stack is for the node's log; the text is what the server gets.
        told = {"kind": type(error).__name__, "text": public_text(error), "stack": traceback.format_exc()}
        return ERROR, json.dumps(told).encode()


def _error(kind: str, text: str, stack: str) -> Exception:
    error = ERRORS[kind](text) if kind in ERRORS else RuntimeError(f"{kind}: {text}")
    error.add_note(stack)
    return error


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
