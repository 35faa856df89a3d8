"""Tensors to Flower's arrays and back: no copy within a process, and nothing believed of what comes in."""

from __future__ import annotations

import re
import threading
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from flwr.app import Array
from torch import Tensor

from protocol.admission import UnreadableError

_FILTERS = threading.Lock()

NPY_MAGIC = b"\x93NUMPY\x01\x00"
LONGEST_HEADER = 256
MOST_BEFORE_NUMBERS = len(NPY_MAGIC) + 2 + LONGEST_HEADER
"""Bytes of an array in front of its numbers."""

LONGEST_DIMENSION = 1 << 31
"""No dimension is longer; an array without values may state any, and products of two must not overflow."""

HEADER = re.compile(
    r"\{'descr': '([<|][a-z][0-9])', 'fortran_order': False, 'shape': "
    r"\(((?:[0-9]{1,15}(?:, [0-9]{1,15})+,?)|(?:[0-9]{1,15},)|)\),? ?\} *\n"
)
"""What NumPy writes for the arrays that travel here; the second group holds the lengths."""

DTYPES: dict[str, np.dtype[Any]] = {
    "<f4": np.dtype(np.float32),
    "<i8": np.dtype(np.int64),
    "|b1": np.dtype(np.bool_),
    "|u1": np.dtype(np.uint8),
    "<f2": np.dtype(np.float16),
    "<i2": np.dtype(np.int16),
}
"""The only kinds of number that travel."""


class TensorArray(Array):
    """An array whose numbers are a tensor of this process; bytes are made of them where somebody asks for bytes.

    Whoever reads it in this process gets the tensor itself, and must not write to it.
    """

    # Flower sends this name along, and reads an object of this name as its own array.
    __qualname__ = "Array"

    def __init__(self, tensor: Tensor) -> None:
        values = tensor.detach().cpu().contiguous()
        numbers = values.numpy()
        self.__dict__.update(dtype=str(numbers.dtype), shape=numbers.shape, stype="numpy.ndarray", _tensor=values)

    @property
    def tensor(self) -> Tensor | None:
        """The numbers; ``None`` where bytes were put in their place."""
        tensor: Tensor | None = self.__dict__["_tensor"]
        return tensor

    @property
    def data(self) -> bytes:
        """The array in NumPy's .npy format, which is what Flower's own arrays hold."""
        if "_bytes" not in self.__dict__:
            self.__dict__["_bytes"] = b"".join(parts_of(self))
        made: bytes = self.__dict__["_bytes"]
        return made

    @data.setter
    def data(self, data: bytes) -> None:
        self.__dict__.update(_tensor=None, _bytes=data)

    def __reduce__(self) -> tuple[type[Array], tuple[str, tuple[int, ...], str, bytes]]:
        """To another process it goes as a plain one."""
        return Array, (self.dtype, self.shape, self.stype, self.data)


def to_array(tensor: Tensor) -> Array:
    """A tensor as Flower's array; nothing is copied as long as the array stays in this process."""
    return TensorArray(tensor)


def parts_of(array: Array) -> list[bytes | memoryview]:
    """The stretches of memory that an array's bytes are, one after another."""
    tensor = array.tensor if isinstance(array, TensorArray) else None
    if tensor is None:
        return [array.data]
    values = tensor.numpy()
    return [_npy_header(values.dtype.str, values.shape), values.reshape(-1).view(np.uint8).data]


def num_bytes(array: Array) -> int:
    """How many bytes an array has, without making them."""
    return sum(map(len, parts_of(array)))


@lru_cache(maxsize=256)
def _npy_header(kind: str, shape: tuple[int, ...]) -> bytes:
    description = repr({"descr": kind, "fortran_order": False, "shape": shape})
    padding = -(len(NPY_MAGIC) + 2 + len(description) + 1) % 64
    header = (description + " " * padding + "\n").encode("latin1")
    return NPY_MAGIC + len(header).to_bytes(2, "little") + header


def to_tensor(array: Array, kind: Any, dims: int) -> Tensor:
    """The tensor of an array that must have this kind of number and so many dimensions.

    The array's labels are ignored; its bytes are read without pickle and without a copy, and a declared
    size that differs from the bytes there is costs nothing. Raises ``UnreadableError``.
    """
    held = array.tensor if isinstance(array, TensorArray) else None
    if held is not None:
        return _as_expected(held, kind, dims)
    data = array.data
    dtype, shape, start = _header(data)
    if dtype != np.dtype(kind):
        raise UnreadableError(f"numbers of kind {dtype}, expected {np.dtype(kind)}")
    if len(shape) != dims:
        raise UnreadableError(f"an array of {len(shape)} dimensions, expected {dims}")
    count = 1
    for length in shape:
        count *= length
    if count * dtype.itemsize != len(data) - start or max(shape, default=0) > LONGEST_DIMENSION:
        raise UnreadableError(f"{len(data) - start} bytes for the shape {shape}")
    if not count:
        return torch.from_numpy(np.empty(0, dtype)).reshape(shape)
    # A truth value is 0 or 1 in memory; any other byte would be neither.
    values = np.frombuffer(data, np.uint8, count, start) != 0 if dtype == np.bool_ else _numbers(data, dtype, start)
    # The list of filters is the process's: two threads that change it must not overlap.
    with _FILTERS, warnings.catch_warnings():
        # The bytes are read-only; nothing here writes to a decoded tensor.
        warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writable")
        return torch.from_numpy(values.reshape(shape))


def _as_expected(held: Tensor, kind: Any, dims: int) -> Tensor:
    found = held.numpy().dtype
    if found != np.dtype(kind):
        raise UnreadableError(f"numbers of kind {found}, expected {np.dtype(kind)}")
    if held.dim() != dims:
        raise UnreadableError(f"an array of {held.dim()} dimensions, expected {dims}")
    return held


def _numbers(data: bytes, dtype: np.dtype[Any], start: int) -> np.ndarray:
    values = np.frombuffer(data, dtype, offset=start)
    # A header of odd length moves the values off their boundaries, which vector instructions may not bear.
    return values if values.flags.aligned else values.copy()


def _header(data: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """The kind of number, the shape, and where the values start."""
    if not isinstance(data, bytes | memoryview) or bytes(data[:8]) != NPY_MAGIC or len(data) < 10:
        raise UnreadableError("bytes that are not a NumPy array of format 1.0")
    length = int.from_bytes(data[8:10], "little")
    if length > LONGEST_HEADER or len(data) < 10 + length:
        raise UnreadableError(f"a NumPy header of {length} bytes")
    text = bytes(data[10 : 10 + length]).decode("latin1")
    match = HEADER.fullmatch(text)
    if match is None or match[1] not in DTYPES:
        raise UnreadableError(f"a NumPy header that is not accepted: {text[:80]!r}")
    return DTYPES[match[1]], tuple(int(part) for part in match[2].split(",") if part.strip()), 10 + length
