"""Bytes that one process hands to another: what is read is what was written, and what is gone is said to be gone."""

import subprocess
import sys

import pytest

from server.grids.handed_memory import ALIGNED, HandedMemory, Place, read

CHILD = """
import sys
from server.grids.handed_memory import Place, read
sys.stdout.buffer.write(read(Place(*map(int, sys.argv[1:]))))
"""


def in_another_process(place: Place) -> bytes:
    return subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, place)], check=True, capture_output=True, timeout=60
    ).stdout


def test_another_process_reads_what_was_written() -> None:
    memory = HandedMemory()
    buffers = [b"first", b"", bytes(range(256)) * 1000, memoryview(b"last")]
    place, spans = memory.add([[buffer[:3], buffer[3:]] for buffer in buffers])
    content = in_another_process(place)
    assert [content[start : start + size] for start, size in spans] == [bytes(buffer) for buffer in buffers]
    assert all(start % ALIGNED == 0 for start, _ in spans)


def test_what_is_added_later_leaves_the_rest_alone_until_it_is_cleared() -> None:
    memory = HandedMemory()
    first, _ = memory.add([[b"a" * 100]])
    second, _ = memory.add([[b"b" * 100]])
    assert (bytes(read(first)), bytes(read(second))) == (b"a" * 100, b"b" * 100)
    memory.clear()
    third, _ = memory.add([[b"c" * 10]])
    assert bytes(read(third)) == b"c" * 10


def test_a_copy_stays_what_it_was() -> None:
    memory = HandedMemory()
    place, _ = memory.add([[b"a" * 100]])
    content = read(place)
    memory.clear()
    memory.add([[b"b" * 100]])
    assert bytes(content) == b"a" * 100


def test_memory_that_is_gone_or_another_one_is_an_error() -> None:
    memory = HandedMemory()
    place, _ = memory.add([[b"x" * 100]])
    with pytest.raises(OSError, match="fewer bytes"):
        read(place._replace(size=place.size + 1))
    with pytest.raises(OSError, match="something else"):
        read(place._replace(inode=place.inode + 1))
    del memory
    with pytest.raises(OSError, match=r".+"):
        read(place)
