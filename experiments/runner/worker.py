"""One cell in a process of its own, which ends when its parent does.

``python -m experiments.runner.worker`` reads one line of JSON from its standard input: the run's options, with
``output-dir`` and ``run-name``. The input stays open as long as the parent lives; its end ends the worker.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TAKEN = 75
"""Exit status where another process is at this very cell."""


def main() -> int:
    """Run the cell; the exit status says whether it completed."""
    options: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runs, name = Path(options["output-dir"]), options["run-name"]
    with _claimed(runs / ".claims" / f"{name}.lock") as claimed:
        if not claimed:
            return TAKEN
        # Imported late: the claim is there at once, and a parent that is gone is noticed meanwhile.
        import torch

        from experiments.runner.cell import cell, finished
        from experiments.runner.commit import commit
        from server.simulation import simulate
        from settings import plugins

        plugins.search(str(options.get("plugin-dir", "")))
        if cell(options).name != name:
            sys.exit("The file of a class of yours has changed since this grid began: start it again.")
        if finished(cell(options), runs) is not None:
            # Another grid made it meanwhile, and may be reading it.
            return 0
        # What an interrupted grid left half-finished is made anew.
        shutil.rmtree(runs / name, ignore_errors=True)
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        version = commit()
        directory, _ = simulate(options)
        (directory / "made_by.json").write_text(json.dumps({"commit": version}) + "\n", encoding="utf-8")
    return 0


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


@contextmanager
def _claimed(lock: Path) -> Iterator[bool]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


if __name__ == "__main__":
    sys.exit(main())
