"""A run never reports what did not happen: unknown is null, and a run that trained or attacked nothing says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict

import client.app
from attacks.attack import Attack
from attacks.view import AttackerView
from protocol.messages import hosted_content, read_hosted
from protocol.updates import Updates
from server.app import main
from server.config import server_config
from server.grids.local_grid import LocalGrid
from server.results.run_directory import make_run_directory
from server.simulation import default_options, simulate
from server.training import NothingTrainedError, run_training
from settings.options import OptionError
from strategies.rule import ServerView, Verdict, Wrapper

OPTIONS: dict[str, Any] = {
    "engine": "local",
    "num-nodes": 2,
    "num-server-rounds": 4,
    "eval-every": 1,
    "clients-per-round": 6,
    "embedding-dim": 8,
    "tracker": "none",
    "checkpoint-every": 0,
}

Answer = Callable[[Message, Context], Message]
run_ids = count(70_000)


def small(folder: Path) -> str:
    """30 users with one to nine of 40 items."""
    rows = [(user, (user * 7 + place) % 40, place) for user in range(30) for place in range(1 + user % 9)]
    path = folder / "small.inter"
    head = "user_id:token\titem_id:token\ttimestamp:float\n"
    path.write_text(head + "".join(f"{user}\t{item}\t{time}\n" for user, item, time in rows))
    return str(path)


def trained(folder: Path, app: Answer, **options: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A run on nodes that answer through ``app``: its evaluations, its summary."""
    run_config = {**default_options(), **OPTIONS, "dataset": small(folder), "output-dir": str(folder), **options}
    config = server_config(run_config)
    directory = make_run_directory(config)
    grid = LocalGrid(app, dict(run_config), 2, "memory", next(run_ids))  # type: ignore[arg-type]
    summary = run_training(grid, config, directory)
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()], summary


def gone_in(*rounds: int, kind: str = "evaluate") -> Answer:
    def app(message: Message, context: Context) -> Message:
        about = message.metadata
        if about.message_type == kind and about.group_id in map(str, rounds):
            raise OSError("node is gone")
        return client.app.app(message, context)

    return app


@pytest.mark.parametrize("unknown", [4, 2])
def test_an_evaluation_that_nobody_answered_is_unknown_wherever_it_stands(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unknown: int
) -> None:
    lines, summary = trained(tmp_path, gone_in(unknown))
    assert [line["test"]["hr@5"] is None for line in lines] == [line["round"] == unknown for line in lines]
    known = [line["test"]["hr@5"] for line in lines if line["round"] != unknown]
    assert summary["test_last_five"]["hr@5"] == pytest.approx(sum(known) / 3)
    assert (summary["unknown_evaluations"], summary["partial_evaluations"]) == (1, 0)
    # Both nodes.
    assert summary["failed_answers"] == 2
    assert summary["best_round"] != unknown
    assert summary["status"] == "completed"
    assert f"The evaluation after round {unknown} is unknown: no node answered it" in caplog.text


def test_a_run_of_which_no_evaluation_is_known_says_so_once_and_in_its_status(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, summary = trained(tmp_path, gone_in(1, 2, 3, 4))
    assert summary["status"] == "not evaluated"
    assert "hr@5" in summary["reason"]
    assert summary["test"] is summary["valid"] is summary["best_round"] is summary["test_last_five"] is None
    assert caplog.text.count("is unknown: ") == 1


def test_a_population_without_anybody_to_evaluate_has_no_metrics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Users with fewer than three interactions are not evaluated; nodes answer, and have counted nobody."""
    path = tmp_path / "two_each.inter"
    rows = [f"{user}\t{item}\t{item}\n" for user in range(8) for item in (user, user + 1)]
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(rows))
    directory, summary = simulate(
        {**OPTIONS, "dataset": str(path), "clients-per-round": 4, "num-nodes": 1, "output-dir": str(tmp_path)}
    )
    assert summary["status"] == "not evaluated"
    assert summary["test"] is None
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert {(line["of_users"], line["counted"]["valid"], line["test"]["hr@5"]) for line in lines} == {(8, 0, None)}
    assert "three interactions are needed" in caplog.text


def test_a_run_that_never_trained_has_failed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, summary = trained(tmp_path, gone_in(1, 2, 3, 4, kind="train"))
    assert summary["status"] == "failed"
    assert "None of 4 rounds trained the model. The last one: 0 valid updates" in summary["reason"]
    skipped = [record for record in caplog.records if "Round 1 is skipped" in record.getMessage()]
    assert [record.levelname for record in skipped] == ["WARNING"]


def test_a_run_that_trained_once_has_not_failed(tmp_path: Path) -> None:
    _, summary = trained(tmp_path, gone_in(1, 2, 4, kind="train"))
    assert (summary["status"], summary["skipped_rounds"]) == ("completed", 3)


def test_flower_sees_a_run_that_never_trained_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_config = {**default_options(), **OPTIONS, "dataset": small(tmp_path), "output-dir": str(tmp_path)}
    monkeypatch.setattr("server.app.run_training", lambda *given: {"status": "failed", "reason": "Nobody came."})
    with pytest.raises(NothingTrainedError, match="Nobody came"):
        main(None, Context(next(run_ids), 0, {}, RecordDict(), run_config))  # type: ignore[arg-type]


class DropsEverybody(Wrapper):
    name = "drops-everybody"

    def judge(self, updates: Updates, server: ServerView) -> tuple[Updates, Verdict]:
        kept = updates.users < 0
        return updates.select(kept), Verdict(self.name, updates.users, updates.users.double(), kept, {})


def test_a_rule_that_drops_everybody_skips_the_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = "test_honest_reports:DropsEverybody"
    options = {"defense": f"union+{place}", "plugin-dir": str(Path(__file__).parent), "malicious-fraction": 0.2}
    _, summary = trained(tmp_path, client.app.app, attack="gaussian", **options)
    assert summary["skipped_rounds"] == 4
    assert summary["status"] == "failed"
    assert "Round 1 is skipped: drops-everybody dropped everybody whom it saw." in caplog.text
    # Whom it dropped counts: with "union", and by itself.
    assert summary["detection"]["drops-everybody"]["recall"] == 1
    assert set(summary["detection"]) == {"union", "drops-everybody", "union+drops-everybody"}


class Raises(Attack):
    name = "raises"

    def poison(self, view: AttackerView) -> Updates:
        raise ZeroDivisionError("no such thing")


class Nothing(Attack):
    """Answers with no updates at all."""

    name = "nothing"

    def poison(self, view: AttackerView) -> Updates:
        return view.honest.select(view.honest.users < 0)


class TooLittle(Attack):
    """Answers for one user alone."""

    name = "too-little"

    def poison(self, view: AttackerView) -> Updates:
        return view.honest.select(view.honest.users == view.honest.users[0])


@pytest.mark.parametrize("kind", ["Raises", "Nothing", "TooLittle"])
def test_an_attack_that_was_never_carried_out_is_no_harmless_attack(tmp_path: Path, kind: str) -> None:
    options = {"attack": f"test_honest_reports:{kind}", "plugin-dir": str(Path(__file__).parent)}
    _, summary = trained(tmp_path, client.app.app, **options, **{"malicious-fraction": 0.3, "clients-per-round": 20})
    assert summary["status"] == "attack failed"
    assert summary["attacked_rounds"] == 4
    assert "rounds with malicious users" in summary["reason"]


def test_an_attack_that_is_carried_out_is_a_result(tmp_path: Path) -> None:
    _, summary = trained(tmp_path, client.app.app, attack="gaussian", **{"malicious-fraction": 0.3})
    assert summary["status"] == "completed"
    assert 0 < summary["attacked_rounds"] <= 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"attack-start": 5}, "attack-start = 5: expected at most num-server-rounds = 4"),
        ({"attack-start": 3, "attack-stop": 2}, "attack-start = 3: expected at most attack-stop = 2"),
    ],
)
def test_an_attack_that_nobody_would_see_is_refused(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(OptionError) as refused:
        trained(tmp_path, client.app.app, attack="gaussian", **options)
    assert expected in str(refused.value)


def test_an_attack_is_refused_whose_node_did_not_come(tmp_path: Path) -> None:
    def benign(message: Message, context: Context) -> Message:
        reply = client.app.app(message, context)
        if message.metadata.message_type != "query":
            return reply
        hosted = read_hosted(reply.content)
        return Message(hosted_content(replace(hosted, malicious=hosted.malicious & False)), reply_to=message)

    with pytest.raises(OptionError, match="attack = 'gaussian': expected a node that hosts a malicious user"):
        trained(tmp_path, benign, attack="gaussian")


def test_an_attack_without_malicious_users_is_said_to_be_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, summary = trained(tmp_path, client.app.app, attack="gaussian", **{"malicious-fraction": 0.0})
    assert "nobody attacks in this run" in summary["notice"]
    assert "nobody attacks in this run" in caplog.text
    assert "gaussian" not in summary["run"]
    assert summary["attacked_rounds"] == 0
