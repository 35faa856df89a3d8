"""An attack from outside, with a measure of its own, goes through a run as the repository's do."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from what_runs_leave import run

from attacks.recommenders.explicit_boosting import ExplicitBoosting
from metrics.metric import Metric
from metrics.ranked import Ranked


class TopFive(Metric):
    """The share of users who have item 7 among their best five, of those who did not interact with it."""

    name, names, shown = "top-five", ("seventh@5",), ("seventh@5",)

    def length(self, num_items: int) -> int:
        return 3

    def count(self, ranked: Ranked) -> Tensor:
        owner, items = ranked.excluded
        scores = ranked.all_scores.clone()
        scores[owner, items] = -torch.inf
        inside = (scores.topk(5).indices == 7).any(1).long()
        inside[owner[items == 7]] = 2
        return torch.bincount(inside, minlength=3)

    def values(self, totals: Sequence[int]) -> dict[str, float | None]:
        users = totals[0] + totals[1]
        return {"seventh@5": totals[1] / users if users else None}


class Own(ExplicitBoosting):
    """Boosts, and brings its measure along."""

    prefix = "own"

    def metrics(self) -> Sequence[Metric]:
        return (TopFive(),)


def test_an_attack_from_outside_is_measured_by_its_own_metric(tmp_path: Path) -> None:
    """Its measure is the exposure at 5, counted in another way."""
    options = {"engine": "local", "num-nodes": 2, "num-server-rounds": 4, "eval-every": 2, "clients-per-round": 20}
    own = {"attack": f"{__name__}:Own", "malicious-fraction": 0.1, "target-items": "7", "learning-rate": 0.3}
    directory, summary = run(tmp_path, {**options, **own, "tracker": "none", "embedding-dim": 8})
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) > 1
    for part in ("valid", "test"):
        for values in (*(row[part] for row in rows), summary[part]):
            assert values["seventh@5"] == values["er@5"]
    assert 0 < rows[-1]["test"]["seventh@5"] < 1
