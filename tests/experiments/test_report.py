"""The report in a real browser: it renders, nothing goes wrong, and it shows the summary's numbers."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from experiments.report.report import write_report
from experiments.report.run_record import read_run
from settings.options import OptionError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--virtual-time-budget=30000",
    "--dump-dom",
]


class Page(HTMLParser):
    """What a reader finds: cells with their raw values, the body's marks, and how many plots have drawn lines."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: dict[tuple[str, str], tuple[object, str]] = {}
        self.body: dict[str, str | None] = {}
        self.plots = 0
        self._open: tuple[str, str, object] | None = None

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "body":
            self.body = found
        if tag == "svg" and found.get("class") == "main-svg":
            self.plots += 1
        if "data-key" in found:
            self._open = (found["data-run"], found["data-key"], json.loads(found["data-value"]))

    def handle_data(self, text):
        if self._open is not None:
            run, key, value = self._open
            self.cells[run, key] = (value, text)
            self._open = None


def _rendered(path, profile) -> tuple[Page, str]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    page = Page()
    page.feed(done.stdout)
    return page, done.stderr


def _at(summary, key):
    for part in key.split("/"):
        summary = (summary or {}).get(part)
    return summary


def test_it_renders_without_errors_and_shows_the_summarys_numbers(attacked_run, tmp_path):
    path = write_report([attacked_run], tmp_path / "report.html")
    page, console = _rendered(path, tmp_path / "profile")
    assert json.loads(page.body["data-errors"]) == []
    assert "CONSOLE" not in console
    assert int(page.body["data-plots"]) >= 8
    assert page.plots >= int(page.body["data-plots"])
    summary = json.loads((attacked_run / "summary.json").read_text())
    assert {key for _, key in page.cells} >= {"test/hr@5", "test_last_five/ndcg@5", "detection/union/recall"}
    for (_, key), (value, text) in page.cells.items():
        assert value == _at(summary, key)
        if isinstance(value, float):
            assert float(text.replace(",", "")) == pytest.approx(value, abs=5.1e-5 if abs(value) < 100 else 0.51)


def test_several_runs_are_compared_in_one_page(attacked_run, tmp_path):
    other = tmp_path / "another <b>run</b>"
    shutil.copytree(attacked_run, other)
    config = json.loads((other / "config.json").read_text())
    config["options"]["seed"] = 17
    (other / "config.json").write_text(json.dumps(config))
    page, console = _rendered(write_report([attacked_run, other], tmp_path / "both.html"), tmp_path / "profile")
    assert json.loads(page.body["data-errors"]) == []
    assert "CONSOLE" not in console
    assert {run for run, _ in page.cells} == {attacked_run.name, other.name}


def test_a_comparison_leaves_the_first_runs_page_and_says_first_what_differs(attacked_run, tmp_path):
    runs = [tmp_path / "first", tmp_path / "<!--<script>"]
    for seed, run in enumerate(runs):
        shutil.copytree(attacked_run, run)
        config = json.loads((run / "config.json").read_text())
        config["options"]["seed"] = seed
        (run / "config.json").write_text(json.dumps(config))
    path = write_report(runs)
    assert path == tmp_path / "comparison.html"
    assert not (runs[0] / "report.html").exists()
    text = path.read_text()
    assert text.index('<tr class="differs">') < text.index("At a glance") < text.index("All metrics")
    data = re.search(r'id="plots">(.*?)</script>', text, re.DOTALL).group(1)
    assert "<" not in data
    assert any("<!--" in trace["name"] for plot in json.loads(data) for trace in plot["traces"])


def test_the_page_needs_no_network(attacked_run, tmp_path):
    text = write_report([attacked_run], tmp_path / "report.html").read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", text.split("<script>")[0])


def test_curves_are_means_of_the_rounds_they_stand_for(attacked_run, attacked_rounds):
    run = read_run(attacked_run)
    rounds, losses = run.curves["loss"]
    assert rounds == [line["round"] for line in attacked_rounds]
    assert losses == pytest.approx([line["loss"] for line in attacked_rounds], rel=1e-5)


def test_a_folder_that_is_no_run_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(OptionError, match="Expected the directory of a run"):
        write_report([tmp_path])
