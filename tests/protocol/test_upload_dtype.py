"""Updates in half the bytes: rounded as NumPy rounds, never larger than the kind holds, and judged like any others."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from flwr.app import Array, RecordDict
from hostile_replies import DIM, LIMITS, content_of, contents, fuzzed, honest_columns, npy, raw_arrays
from hypothesis import given
from hypothesis import strategies as st

from protocol.admission import LARGEST_VALUE, UnreadableError
from protocol.arrays import to_array, to_tensor
from protocol.messages import NARROWED, REPLY_COLUMNS, read_train_reply
from protocol.upload_dtype import KINDS, narrowed, widened

NARROW = ["float16", "bfloat16"]
values = st.lists(st.floats(width=32), min_size=1, max_size=20)


def narrow_reply(content: RecordDict, kind: str) -> None:
    """Round a reply's updates to the kind of number that they shall travel in."""
    if kind != "float32":
        arrays = content.array_records["updates"]
        for name in NARROWED:
            arrays[name] = to_array(narrowed(to_tensor(arrays[name], *REPLY_COLUMNS[name]), kind))


def bfloat16_of(value: np.float32) -> np.float32:
    """The upper half of a float32's bits, rounded to nearest, ties to even."""
    bits = int(np.float32(value).view(np.uint32))
    bits += 0x7FFF + ((bits >> 16) & 1)
    return np.uint32(bits & 0xFFFF0000).view(np.float32)


@given(values)
@fuzzed(300)
def test_float16_rounds_as_numpy_does_and_stops_at_its_largest(numbers: list[float]) -> None:
    exact = np.array(numbers, np.float32)
    got = widened(narrowed(torch.from_numpy(exact), "float16"), "float16").numpy()
    finite = np.isfinite(exact)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = exact.clip(-65504, 65504).astype(np.float16).astype(np.float32)
    assert np.array_equal(got[finite], expected[finite])
    assert np.array_equal(got[~finite], exact[~finite], equal_nan=True)


@given(values)
@fuzzed(300)
def test_bfloat16_keeps_eight_bits(numbers: list[float]) -> None:
    largest = np.uint32(0x7F7F0000).view(np.float32)
    exact = np.array(numbers, np.float32)
    travelling = narrowed(torch.from_numpy(exact), "bfloat16")
    assert travelling.dtype == torch.int16
    got = widened(travelling, "bfloat16").numpy()
    finite = np.isfinite(exact)
    expected = np.array([bfloat16_of(value) for value in exact[finite].clip(-largest, largest)], np.float32)
    assert np.array_equal(got[finite], expected)
    assert np.array_equal(got[~finite], exact[~finite], equal_nan=True)


@pytest.mark.parametrize("kind", NARROW)
def test_an_honest_reply_comes_in_rounded(kind: str) -> None:
    limits = dataclasses.replace(LIMITS, upload_dtype=kind)
    exact = read_train_reply(content_of(honest_columns()), 1, LIMITS)
    content = content_of(honest_columns())
    narrow_reply(content, kind)
    got = read_train_reply(content, 1, limits)
    assert not got.rejected
    assert torch.equal(got.losses, exact.losses)
    for name in ("rows", "shared"):
        one, other = getattr(exact.updates, name), getattr(got.updates, name)
        assert other.dtype == torch.float32
        assert torch.equal(other, widened(narrowed(one, kind), kind))
    for name in ("users", "num_examples", "row_splits", "items"):
        assert torch.equal(getattr(exact.updates, name), getattr(got.updates, name))


@pytest.mark.parametrize("asked", list(KINDS))
@pytest.mark.parametrize("sent", list(KINDS))
def test_only_the_kind_that_was_asked_for_is_read(asked: str, sent: str) -> None:
    content = content_of(honest_columns())
    narrow_reply(content, sent)
    limits = dataclasses.replace(LIMITS, upload_dtype=asked)
    if asked == sent:
        assert not read_train_reply(content, 1, limits).rejected
    else:
        with pytest.raises(UnreadableError, match="numbers of kind"):
            read_train_reply(content, 1, limits)


@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_value_that_is_no_finite_number_costs_its_user_the_update(kind: str, value: float) -> None:
    if kind == "float16" and np.isfinite(value):
        pytest.skip("float16 holds no number beyond what is admitted")
    columns = honest_columns()
    owner = int(np.flatnonzero(np.diff(columns["row_splits"]))[0])
    columns["rows"] = columns["rows"].copy()
    columns["rows"][columns["row_splits"][owner], 0] = value
    content = content_of(columns)
    narrow_reply(content, kind)
    got = read_train_reply(content, 1, dataclasses.replace(LIMITS, upload_dtype=kind))
    assert set(got.rejected) == {int(columns["users"][owner])}
    assert len(got.updates) == len(columns["users"]) - 1


@given(st.sampled_from(NARROW), contents())
@fuzzed(500)
def test_whatever_comes_what_is_admitted_is_finite_and_bounded(kind: str, content: RecordDict) -> None:
    check(content, kind)


@given(st.sampled_from(NARROW), raw_arrays)
@fuzzed(500)
def test_whatever_bytes_stand_for_the_rows(kind: str, data: bytes) -> None:
    content = content_of(honest_columns())
    narrow_reply(content, kind)
    content.array_records["updates"]["rows"] = Array("float16", (1,), "numpy.ndarray", data)
    check(content, kind)


@given(st.sampled_from(NARROW), st.data())
@fuzzed(500)
def test_whatever_bits_stand_for_the_values(kind: str, data: st.DataObject) -> None:
    columns = honest_columns()
    count = len(columns["items"])
    bits = data.draw(st.binary(min_size=2 * DIM * count, max_size=2 * DIM * count))
    content = content_of(columns)
    narrow_reply(content, kind)
    descr = {"float16": "<f2", "bfloat16": "<i2"}[kind]
    content.array_records["updates"]["rows"] = Array(
        "float16", (1,), "numpy.ndarray", npy(descr, f"({count}, {DIM})", bits)
    )
    got = check(content, kind)
    assert got
    exact = np.frombuffer(bits, np.float16 if kind == "float16" else np.uint16)
    if kind == "bfloat16":
        exact = (exact.astype(np.uint32) << 16).view(np.float32)
    exact = exact.astype(np.float32).reshape(count, DIM)
    owner = np.repeat(np.arange(len(columns["users"])), np.diff(columns["row_splits"]))
    bad = ~(np.abs(exact) <= LARGEST_VALUE).all(1)
    good = np.setdiff1d(np.arange(len(columns["users"])), owner[bad])
    assert got[0].tolist() == columns["users"][good].tolist()
    assert np.array_equal(got[1].numpy(), exact[np.isin(owner, good)])


def check(content: RecordDict, kind: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What was admitted, ``None`` where nothing could be read; anything but ``UnreadableError`` is a failure."""
    try:
        got = read_train_reply(content, 1, dataclasses.replace(LIMITS, upload_dtype=kind))
    except UnreadableError:
        return None
    for part in (got.updates.rows, got.updates.shared):
        assert part.dtype == torch.float32
        assert bool((part.abs() <= LARGEST_VALUE).all())
    return got.updates.users, got.updates.rows
