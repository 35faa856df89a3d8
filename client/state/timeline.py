"""Which course of a run a node's state on disk belongs to.

A run that is resumed from a checkpoint takes another course from there: what nodes did after that round in
the abandoned course must be undone, also by those that learn of it later. So each request says after which round
each resume took the run up (``resumed_at``), and a node remembers how many of them it knows. The number also fences off
a process of the abandoned course that is still alive: it may not write any more.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class AbandonedError(RuntimeError):
    """A request, or a process, of a course of the run that was given up when the run was resumed."""


class Timeline:
    """The course that the state in ``directory`` belongs to, as it was when this object was made."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._resumes = self._on_disk()

    def back_to(self, resumed_at: Sequence[int]) -> int | None:
        """The last round of this state that still counts, ``None`` where all of it does.

        Raises ``AbandonedError`` for a request that knows of fewer resumes than this state.
        """
        if len(resumed_at) < self._resumes:
            raise AbandonedError(
                f"This request knows of {len(resumed_at)} resumes of its run, this node of {self._resumes}: "
                "it comes from a server whose run was resumed elsewhere."
            )
        return min(resumed_at[self._resumes :], default=None)

    def take_up(self, resumes: int) -> None:
        """From now on this state belongs to the course after so many resumes; called inside ``writing``."""
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({"resumes": resumes}))
        partial.replace(self._path)
        self._resumes = resumes

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the state for writing: one process at a time, and none of an abandoned course.

        Raises ``AbandonedError``.
        """
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if self._on_disk() != self._resumes:
                raise AbandonedError("This run was resumed since; this process belongs to its former course.")
            yield
        finally:
            os.close(descriptor)

    @property
    def _path(self) -> Path:
        return self._directory / "timeline.json"

    def _on_disk(self) -> int:
        try:
            return int(json.loads(self._path.read_text())["resumes"])
        except FileNotFoundError:
            return 0
