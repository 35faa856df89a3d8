"""Many texts in one buffer: memory is that of their letters, however long the longest of them is."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from data.ragged import ragged_positions, splits_of


@dataclass(frozen=True, eq=False)
class Texts:
    """n texts, which may be memory-mapped and are never written to.

    ``letters`` uint8: the texts in UTF-8, one after another; ``splits`` (n+1,) int64: text k is
    ``letters[splits[k]:splits[k+1]]``. Raises ``ValueError`` where the two do not fit together.
    """

    letters: NDArray[np.uint8]
    splits: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.splits[0] != 0 or self.splits[-1] != len(self.letters) or (np.diff(self.splits) < 0).any():
            raise ValueError("The splits of texts must rise from 0 to the number of their letters.")

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """The texts of any iterable."""
        encoded = [text.encode() for text in texts]
        widths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return cls(np.frombuffer(b"".join(encoded), np.uint8), splits_of(widths))

    @classmethod
    def of_array(cls, texts: NDArray[Any]) -> Texts:
        """The texts of a NumPy array of texts, of UTF-8 bytes, or of whole numbers as they are written."""
        if not len(texts):
            return cls(np.empty(0, np.uint8), np.zeros(1, np.int64))
        if texts.dtype.kind in "iu":
            # NumPy's own choice has room for the digits of any number.
            longest = max(len(str(texts.min())), len(str(texts.max())))
            fields = texts.astype(f"S{longest}")
        else:
            fields = np.char.encode(texts, "utf-8") if texts.dtype.kind == "U" else texts
        widths = np.char.str_len(fields)
        letters = np.ascontiguousarray(fields).view(np.uint8).reshape(len(fields), -1)
        return cls(letters[np.arange(letters.shape[1]) < widths[:, None]], splits_of(widths))

    @classmethod
    def concatenate(cls, parts: Sequence[Texts]) -> Texts:
        """The texts of all parts, one part after another."""
        letters = np.concatenate([np.empty(0, np.uint8), *(part.letters for part in parts)])
        return cls(letters, splits_of(np.concatenate([np.empty(0, np.int64), *(part.widths for part in parts)])))

    @property
    def widths(self) -> NDArray[np.int64]:
        """(n,) bytes of each text."""
        return np.diff(self.splits)

    def __len__(self) -> int:
        return len(self.splits) - 1

    def __iter__(self) -> Iterator[str]:
        return iter(self.tolist())

    @overload
    def __getitem__(self, chosen: int | np.integer[Any]) -> str: ...
    @overload
    def __getitem__(self, chosen: slice | NDArray[Any]) -> Texts: ...
    def __getitem__(self, chosen: int | np.integer[Any] | slice | NDArray[Any]) -> str | Texts:
        """One text by its index, or the texts of a slice, of indexes or of a (n,) bool mask."""
        if isinstance(chosen, int | np.integer):
            return self._bytes(int(chosen)).decode()
        indexes = np.arange(len(self))[chosen]
        widths = self.widths[indexes]
        return Texts(self.letters[ragged_positions(self.splits[indexes], widths)], splits_of(widths))

    def tolist(self) -> list[str]:
        """The texts as Python has them."""
        return [text.decode() for text in self.as_bytes()]

    def as_bytes(self) -> list[bytes]:
        """The texts in UTF-8."""
        whole = self.letters.tobytes()
        return [whole[start:stop] for start, stop in itertools.pairwise(self.splits.tolist())]

    def find(self, text: str) -> int:
        """The index of a text, -1 where it is none of these."""
        wanted = np.frombuffer(text.encode(), np.uint8)
        candidates = np.flatnonzero(self.widths == len(wanted))
        letters = self.letters[self.splits[candidates][:, None] + np.arange(len(wanted))]
        return int(next(iter(candidates[(letters == wanted).all(1)]), -1))

    def by_width(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bytes_]]]:
        """The texts as NumPy's fixed-width bytes, those of similar width together, with their indexes.

        No array is more than twice as large as the texts in it.
        """
        widths = np.maximum(self.widths, 1)
        classes = np.ceil(np.log2(widths)).astype(np.int64)
        for chosen in np.unique(classes):
            indexes = np.flatnonzero(classes == chosen)
            offsets = np.arange(int(widths[indexes].max()))
            inside = offsets < self.widths[indexes][:, None]
            positions = np.where(inside, self.splits[indexes][:, None] + offsets, 0)
            field = np.where(inside, self.letters[positions] if len(self.letters) else 0, 0).astype(np.uint8)
            yield indexes, field.view(f"S{len(offsets)}").reshape(-1)

    def distinct(self) -> tuple[Texts, NDArray[np.int64]]:
        """The different texts in the order of their code points, and each text's index among them (n,).

        The texts must be without NUL: NumPy's bytes end there.
        """
        firsts, indexes, found = [], np.empty(len(self), np.int64), 0
        for rows, fields in self.by_width():
            _, first, inverse = np.unique(fields, return_index=True, return_inverse=True)
            indexes[rows] = inverse.reshape(-1) + found
            firsts.append(rows[first])
            found += len(first)
        chosen = np.concatenate([np.empty(0, np.int64), *firsts])
        if len(firsts) > 1:
            # In UTF-8 bytes have the order of code points.
            encoded = [self._bytes(row) for row in chosen.tolist()]
            order = np.array(sorted(range(found), key=encoded.__getitem__), np.int64)
            rank = np.empty(found, np.int64)
            rank[order] = np.arange(found)
            chosen, indexes = chosen[order], rank[indexes]
        return self[chosen], indexes

    def _bytes(self, index: int) -> bytes:
        index = range(len(self))[index]
        return self.letters[self.splits[index] : self.splits[index + 1]].tobytes()
