"""A run's page, or a comparison of several: one HTML file that needs nothing but a browser."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any

from experiments.report.report_plots import Plot, plots_of
from experiments.report.run_record import RunRecord, read_run
from settings.options import OptionError

PAGE = Path(__file__).with_name("report.html")


def write_report(directories: Sequence[Path], output: Path | None = None) -> Path:
    """Write the page of these runs; returns its path. Raises ``OptionError`` for a directory that is no ended run."""
    runs = [read_run(directory) for directory in directories]
    path = (output or _usual_place(directories)).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(runs), encoding="utf-8")
    return path


def _usual_place(directories: Sequence[Path]) -> Path:
    """A run's page lies in its directory, a comparison beside the first run's, whose own page it leaves alone."""
    first = directories[0].absolute()
    return first / "report.html" if len(directories) == 1 else first.parent / "comparison.html"


def page(runs: Sequence[RunRecord]) -> str:
    """The whole page."""
    plots = plots_of(runs)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        plotly=plotly_js(),
        differing=differing_table(runs),
        glance=glance_table(runs),
        summary=summary_table(runs),
        sections="\n".join(map(_section, plots)),
        detection=detection_table(runs),
        options=options_table(runs),
        # Nothing in a script of data may begin with "<": "</" ends it, and "<!--<script" keeps it from ending.
        plots=json.dumps([asdict(plot) for plot in plots], allow_nan=False).replace("<", "\\u003c"),
    )


def plotly_js() -> str:
    """plotly.js, as the plotly package brings it. Raises ``OptionError`` where that is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise OptionError("A report is drawn by plotly: pip install 'robust-fedrec[results]'.") from error
    return str(get_plotlyjs()).replace("</script", "<\\/script")


def glance_table(runs: Sequence[RunRecord]) -> str:
    """A line a run: under which protocol, how good the model was, whom the defense dropped, and what it cost."""
    metric = next((name for name in ("hr@5", "accuracy") if _last(runs[0], name) is not None), None)
    first = _last(runs[0], metric)
    heads = ["run", "data, model", "attack", "malicious share", "defense", "protocol"]
    heads += [f"{_shouted(metric or 'metric')} (test, mean of last five)", "change against the first"]
    heads += ["malicious dropped", "benign dropped", "seconds a round", "bytes an update"]
    rows = []
    for run in runs:
        options, value = run.options, _last(run, metric)
        change = "" if run is runs[0] or not first or value is None else f"{value / first - 1:+.1%}"
        whole = _whole_defense(run)
        seconds, rounds = run.summary.get("seconds"), run.summary.get("rounds")
        told = [
            f"{options.get('dataset')}, {options.get('model')}",
            options.get("attack"),
            options.get("malicious-fraction") if options.get("attack") != "none" else "",
            options.get("defense"),
            f"{rounds} rounds of {options.get('clients-per-round')} users, seed {options.get('seed')}",
            _shown(value),
            change,
            _share(whole.get("recall")),
            _share(whole.get("false_positive_rate")),
            _shown(seconds / rounds if seconds and rounds else None),
            _shown((run.summary.get("bytes") or {}).get("up_per_update")),
        ]
        cells = "".join(f"<td>{html.escape(str(text))}</td>" for text in told)
        rows.append(f'<tr><th scope="row">{html.escape(run.name)}</th>{cells}</tr>')
    return _table(heads, rows)


def differing_table(runs: Sequence[RunRecord]) -> str:
    """The options in which the runs differ; nothing for one run."""
    found = {name for run in runs for name in run.options if _differs(name, runs)}
    names = sorted(found - {"output-dir", "run-name"})
    return _options(names, runs) if names else ""


def _last(run: RunRecord, metric: str | None) -> float | None:
    value = (run.summary.get("test_last_five") or {}).get(metric)
    return None if value is None else float(value)


def _whole_defense(run: RunRecord) -> dict[str, Any]:
    """What the chain as a whole dropped: the last entry, after those of its rules."""
    found = list((run.summary.get("detection") or {}).values())
    return dict(found[-1]) if found else {}


def _share(value: float | None) -> str:
    return "—" if value is None else f"{value:.1%}"


def summary_table(runs: Sequence[RunRecord]) -> str:
    """A column a run; every number as in summary.json stands in its cell's ``data-value``."""
    rows = [_row("status", runs, "status")]
    if any("notice" in run.summary for run in runs):
        rows += [_row("notice", runs, "notice")]
    for group, label in (("test", "test, best round"), ("valid", "validation, best round")):
        names = runs[0].summary.get(group) or {}
        shown = [name for name in names if "@" not in name or name.endswith("@5") or name == "er@10"]
        rows += [_row(f"{_shouted(name)} ({label})", runs, f"{group}/{name}") for name in shown]
    names = runs[0].summary.get("test_last_five") or {}
    rows += [_row(f"{_shouted(name)} (test, mean of last five)", runs, f"test_last_five/{name}") for name in names]
    for key, label in (("best_round", "best round"), ("rounds", "rounds"), ("seconds", "seconds")):
        rows.append(_row(label, runs, key))
    rows.append(_row("rounds a second", runs, "rounds_per_second"))
    sizes = {
        "up_per_round": "bytes up a round",
        "down_per_round": "bytes down a round",
        "up_per_update": "bytes an update",
    }
    rows += [_row(label, runs, f"bytes/{key}") for key, label in sizes.items()]
    return _table(["", *(run.name for run in runs)], rows)


def detection_table(runs: Sequence[RunRecord]) -> str:
    """What each rule found, over the whole run."""
    rows = []
    for run in runs:
        for rule, measures in (run.summary.get("detection") or {}).items():
            cells = "".join(_cell(run, f"detection/{rule}/{name}") for name in measures)
            rows.append(f'<tr><th scope="row">{html.escape(run.name)}</th><td>{html.escape(rule)}</td>{cells}</tr>')
    if not rows:
        return "<p>No rule judged anybody in these runs.</p>"
    return _table(["run", "rule", "precision", "recall", "false-positive rate", "AUC"], rows)


def options_table(runs: Sequence[RunRecord]) -> str:
    """Every option; those in which the runs differ are marked and come first."""
    names = sorted({name for run in runs for name in run.options}, key=lambda name: (not _differs(name, runs), name))
    return _options(names, runs)


def _options(names: Sequence[str], runs: Sequence[RunRecord]) -> str:
    rows = []
    for name in names:
        values = "".join(f"<td>{html.escape(str(run.options.get(name, '')))}</td>" for run in runs)
        mark = ' class="differs"' if _differs(name, runs) else ""
        rows.append(f'<tr{mark}><th scope="row">{html.escape(name)}</th>{values}</tr>')
    return _table(["option", *(run.name for run in runs)], rows)


def _differs(name: str, runs: Sequence[RunRecord]) -> bool:
    return len({str(run.options.get(name)) for run in runs}) > 1


def _section(plot: Plot) -> str:
    key = html.escape(plot.key)
    return (
        f'<section aria-labelledby="{key}-title"><h2 id="{key}-title">{html.escape(plot.title)}</h2>'
        f'<p>{html.escape(plot.about)}</p><div id="{key}" class="plot" role="img" '
        f'aria-label="{html.escape(plot.title)}"></div></section>'
    )


def _row(label: str, runs: Sequence[RunRecord], key: str) -> str:
    return f'<tr><th scope="row">{html.escape(label)}</th>{"".join(_cell(run, key) for run in runs)}</tr>'


def _cell(run: RunRecord, key: str) -> str:
    value: Any = run.summary
    for part in key.split("/"):
        value = value.get(part) if isinstance(value, dict) else None
    raw = html.escape(json.dumps(value))
    about = f'data-run="{html.escape(run.name)}" data-key="{html.escape(key)}" data-value="{raw}"'
    return f"<td {about}>{html.escape(_shown(value))}</td>"


def _shouted(name: str) -> str:
    return name.upper().replace("_", " ")


def _shown(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in heads)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
