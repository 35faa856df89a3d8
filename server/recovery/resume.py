"""What to resume: which run, from which of its checkpoints, and whether the options still mean the same run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from logging import INFO
from pathlib import Path
from typing import Any

from flwr.common.logger import log

from server.config import ServerConfig, effective
from server.recovery.checkpoint import (
    FOLDER,
    About,
    Checkpoint,
    CheckpointError,
    Checkpoints,
    checkpoint_files,
    is_checkpoint,
    refuse_another_run,
)
from server.results.storage import storing
from server.state import RunState
from settings.options import OptionError, require
from settings.paths import absolute, is_file, is_folder
from strategies.server_model import ServerModel

LATEST = "latest"


def directory_to_resume(config: ServerConfig) -> Path:
    """The run directory that ``resume`` names: ``latest``, a run's directory, or one of its checkpoints.

    ``latest`` is the run in ``output-dir`` with the newest checkpoint, of those with this ``run-name`` where one is
    given (a name that is there already gets a number behind it). Raises ``OptionError`` where there is none.
    """
    resume, base = config.options.resume, config.output_dir
    if resume != LATEST:
        path = absolute("resume", resume)
        directory = path.parent.parent if path.suffix == ".safetensors" else path
        if path.suffix == ".safetensors":
            there = is_file("resume", path) and is_checkpoint(path)
        else:
            there = is_folder("resume", directory / FOLDER)
        require(there, "resume", resume, "'latest', a run's directory, or one of its checkpoints")
        return directory
    named = re.compile(re.escape(config.options.run_name) + r"(-\d+)?" if config.options.run_name else ".*")
    runs = [path for path in sorted(base.glob("*")) if named.fullmatch(path.name)]
    newest = {run: found[-1].stat().st_mtime_ns for run in runs if (found := checkpoint_files(run / FOLDER))}
    require(bool(newest), "resume", resume, f"a run with checkpoints in {base}; there is none, so start without resume")
    return max(newest, key=lambda run: newest[run])


def resumable(
    checkpoints: Checkpoints, config: ServerConfig, directory: Path, start: ServerModel, nodes: int
) -> Checkpoint:
    """The checkpoint to go on from. Raises ``OptionError`` where there is none, or the options mean another run.

    ``nodes``: how many the engine makes, 0 where nodes come by themselves.
    """
    resume = config.options.resume
    upto = Path(resume).name if resume.endswith(".safetensors") else ""

    def check(about: About) -> None:
        # Before anything that depends on the options is compared: an option is the better explanation.
        refuse_another_run(about["options"], effective(config))
        for name, size in about["positions"].items():
            path = directory / name
            if not path.exists() or path.stat().st_size < size:
                raise CheckpointError(f"{name} is shorter than when it was written")

    found = checkpoints.newest_usable(start, check, upto)
    if found.about["nodes"] != nodes:
        raise OptionError(
            f"num-nodes = {nodes}: the run that is resumed has {found.about['nodes']} nodes, which keep its users' "
            "state; give that number."
        )
    return found


def taken_up(found: Checkpoint, about: Mapping[str, Any], checkpoints: Checkpoints, directory: Path) -> RunState:
    """The state of a checkpoint as that of a run that goes on from there; what was written after it is set aside.

    ``about``: which run it is now. Raises ``OptionError`` where the nodes host other users than then.
    """
    if found.about["population"] != about["population"]:
        raise OptionError("The nodes host other users than when the run was started: their state is elsewhere.")
    if found.about["data"] != about["data"]:
        raise OptionError(
            "The nodes' data is not that with which the run was started: other users, items or interactions of "
            "the same number. Bring the data set back that it had, or start a new run without resume."
        )
    with storing(directory):
        resumed_at = (*checkpoints.resumes(), found.state.round)
        checkpoints.forget_after(found.state.round)
        checkpoints.note_resumes(resumed_at)
        state = replace(found.state, resumed_at=resumed_at, keep_from=checkpoints.oldest())
    log(INFO, "Resumed after round %d of %s.", state.round, directory)
    return state
