"""The report's plots, as plotly.js takes them: plain data, without colours of the page, which the page adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.report.run_record import SCATTERED, RunRecord
from experiments.report.style import BENIGN, COLOURS, MALICIOUS
from strategies.names import names_of

Trace = dict[str, Any]
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

METRICS = {
    "hr@5": "Hit ratio at 5",
    "ndcg@5": "NDCG at 5",
    "er@10": "Exposure of the target items at 10",
    "accuracy": "Accuracy",
    "attack_success": "Attack success: poison inputs that get the target's label",
}
"""Those that have a plot, with its title."""


LOSS = "The benign loss of a round's users, averaged over stretches"
LOSS_TOO = f"{LOSS}; it has the contrastive term too, and is not to be compared with a loss that lacks it."


@dataclass(frozen=True)
class Plot:
    """One plot: ``title`` and ``about`` for people, ``traces`` and ``layout`` for plotly.js."""

    key: str
    title: str
    about: str
    traces: list[Trace]
    layout: dict[str, Any]


def plots_of(runs: Sequence[RunRecord]) -> list[Plot]:
    """All plots that these runs have something to show in."""
    made = [
        *(_evaluations(runs, metric, title) for metric, title in METRICS.items()),
        _curves(_alike(runs, False), "loss", "Training loss", f"{LOSS}.", ("loss",)),
        _curves(_alike(runs, True), "loss-contrastive", "Training loss with the contrastive task", LOSS_TOO, ("loss",)),
        _curves(runs, "attack-loss", "Attack loss", "ClusterAttack's own loss (Eq. 2).", ("attack loss",)),
        _curves(runs, "clusters", "Clusters of the attacker", "ClusterAttack's K as it adapts.", ("K",)),
        *_uniformities(runs),
        _curves(
            runs,
            "detection",
            "Detection over rounds",
            "Precision and recall of the whole chain of rules, each over a twentieth of the run.",
            ("precision", "recall"),
            {"range": [-0.03, 1.03]},
        ),
        _curves(runs, "bytes", "Bytes a round", "Arrays sent up and down in a round.", ("bytes up", "bytes down")),
        _curves(runs, "seconds", "Seconds a round", "Without evaluations.", ("seconds",)),
    ]
    return [plot for plot in made if plot.traces]


def _evaluations(runs: Sequence[RunRecord], metric: str, title: str) -> Plot:
    about = "Test solid, validation dotted; the marker is the round that is best on validation."
    traces = list[Trace]()
    for number, run in enumerate(runs):
        colour, rounds = _colour(number), [line["round"] for line in run.evaluations]
        for part, dash in (("test", "solid"), ("valid", "dot")):
            values = [line[part].get(metric) for line in run.evaluations]
            if not any(value is not None for value in values):
                continue
            label = {"test": "test", "valid": "validation"}[part]
            traces += [
                {**_line(_name(run, runs, label), rounds, values, colour, dash), **_grouped(run, runs, part == "test")}
            ]
        best, value = run.summary.get("best_round"), (run.summary.get("test") or {}).get(metric)
        if best is not None and value is not None:
            marker = {"color": colour, "size": 10, "symbol": "diamond"}
            point = {"x": [best], "y": [value], "mode": "markers", "marker": marker}
            traces += [{**point, "name": _name(run, runs, "best round"), **_grouped(run, runs, False)}]
    return Plot(metric.replace("@", "-"), title, about, traces, _layout(metric.upper()))


def _curves(
    places: Sequence[RunRecord | None],
    key: str,
    title: str,
    about: str,
    names: Sequence[str],
    axis: dict[str, Any] | None = None,
) -> Plot:
    runs = [run for run in places if run is not None]
    traces = [
        _line(
            name if len(places) == 1 else f"{label_of(run, runs)}: {name}",
            *run.curves[name],
            _colour(number if len(places) > 1 else at),
            DASHES[at],
        )
        for number, run in enumerate(places)
        if run is not None
        for at, name in enumerate(names)
        if name in run.curves
    ]
    return Plot(key, title, about, traces, _layout(" · ".join(names), axis))


def _alike(runs: Sequence[RunRecord], contrastive: bool) -> list[RunRecord | None]:
    """The runs with, or without, the contrastive task in their places, so that each keeps its colour."""
    return [run if _contrastive(run) == contrastive else None for run in runs]


def _contrastive(run: RunRecord) -> bool:
    asked = run.options.get("contrastive-task", "auto")
    return asked == "on" or (asked == "auto" and "union" in names_of(str(run.options.get("defense", "none"))))


def _uniformities(runs: Sequence[RunRecord]) -> list[Plot]:
    about = (
        "Each point is one received update in a round: its uniformity less the round's median, because all drift "
        "together. UNION drops those that would make item vectors less uniform."
    )
    symbols = dict(zip(SCATTERED, ("circle-open", "x", "triangle-up", "triangle-up-open"), strict=True))
    colour: Callable[[str], str] = lambda name: MALICIOUS if name.startswith("malicious") else BENIGN  # noqa: E731
    made = []
    for number, run in enumerate(runs):
        traces = [
            {
                "x": rounds,
                "y": values,
                "name": name,
                "mode": "markers",
                "marker": {"color": colour(name), "symbol": symbols[name], "size": 6 if name == "benign, kept" else 9},
            }
            for name, (rounds, values) in run.users.items()
            if rounds
        ]
        title = "Uniformity of updates" + (f": {label_of(run, runs)}" if len(runs) > 1 else "")
        made.append(Plot(f"uniformity-{number}", title, about, traces, _layout("uniformity − median of the round")))
    return made


def _line(name: str, x: Sequence[float], y: Sequence[float], colour: str, dash: str) -> Trace:
    return {"x": x, "y": y, "name": name, "mode": "lines", "line": {"color": colour, "dash": dash, "width": 2}}


def _name(run: RunRecord, runs: Sequence[RunRecord], what: str) -> str:
    return what if len(runs) == 1 else f"{label_of(run, runs)}: {what}"


def label_of(run: RunRecord, runs: Sequence[RunRecord]) -> str:
    """What tells a run from the others: attack and defense, or its name where that is not enough."""
    labels = [f"{one.options.get('attack')} / {one.options.get('defense')}" for one in runs]
    own = labels[[one is run for one in runs].index(True)]
    return own if labels.count(own) == 1 else run.name


def _grouped(run: RunRecord, runs: Sequence[RunRecord], leads: bool) -> Trace:
    """In a comparison one entry of the legend stands for, and toggles, all lines of a run."""
    return {} if len(runs) == 1 else {"legendgroup": run.name, "showlegend": leads}


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _layout(value: str, axis: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"xaxis": {"title": {"text": "round"}}, "yaxis": {"title": {"text": value}, **(axis or {})}}
