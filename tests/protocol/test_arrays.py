"""Arrays: what goes out comes back to the bit, and bytes of a stranger cost nothing but a sentence."""

from __future__ import annotations

import io
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from flwr.app import Array
from hostile_replies import fuzzed, npy, raw_arrays
from hypothesis import given
from hypothesis import strategies as st

from protocol.admission import UnreadableError
from protocol.arrays import to_array, to_tensor

KINDS = {torch.float32: np.float32, torch.int64: np.int64, torch.bool: np.bool_, torch.uint8: np.uint8}


def array_of(data: bytes) -> Array:
    return Array("float32", (1,), "numpy.ndarray", data)


@given(st.sampled_from(list(KINDS)), st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(0, 99))
@fuzzed(200)
def test_a_tensor_survives_the_wire(kind: torch.dtype, shape: list[int], seed: int) -> None:
    values = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(kind)
    array = to_array(values)
    assert torch.equal(to_tensor(array, KINDS[kind], len(shape)), values)
    # Flower's own arrays are read and written by NumPy.
    assert np.array_equal(np.load(io.BytesIO(array.data), allow_pickle=False), values.numpy())
    written = io.BytesIO()
    np.save(written, values.numpy(), allow_pickle=False)
    assert torch.equal(to_tensor(array_of(written.getvalue()), KINDS[kind], len(shape)), values)


def test_a_tensor_of_this_process_goes_to_others_as_a_plain_array() -> None:
    values = torch.arange(6, dtype=torch.float32).view(2, 3)
    array = to_array(values)
    assert to_tensor(array, np.float32, 2).data_ptr() == values.data_ptr()
    for sent in (Array.inflate(array.deflate(), children=array.children), pickle.loads(pickle.dumps(array))):
        assert type(sent) is Array
        assert np.array_equal(sent.numpy(), values.numpy())
    for kind, dims in ((np.int64, 2), (np.float32, 1)):
        with pytest.raises(UnreadableError):
            to_tensor(array, kind, dims)
    # Whoever replaces the bytes is read by these, whatever the tensor was.
    array.data = b"others"
    with pytest.raises(UnreadableError):
        to_tensor(array, np.float32, 2)


@given(raw_arrays, st.sampled_from(list(KINDS.values())), st.integers(1, 2))
@fuzzed(3000)
def test_bytes_are_read_as_numpy_reads_them_or_not_at_all(data: bytes, kind: type, dims: int) -> None:
    try:
        values = to_tensor(array_of(data), kind, dims).numpy()
    except UnreadableError:
        return
    expected = np.load(io.BytesIO(data), allow_pickle=False)
    assert values.dtype == expected.dtype == np.dtype(kind)
    assert values.shape == expected.shape
    if kind is np.bool_:
        assert np.array_equal(values, expected.view(np.uint8) != 0)
    else:
        assert values.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("shape", "dims"), [("(1000000000000, 64)", 2), ("(999999999999999,)", 1)])
def test_a_declared_size_of_terabytes_costs_nothing(shape: str, dims: int) -> None:
    data = npy("<f4", shape, b"\0" * 256)
    tracemalloc.start()
    with pytest.raises(UnreadableError, match="256 bytes for the shape"):
        to_tensor(array_of(data), np.float32, dims)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_a_dimension_that_holds_nothing_cannot_be_endless() -> None:
    with pytest.raises(UnreadableError, match="0 bytes for the shape"):
        to_tensor(array_of(npy("<f4", "(0, 999999999999999)", b"")), np.float32, 2)


def test_values_off_their_boundaries_are_read() -> None:
    values = np.arange(6, dtype=np.int64)
    text = b"{'descr': '<i8', 'fortran_order': False, 'shape': (6,), } \n"
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + values.tobytes()
    assert (10 + len(text)) % 8
    assert to_tensor(array_of(data), np.int64, 1).tolist() == values.tolist()


def test_a_truth_value_is_one_bit() -> None:
    read = to_tensor(array_of(npy("|b1", "(3,)", b"\x00\x02\xff")), np.bool_, 1)
    assert read.view(torch.uint8).tolist() == [0, 1, 1]
