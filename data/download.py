"""Get a file from the web once: resumable, checked, and safe beside another process that wants the same file."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from data.writable import writable_folder
from settings.options import OptionError
from settings.paths import status_of

BLOCK_BYTES = 1 << 18
TIMEOUT_SECONDS = 30.0


class _NetworkError(Exception):
    """The network failed; what came before is in the file."""


def download(url: str, target: Path, md5: str | None = None, check: Callable[[Path], str | None] | None = None) -> Path:
    """Make sure that ``target`` exists, and return it.

    The bytes are collected in ``target`` with ``.partial`` behind its name; what an earlier attempt left
    there is not asked for again. ``md5``: hex digest of the whole file. ``check`` says of the whole file
    what is wrong with it, if anything. A file that fails is deleted and never gets the name ``target``. A
    second process waits for the first. Raises ``OptionError`` where the file cannot be had; the text says
    which file to put where by hand.
    """
    if status_of("data-dir", target):
        return target
    by_hand = f"To do it by hand, put {url} at {target}."
    try:
        writable_folder(target.parent)
        with lock(target.with_name(target.name + ".lock")):
            if not target.exists():
                partial = target.with_name(target.name + ".partial")
                _fetch(url, partial, by_hand)
                wrong = _wrong(partial, md5, check)
                if wrong:
                    partial.unlink()
                    raise OptionError(f"{url} did not send the file that was expected: {wrong}. {by_hand}")
                partial.replace(target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OptionError(
                f"The disk is full: {target} does not fit. Make room and start again; what came so far is kept."
            ) from None
        raise OptionError(
            f"{target} cannot be written ({error.strerror or error}): choose a data-dir that can be. {by_hand}"
        ) from None
    return target


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock file, as soon as no other process does."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def progress_bar() -> Progress:
    """A bar in bytes, on standard error, that leaves nothing behind."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True), transient=True)


def _fetch(url: str, partial: Path, by_hand: str) -> None:
    """Append until the file is whole, connecting anew as long as each connection brings something."""
    with partial.open("ab") as file, progress_bar() as progress:
        task = progress.add_task(partial.stem, total=None)
        while True:
            before = file.tell()
            try:
                for total in _receive(url, file, by_hand):
                    progress.update(task, completed=file.tell(), total=total)
                return
            except _NetworkError as reason:
                if file.tell() <= before:
                    raise OptionError(
                        f"{url} cannot be downloaded: {reason}. What came so far is kept for next time. {by_hand}"
                    ) from None


def _receive(url: str, file: BinaryIO, by_hand: str) -> Iterator[int | None]:
    """Append what is missing; yields the whole file's size, if known, after each block."""
    done = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise OptionError(f"{url} cannot be downloaded: the server says {error.code}. {by_hand}") from None
        if error.headers.get("Content-Range", "") == f"bytes */{done}":
            return
        # The server's file is another one than the file begun earlier.
        _empty(file)
        yield from _receive(url, file, by_hand)
        return
    except (OSError, http.client.HTTPException) as error:
        raise _NetworkError(_reason(error)) from None
    with response:
        if done and response.status != http.HTTPStatus.PARTIAL_CONTENT:
            _empty(file)
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        while block := _read(response):
            file.write(block)
            file.flush()
            yield total
        if total is not None and file.tell() < total:
            raise _NetworkError(f"the connection broke off after {file.tell()} of {total} bytes")


def _empty(file: BinaryIO) -> None:
    file.truncate(0)
    file.seek(0)


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(BLOCK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _NetworkError(_reason(error)) from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)


def _wrong(path: Path, md5: str | None, check: Callable[[Path], str | None] | None) -> str | None:
    if md5:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != md5:
            return f"its md5 is {found}, not {md5}"
    return check(path) if check else None
