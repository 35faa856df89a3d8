"""Where images come from: the official files of MNIST and CIFAR-10, a reduced CIFAR-10, and synthetic ones."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import draws
from data import default_data_dir
from data.images.image_set import ImageSet, Split
from draws import Stream
from settings.options import OptionError, require
from settings.paths import absolute, is_folder, status_of

Bytes = NDArray[np.uint8]

MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""Of the unpacked official files: how they were compressed does not matter."""

CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
"""Of the official archive, as its page gives it."""

CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_TRAIN = [f"data_batch_{number}.bin" for number in range(1, 6)]
CIFAR10_RECORD = 1 + 3 * 32 * 32

CIFAR10_REDUCED = "cifar10-12k.npz"
CIFAR10_NOTICE = (
    "cifar10-12k: 10,000 training and 2,000 test images of CIFAR-10 that went through JPEG once; "
    "figures do not compare with those of the original 60,000."
)
MARGIN = 4
"""Dark pixels on each side of a synthetic image."""

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def load_images(name: str, data_dir: Path) -> ImageSet:
    """The image set of a name among ``IMAGE_SETS``. Raises ``OptionError`` for an unknown name or unusable files."""
    require(name in IMAGE_SETS, "dataset", name, "one of " + ", ".join(map(repr, IMAGE_SETS)))
    return IMAGE_SETS[name](data_dir)


@lru_cache(maxsize=1)
def image_set(name: str, data_dir: str | None) -> ImageSet:
    """The same, read once a process; ``data_dir``: ``data.default_data_dir()`` where it is ``None``."""
    return load_images(name, absolute("data-dir", data_dir) if data_dir else default_data_dir())


def load_mnist(data_dir: Path) -> ImageSet:
    """MNIST (LeCun et al. 1998): 60,000 and 10,000 images of 28x28, from the official idx files, packed or not."""
    contents = [_read_mnist_file(data_dir / "mnist", name, digest) for name, digest in MNIST_SHA256.items()]
    train_images, train_labels, test_images, test_labels = map(parse_idx, contents)
    train, test = Split(train_images[:, None], train_labels), Split(test_images[:, None], test_labels)
    return ImageSet("mnist", train, test, num_classes=10, mean=(0.1307,), std=(0.3081,))


def load_cifar10(data_dir: Path) -> ImageSet:
    """CIFAR-10 (Krizhevsky 2009): the official binary version, or where there is none the reduced set, with its notice.

    The Python version of the official files is a pickle, which can run any code when read: it is not supported.
    """
    folder = data_dir / "cifar10"
    names = [*CIFAR10_TRAIN, "test_batch.bin"]
    if status_of("data-dir", folder / CIFAR10_ARCHIVE):
        batches = _read_cifar10_archive(folder / CIFAR10_ARCHIVE, names)
    elif is_folder("data-dir", folder / CIFAR10_FOLDER):
        batches = [_read(folder / CIFAR10_FOLDER / name) for name in names]
    elif status_of("data-dir", folder / CIFAR10_REDUCED):
        return _reduced_cifar10(folder / CIFAR10_REDUCED)
    else:
        raise OptionError(
            f"cifar10 was not found in {folder}: expected {CIFAR10_ARCHIVE}, the folder {CIFAR10_FOLDER} that it "
            f"unpacks to, or {CIFAR10_REDUCED}. Download the binary version from the page of CIFAR-10 "
            "(the Python version is a pickle and not read here)."
        )
    train, test = _cifar10_split(b"".join(batches[:-1])), _cifar10_split(batches[-1])
    return ImageSet("cifar10", train, test, num_classes=10, mean=CIFAR10_MEAN, std=CIFAR10_STD)


def synthetic_images(
    num_train: int = 2000, num_test: int = 500, size: int = 28, channels: int = 1, num_classes: int = 10, seed: int = 0
) -> ImageSet:
    """Images that are learnt in seconds: each a coarse pattern of its class, shifted by up to two pixels, with noise.

    A dark margin of four pixels surrounds the pattern, as in MNIST. The same arguments give the same images.
    """
    generator = draws.generator(seed, Stream.SYNTHETIC)
    inner = size - 2 * MARGIN
    coarse = generator.random((num_classes, inner // 4 + 1, inner // 4 + 1, channels))
    patterns = np.zeros((num_classes, size, size, channels))
    patterns[:, MARGIN:-MARGIN, MARGIN:-MARGIN] = coarse.repeat(4, 1).repeat(4, 2)[:, :inner, :inner]
    train, test = (_noisy_copies(patterns, count, generator) for count in (num_train, num_test))
    mean, std = (0.29,) * channels, (0.32,) * channels
    return ImageSet("synthetic-images", train, test, num_classes, mean, std)


IMAGE_SETS: dict[str, Callable[[Path], ImageSet]] = {
    "mnist": load_mnist,
    "cifar10": load_cifar10,
    "synthetic-images": lambda data_dir: synthetic_images(),
}


def parse_idx(content: bytes) -> Bytes:
    """The array of bytes in an idx file: two zeros, type 8, the number of axes, big-endian sizes, the values.

    Source: the format's description on MNIST's page. Raises ``OptionError`` for anything else.
    """
    axes = content[3] if len(content) > 3 else 0
    shape = np.frombuffer(content[4 : 4 + 4 * axes], ">u4").astype(int)
    well_formed = content[:3] == b"\0\0\x08" and len(shape) == axes and len(content) == 4 + 4 * axes + shape.prod()
    if not well_formed:
        raise OptionError("mnist: a file is not a complete idx file of bytes. Download it again.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _noisy_copies(patterns: NDArray[np.float64], count: int, generator: np.random.Generator) -> Split:
    """Patterns (classes, size, size, channels) in [0, 1] to labelled images of random classes."""
    num_classes, size = patterns.shape[:2]
    labels = generator.integers(num_classes, size=count)
    shifts = generator.integers(-2, 3, size=(2, count, 1))
    rows, columns = (np.arange(size) + shifts) % size
    images = patterns[labels[:, None, None], rows[:, :, None], columns[:, None, :]]
    noisy = images + generator.normal(0, 0.1, images.shape)
    pixels = np.clip(noisy * 255, 0, 255).astype(np.uint8).transpose(0, 3, 1, 2)
    return Split(np.ascontiguousarray(pixels), labels.astype(np.uint8))


def _read_mnist_file(folder: Path, name: str, digest: str) -> bytes:
    packed, plain = folder / f"{name}.gz", folder / name
    is_packed = status_of("data-dir", packed) is not None
    if not is_packed and status_of("data-dir", plain) is None:
        raise OptionError(
            f"mnist was not found: neither {packed} nor {plain} exists. Put the four official files "
            f"({', '.join(f'{official}.gz' for official in MNIST_SHA256)}) there."
        )
    try:
        content = gzip.decompress(packed.read_bytes()) if is_packed else plain.read_bytes()
    except (OSError, EOFError) as error:
        raise OptionError(f"mnist: cannot read {packed} ({error}). Download it again.") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise OptionError(
            f"mnist: {name} in {folder} is not the official file (its SHA-256 differs). Download it again."
        )
    return content


def _read_cifar10_archive(path: Path, names: list[str]) -> list[bytes]:
    if hashlib.md5(_read(path), usedforsecurity=False).hexdigest() != CIFAR10_MD5:
        raise OptionError(f"cifar10: {path} is not the official archive (its MD5 differs). Download it again.")
    batches = []
    with tarfile.open(path) as archive:
        for name in names:
            member = archive.extractfile(f"{CIFAR10_FOLDER}/{name}")
            assert member is not None
            batches.append(member.read())
    return batches


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OptionError(f"cifar10: cannot read {path} ({error}). Unpack {CIFAR10_ARCHIVE} again.") from error


def _cifar10_split(content: bytes) -> Split:
    if not content or len(content) % CIFAR10_RECORD:
        raise OptionError(
            f"cifar10: a batch is not a whole number of records of {CIFAR10_RECORD} bytes. Unpack it again."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR10_RECORD)
    return Split(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0])


def _reduced_cifar10(path: Path) -> ImageSet:
    with np.load(path, allow_pickle=False) as arrays:
        train, test = (
            Split(np.ascontiguousarray(arrays[f"x_{part}"].transpose(0, 3, 1, 2)), arrays[f"y_{part}"])
            for part in ("train", "test")
        )
    return ImageSet("cifar10-12k", train, test, 10, CIFAR10_MEAN, CIFAR10_STD, CIFAR10_NOTICE)
