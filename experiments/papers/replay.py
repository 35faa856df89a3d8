"""Judge the recorded rounds of a run with any defense, without training anything."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import draws
from draws import Stream
from server.results.update_log import recorded_rounds
from settings import plugins
from settings.options import OptionError, Scalar, option_names, require, with_plugin_options
from strategies.chain import compose, links, prefix_of
from strategies.cohort_bounds import bounded
from strategies.detection import Detection, DetectionTally
from strategies.rule import NobodyLeftError, ServerView


@dataclass(frozen=True)
class Replay:
    """What a defense made of the recorded rounds: detection by rule, how many rounds, and how long it took."""

    defense: str
    by_rule: Mapping[str, Detection]
    rounds: int
    seconds: float


def replay(run: Path, defense: str, options: Mapping[str, Scalar] | None = None) -> Replay:
    """Let ``defense`` judge every recorded round, with the run's options and these over them.

    The rule gets what it would have got in the run: the same updates, model, Adam moments and random draws.
    Raises ``OptionError`` for a run without recorded rounds and for options that the defense refuses.
    """
    try:
        used = json.loads((run / "config.json").read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, KeyError) as error:
        raise OptionError(f"{run} is not a run directory: its config.json cannot be read ({error}).") from error
    given = dict(options or {})
    # Options of a user's own rules are in the run's by name, and may be given anew.
    own = with_plugin_options({"plugin-options": given.pop("plugin-options", "")})
    chosen = {**used, **given, **own}
    cohort = int(chosen["clients-per-round"])
    plugins.search(str(chosen.get("plugin-dir", "")))
    rule = compose(defense, chosen, cohort, float(chosen["malicious-fraction"]))
    known = {name for one in links(rule) for name in option_names(one.Options, prefix_of(type(one)))}
    for name in sorted(set(own) - {"plugin-options"} - known):
        require(
            False, "plugin-options", name, f"an option of {defense}: " + (", ".join(sorted(known)) or "it has none")
        )
    tally, rounds, started = DetectionTally(), 0, time.perf_counter()
    for one in recorded_rounds(run):
        generator = draws.generator(int(used["seed"]), Stream.RULE, one.server_round)
        within = bounded(one.updates, float(used.get("value-bound", 0)), one.model).updates
        try:
            verdicts = rule.aggregate(within, ServerView(one.server_round, one.model, cohort, generator)).verdicts
        except NobodyLeftError as error:
            verdicts = error.verdicts
        tally = tally.plus(verdicts, one.malicious, one.updates.num_examples.numpy())
        rounds += 1
    if not rounds:
        raise OptionError(f"{run} has no recorded updates: train with record-updates, say '10' for every tenth round.")
    return Replay(defense, tally.by_rule, rounds, time.perf_counter() - started)


def rows_of(replays: Sequence[Replay]) -> list[list[str]]:
    """Defense, rule, precision, recall, false-positive rate, AUC, rounds, seconds."""
    rows = []
    for found in replays:
        about = [str(found.rounds), f"{found.seconds:.1f}"]
        judged = found.by_rule or {"(judges nobody)": Detection()}
        rows += [
            [found.defense, rule, *(_share(value) for value in detection.measures().values()), *about]
            for rule, detection in judged.items()
        ]
    return rows


def _share(value: float) -> str:
    return "—" if value != value else f"{value:.3f}"
