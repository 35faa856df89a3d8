"""Replies as an attacker might make them: an honest one, with anything at all done to it."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import settings
from hypothesis import strategies as st

from protocol.admission import Limits
from protocol.arrays import to_array
from protocol.messages import MOST_BESIDE_ARRAYS

EXAMPLES = int(os.environ.get("ROBUST_FEDREC_FUZZ", "1"))
"""How many times CI's number of examples; ``make fuzz`` sets it."""

NUM_ITEMS, DIM, SHARED = 9, 3, 2
ASKED = [3, 5, 8]
LIMITS = Limits(torch.tensor(ASKED), NUM_ITEMS, DIM, SHARED, 1000)

COLUMNS = ("users", "num_examples", "row_splits", "items", "rows", "shared", "losses")

FLOATS = [0.0, -0.0, 1e-45, -1e-40, 1e-20, 1.0, -1.0, 1e9, -1e9, 1.1e9, 1e15, -1e15, 1e38, -3.4e38]
FLOATS += [float("nan"), float("inf"), float("-inf")]
INTEGERS = [0, 1, -1, 2, 3, 5, 7, 8, 9, 1000, 1001, 10**6, 2**31, 2**62, 2**63 - 1, -(2**63), -(2**62)]
KINDS = ["<f4", "<i8", "|b1", "|u1", "<f8", "<i4", ">f4", "<f2", "<c8", "<U3", "|O8", "|V4", "<M8[s]"]


def fuzzed(examples: int) -> settings:
    """So many examples, a multiple of them in a longer run."""
    return settings(max_examples=examples * EXAMPLES, deadline=None)


def honest_columns(seed: int = 0) -> dict[str, np.ndarray]:
    """What the users who were asked might send."""
    return dict(_honest_columns(seed))


@cache
def _honest_columns(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, NUM_ITEMS + 1, len(ASKED))
    items = [np.sort(generator.choice(NUM_ITEMS, count, replace=False)) for count in counts]
    return {
        "users": np.array(ASKED),
        "num_examples": generator.integers(1, 1000, len(ASKED)),
        "row_splits": np.concatenate([[0], counts.cumsum()]).astype(np.int64),
        "items": np.concatenate(items).astype(np.int64),
        "rows": generator.normal(0, 0.01, (counts.sum(), DIM)).astype(np.float32),
        "shared": generator.normal(0, 0.01, (len(ASKED), SHARED)).astype(np.float32),
        "losses": generator.uniform(0, 1, len(ASKED)).astype(np.float32),
    }


def content_of(columns: dict[str, Any], server_round: Any = 1) -> RecordDict:
    """A reply of these columns; NumPy arrays become arrays, and bytes stay what they are."""
    record = ArrayRecord()
    for name, values in columns.items():
        if isinstance(values, bytes):
            record[name] = Array("float32", (1,), "numpy.ndarray", values)
        else:
            record[name] = to_array(torch.from_numpy(np.ascontiguousarray(values)))
    return RecordDict({"updates": record, "reply": ConfigRecord({"server-round": server_round})})


def npy(kind: str, shape: str, body: bytes, version: bytes = b"\x01\x00") -> bytes:
    """A .npy file that says what one likes of itself."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + body


lengths = st.sampled_from(["0", "1", "3", "9", "27", "007", "1000000", "999999999999999", "4611686018427387904", "-1"])
shapes = st.one_of(
    st.lists(lengths, max_size=4).map(lambda parts: "(" + ", ".join(parts) + (",)" if len(parts) == 1 else ")")),
    st.sampled_from(["3", "()", "(3)", "(3,,)", "(3, 3", "[3]", "(3.0,)", "None", "__import__('os')", "(" * 90]),
)
bodies = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"\0" * 24, b"\xff" * 24, b"\0" * 108, b"\1" * 36]),
)
raw_arrays = st.one_of(
    st.binary(max_size=120),
    bodies.map(lambda body: b"\x93NUMPY\x01\x00" + body),
    st.builds(npy, st.sampled_from(KINDS), shapes, bodies, st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x00\x00"])),
    st.sampled_from([b"", b"PK\x03\x04", b"\x80\x04\x95pickle", b"\x93NUMPY\x01\x00\xff\xff", b"\x93NUMPY\x01\x00"]),
)


@st.composite
def columns(draw: st.DrawFn) -> dict[str, Any]:
    """Honest columns of which one to three were tampered with."""
    made: dict[str, Any] = honest_columns(draw(st.integers(0, 30)))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(COLUMNS))
        values = made.get(name)
        kind = draw(
            st.sampled_from(["value", "value", "value", "all", "cut", "twice", "kind", "shape", "bytes", "gone"])
        )
        if kind == "gone":
            made.pop(name, None)
            made[draw(st.sampled_from(["x", "users ", "\0", "losses"]))] = np.zeros(3, np.float32)
        elif kind == "bytes" or not isinstance(values, np.ndarray):
            made[name] = draw(raw_arrays)
        elif kind == "kind":
            with np.errstate(all="ignore"):
                made[name] = values.astype(
                    draw(st.sampled_from([np.float32, np.int64, np.bool_, np.uint8, np.float64]))
                )
        elif kind == "shape":
            made[name] = values.reshape(draw(st.sampled_from([(-1,), (-1, 1), (1, -1), (1, 1, -1)])))
        elif kind == "cut":
            made[name] = values[: draw(st.integers(0, 3))]
        elif kind == "twice":
            made[name] = np.concatenate([values, values])
        elif values.size:
            extreme = draw(st.sampled_from(FLOATS if values.dtype.kind == "f" else INTEGERS))
            changed = values.copy()
            places = slice(None) if kind == "all" else draw(st.integers(0, values.size - 1))
            with np.errstate(all="ignore"):
                changed.reshape(-1)[places] = np.array(extreme).astype(changed.dtype)
            made[name] = changed
    return made


WILD: list[Any] = [
    0,
    1,
    -1,
    2**62,
    2**63 - 1,
    -(2**63),
    1.0,
    -0.0,
    float("nan"),
    float("inf"),
    True,
    "1",
    "",
    "\0\n",
    b"1",
    b"",
]
NUMBERS: list[Any] = [
    0,
    2**63 - 1,
    2**70,
    -(10**400),
    1e308,
    -1.7e308,
    float("nan"),
    float("-inf"),
    [1, 2],
    [float("nan")],
]
NAMES = ["k", "", "server-round", "users", "x" * 300, "\x00\n\u2028\ud800", "Δ"]
TOO_MUCH = MOST_BESIDE_ARRAYS + 1
HUGE: list[Any] = [
    MetricRecord({"k": [1.0] * (TOO_MUCH // 8 + 1)}),
    MetricRecord({"k": [1] * (TOO_MUCH // 8 + 1)}),
    MetricRecord({"k" * TOO_MUCH: 1}),
    MetricRecord({str(number): 1.0 for number in range(TOO_MUCH // 8)}),
    ConfigRecord({"k": "x" * TOO_MUCH}),
    ConfigRecord({"k": b"x" * TOO_MUCH}),
    ConfigRecord({"k": ["x" * 1000] * (TOO_MUCH // 1000 + 1)}),
    ConfigRecord({"k": [b"x" * 1000] * (TOO_MUCH // 1000 + 1)}),
    ConfigRecord({"k": [True] * TOO_MUCH}),
    ArrayRecord({"k" * TOO_MUCH: Array("float32", (0,), "numpy.ndarray", b"")}),
    ArrayRecord({"k": Array("x" * TOO_MUCH, (0,), "numpy.ndarray", b"")}),
    ArrayRecord({"k": Array("float32", (1,) * TOO_MUCH, "numpy.ndarray", b"")}),
    ArrayRecord({"k": Array("float32", (0,), "x" * TOO_MUCH, b"")}),
]
"""Records with more in them than a reply may carry beside the numbers of its arrays."""

wild = st.sampled_from(WILD)
others = st.one_of(
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(NUMBERS), max_size=3).map(MetricRecord),
    st.dictionaries(st.sampled_from(NAMES), wild, max_size=2).map(ConfigRecord),
    st.just(MetricRecord({str(number): 1.0 for number in range(1000)})),
    st.just(ArrayRecord()),
    st.sampled_from(HUGE),
)


@st.composite
def contents(draw: st.DrawFn) -> RecordDict:
    """A whole reply: columns, the round it says it answers, and records of any kind beside or in place of them."""
    records: dict[str, Any] = dict(content_of(draw(columns())).items())
    for name in draw(
        st.lists(st.sampled_from(["attack", "attack", "attack", "reply", "updates", "download", "x", ""]), max_size=2)
    ):
        records[name] = draw(others)
    if draw(st.integers(0, 5)) == 0:
        records["reply"] = ConfigRecord({"server-round": draw(wild)})
    if draw(st.integers(0, 30)) == 0:
        del records[draw(st.sampled_from(sorted(records)))]
    return RecordDict(records)
