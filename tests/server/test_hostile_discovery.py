"""What a node says of its data before the first round cannot end the run."""

import pytest
from flwr.app import Message, RecordDict

from data.texts import Texts
from protocol.own_data import own_content
from protocol.requests import OwnIds
from server.population.catalogue import Catalogue
from server.population.nodes import Arrivals


def ids(*names: str) -> Texts:
    return Texts.of(names)


def said(own: OwnIds) -> Message:
    asked = Message(RecordDict(), 7, "query")
    return Message(own_content(own), reply_to=asked)


@pytest.mark.parametrize(
    ("catalogue", "own", "expected"),
    [
        (Catalogue(ids("0", "1"), ids()), OwnIds(("0",), ("x",)), "items that the run's data set does not have: 'x'"),
        # As an array of equally long strings, or as objects, these would take far more than what was sent.
        (
            Catalogue(ids("0", "1"), ids("a", "b")),
            OwnIds(("y" * 5_000_000, *map(str, range(1_000_000))), ("a",)),
            "its list of users has 14888894 bytes, all of the run's have at most 65568",
        ),
        (
            Catalogue(ids("0", "100000"), ids("a", "b")),
            OwnIds(("y" * 40, "1"), ("a",)),
            "users that the run's data set does not have: 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy'",
        ),
    ],
)
def test_ids_that_no_run_knows_are_refused_in_a_sentence(catalogue: Catalogue, own: OwnIds, expected: str) -> None:
    arrivals = Arrivals(catalogue)
    assert arrivals.note(said(own)) is None
    [reason] = arrivals.refused.values()
    assert expected[:60] in reason


def test_an_answer_that_breaks_its_reader_refuses_its_node_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(content: RecordDict, *most: int) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr("server.population.nodes.read_own", broken)
    arrivals = Arrivals(Catalogue(ids("0"), ids("a")))
    assert arrivals.note(said(OwnIds(("0",), ("a",)))) is None
    assert list(arrivals.refused.values()) == ["unreadable: RecursionError"]
