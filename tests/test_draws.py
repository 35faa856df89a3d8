"""The numbers of the streams are part of every result that was ever published."""

from draws import Stream

NUMBERS = {
    "SYNTHETIC": 0,
    "MALICIOUS_USERS": 1,
    "COHORT": 2,
    "INITIAL_MODEL": 3,
    "INITIAL_VECTOR": 4,
    "NEGATIVES": 5,
    "DROPOUT": 6,
    "CONTRASTIVE": 7,
    "CONTRASTIVE_DROPOUT": 8,
    "ATTACK": 9,
    "RULE": 10,
    "BATCHES": 11,
    "PARTITION": 12,
    "EVALUATED_USERS": 13,
    "LOCAL_NOISE": 14,
    "VALIDATION": 15,
    "LOCAL_ATTACK": 16,
    "SERVER_BATCHES": 17,
}
"""Append new streams; change none."""


def test_streams_keep_their_numbers() -> None:
    assert NUMBERS.items() <= {name: int(stream) for name, stream in Stream.__members__.items()}.items()


def test_no_two_streams_are_one() -> None:
    # Of two members with one number an IntEnum makes one with two names.
    assert len(list(Stream)) == len(Stream.__members__)
