"""What to resume: which run, from which of its checkpoints, and whether the options still mean the same run."""

from __future__ import annotations

import re
from pathlib import Path

from server.config import ServerConfig, effective
from server.recovery.checkpoint import (
    FOLDER,
    Checkpoint,
    CheckpointError,
    Checkpoints,
    State,
    checkpoint_files,
    refuse_another_run,
)
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
        there = is_file("resume", path) if path.suffix == ".safetensors" else is_folder("resume", directory / FOLDER)
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

    def check(state: State) -> None:
        # Before anything that depends on the options is compared: an option is the better explanation.
        refuse_another_run(state["options"], effective(config))
        for name, size in state["positions"].items():
            path = directory / name
            if not path.exists() or path.stat().st_size < size:
                raise CheckpointError(f"{name} is shorter than when it was written")

    found = checkpoints.newest_usable(start, check, upto)
    if found.state["nodes"] != nodes:
        raise OptionError(
            f"num-nodes = {nodes}: the run that is resumed has {found.state['nodes']} nodes, which keep its users' "
            "state; give that number."
        )
    return found
