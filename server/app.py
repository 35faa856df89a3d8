"""The ServerApp: read the options, open the engine, train."""

from __future__ import annotations

import logging
from contextlib import nullcontext

from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from server.config import server_config
from server.grids.engine import is_simulated, open_engine
from server.population.population import PopulationError
from server.recovery.interrupts import StoppedError, ending_at_once
from server.results.run_directory import dropped_if_unused, make_run_directory
from server.results.storage import StorageError
from server.training import NothingTrainedError, run_training
from settings.options import OptionError

app = ServerApp()

EXPECTED_ERRORS = (OptionError, PopulationError, StorageError, StoppedError, NothingTrainedError)
"""Errors whose text is a sentence for the person who started the run; a stack trace would only hide it."""


class WithoutStackTrace(logging.Filter):
    """Shows an expected error by its sentence alone. Flower logs whatever ends a ServerApp with its stack."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], EXPECTED_ERRORS):
            record.exc_info = None
        return True


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run. Raises one of ``EXPECTED_ERRORS``, so that Flower sees it as failed."""
    logger = logging.getLogger("flwr")
    if not any(isinstance(known, WithoutStackTrace) for known in logger.filters):
        logger.addFilter(WithoutStackTrace())
    try:
        config = server_config(context.run_config)
        directory = make_run_directory(config)
        deployed = ending_at_once() if not is_simulated(grid) else nullcontext()
        with dropped_if_unused(directory), deployed, open_engine(grid, config, context, directory) as engine:
            summary = run_training(engine, config, directory)
        if summary["status"] == "failed":
            raise NothingTrainedError(summary["reason"])
    except EXPECTED_ERRORS as error:
        log(logging.ERROR, "This run cannot go on. %s", error)
        raise
