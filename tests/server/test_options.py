"""Options: one default, no unknown ones, and a sentence for every wrong value before anything starts."""

import dataclasses

import pytest

from client.config import client_config
from client.recommend import read_model
from client.state.about import kept_states, states_of
from server.config import server_config
from server.recovery.checkpoint import refuse_another_run
from server.simulation import default_options, simulate
from settings.options import OptionError
from settings.run import RunOptions


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("attack", "clutser", "expected one of none, label-flip|expected one of none, cluster"),
        ("attack", "no_such_module:Attack", "No module named"),
        ("defense", "onion", "Expected one of none"),
        ("defense", "median+union", "Put it last"),
        ("model", "bert", "expected one of"),
        ("malicious-fraction", 1.0, "from 0 to below 1"),
        ("malicious-fraction", -0.1, "from 0 to below 1"),
        ("num-server-rounds", 0, "at least 1"),
        ("num-server-rounds", "many", "a whole number"),
        ("dropout", 1.0, "below 1"),
        ("engine", "dask", "'ray', 'flower', 'local'"),
        ("learning-rate", float("nan"), "a finite number"),
        ("cluster-bound", "stretch", "'rescale', 'clip'"),
        ("norm-bound-threshold", -1.0, "a positive number"),
        ("contrastive-negatives", 0, "at least 1"),
        ("nodes-per-process", 0, "at least 1"),
        ("eval-users", -1, "0 or more"),
        ("min-nodes", -1, "0 or more"),
        ("cluster-largest-deviation", -1.0, "a number from 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(option: str, value, expected: str) -> None:
    options = {**default_options(), "attack": "cluster", "defense": "norm-bound", option: value}
    with pytest.raises(OptionError, match=expected) as error:
        server_config(options)
    assert option in str(error.value)


@pytest.mark.parametrize("defense", ["union+norm-bound", "union + norm-bound", " union"])
def test_unions_clients_train_its_task_however_the_chain_is_spaced(defense: str) -> None:
    config = server_config({**default_options(), "defense": defense})
    assert config.loss.contrastive_weight == 1.0
    assert config.rule().name == "union"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"clients-per-round": 1001}, "clients-per-round = 1001: expected at most the 1000 users"),
        ({"dataset": "movielens"}, "synthetic"),
        ({"dataset": "/nowhere/a.inter"}, "/nowhere/a.inter"),
        ({"data-set": "ml-1m"}, "no option 'data-set'"),
    ],
)
def test_a_run_that_cannot_start_says_why_before_round_1(options, expected: str, tmp_path) -> None:
    with pytest.raises(OptionError, match=expected):
        simulate({"engine": "local", "num-nodes": 2, "output-dir": str(tmp_path), **options})
    assert not list(tmp_path.glob("*/rounds.jsonl"))


def test_a_broken_line_is_named_by_its_number(tmp_path) -> None:
    path = tmp_path / "broken.inter"
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n1\t3\n")
    with pytest.raises(OptionError, match="line 3"):
        simulate({"dataset": str(path), "engine": "local", "output-dir": str(tmp_path / "runs")})


def test_a_folder_that_cannot_be_written_is_named(tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OptionError, match="output-dir"):
        simulate({"engine": "local", "output-dir": str(blocked / "runs")})


def test_nodes_keep_their_state_where_the_run_says(tmp_path) -> None:
    options = {"engine": "local", "num-nodes": 2, "num-server-rounds": 2, "eval-every": 1, "clients-per-round": 5}
    directory, _ = simulate({**options, "output-dir": str(tmp_path / "runs"), "state-dir": str(tmp_path / "kept")})
    run = read_model(directory / "model.safetensors").run
    assert run.startswith(directory.name)
    assert len(states_of(run, kept_states(tmp_path / "kept"))) == 2
    assert not kept_states(directory)


def test_a_run_name_cannot_lead_out_of_the_state_directory() -> None:
    config = client_config(default_options(), {"state-dir": "/somewhere"})
    for name in ("", "..", "a/b", "/etc"):
        with pytest.raises(OptionError, match="without slashes"):
            config.state_dir(name)


def test_groups_of_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunOptions().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("slip", ["partition_id", "num-partition", "dataa"])
def test_a_nodes_option_that_does_not_exist_is_named(slip: str) -> None:
    """Ignored, it would make the node host everybody, or the public data instead of its own."""
    with pytest.raises(OptionError, match=f"--node-config = '{slip}': expected one of partition-id, num-partitions"):
        client_config(default_options(), {slip: 1})


def test_a_resume_may_change_where_a_run_goes_on_and_nothing_else() -> None:
    started = {"min-nodes": 2, "seed": 0, "cluster-clusters": 2, "of-an-older-version": 1}
    refuse_another_run(started, {"min-nodes": 3, "seed": 0, "cluster-clusters": 2, "of-a-newer-version": 1})
    for name in ("seed", "cluster-clusters"):
        with pytest.raises(OptionError, match=f"^{name} = 7: the run that is resumed was started with"):
            refuse_another_run(started, {**started, name: 7})


def test_a_refused_resume_names_the_option_that_was_changed_before_what_follows_from_it() -> None:
    started = {"defense": "none", "model": "mf", "contrastive-weight": 0.0, "learning-rate": 0.002}
    with pytest.raises(OptionError, match=r"^defense = "):
        refuse_another_run(started, {**started, "defense": "union", "contrastive-weight": 1.0})
    with pytest.raises(OptionError, match=r"^model = "):
        refuse_another_run(started, {**started, "model": "sasrec", "learning-rate": 0.001})
