"""Image sets out of files and seeds, and the clients' shares of them."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from data.images import files as image_files
from data.images.files import load_images, parse_idx, synthetic_images
from data.images.image_set import dirichlet_shares, iid_shares
from settings.options import OptionError

DATA = os.environ.get("ROBUST_FEDREC_DATA", "")


def _idx(values: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


def test_idx_comes_back() -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 4, 5)).astype(np.uint8)
    np.testing.assert_array_equal(parse_idx(_idx(values)), values)


@pytest.mark.parametrize("broken", [b"", b"\0\0\x08", b"\0\0\x0d\x01\0\0\0\0", _idx(np.zeros((2, 3), np.uint8))[:-1]])
def test_a_broken_idx_file_is_refused(broken: bytes) -> None:
    with pytest.raises(OptionError, match="idx"):
        parse_idx(broken)


def test_missing_mnist_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="train-images-idx3-ubyte"):
        load_images("mnist", tmp_path)


def test_another_file_under_an_official_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    content = gzip.compress(_idx(np.zeros((2, 28, 28), np.uint8)))
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(OptionError, match="not the official file"):
        load_images("mnist", tmp_path)


@pytest.mark.parametrize("packed", [True, False])
def test_cifar10_binary_batches(tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (6, 2, 3, 32, 32)).astype(np.uint8)
    labels = generator.integers(0, 10, (6, 2)).astype(np.uint8)
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    batches = {
        name: b"".join(bytes([label]) + image.tobytes() for image, label in zip(*pair, strict=True))
        for name, pair in zip(names, zip(images, labels, strict=True), strict=True)
    }
    folder = tmp_path / "cifar10"
    if packed:
        folder.mkdir()
        with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
            for name, content in batches.items():
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        with pytest.raises(OptionError, match="not the official archive"):
            load_images("cifar10", tmp_path)
        monkeypatch.setattr(image_files, "CIFAR10_MD5", _md5(folder / "cifar-10-binary.tar.gz"))
    else:
        (folder / "cifar-10-batches-bin").mkdir(parents=True)
        for name, content in batches.items():
            (folder / "cifar-10-batches-bin" / name).write_bytes(content)
    data = load_images("cifar10", tmp_path)
    np.testing.assert_array_equal(data.train.images, images[:5].reshape(10, 3, 32, 32))
    np.testing.assert_array_equal(data.train.labels, labels[:5].ravel())
    np.testing.assert_array_equal(data.test.images, images[5])
    assert data.notice == ""


def _md5(path: Path) -> str:
    import hashlib

    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_missing_cifar10_names_the_binary_version(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"cifar-10-binary\.tar\.gz"):
        load_images("cifar10", tmp_path)


def test_an_unknown_image_set_names_the_known_ones() -> None:
    with pytest.raises(OptionError, match="mnist"):
        load_images("imagenet", Path())


def test_synthetic_images_are_the_same_every_time() -> None:
    first, second = synthetic_images(50, 20), synthetic_images(50, 20)
    np.testing.assert_array_equal(first.train.images, second.train.images)
    np.testing.assert_array_equal(first.test.labels, second.test.labels)
    assert (synthetic_images(50, 20, seed=1).train.images != first.train.images).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_synthetic_images_are_near_standard(channels: int) -> None:
    data = synthetic_images(200, 20, channels=channels)
    images = data.examples(data.train).images
    assert images.shape == (200, channels, 28, 28)
    assert abs(float(images.mean())) < 0.2
    assert abs(float(images.std()) - 1) < 0.2


def test_normalising_is_affine_in_pixels() -> None:
    data = synthetic_images(4, 1)
    expected = (data.train.images / 255.0 - data.mean[0]) / data.std[0]
    torch.testing.assert_close(data.normalise(data.train.images), torch.from_numpy(expected).float())


@pytest.mark.parametrize("num_clients", [1, 3, 20])
def test_iid_shares_are_a_fair_partition(num_clients: int) -> None:
    shares = iid_shares(101, num_clients, seed=3)
    assert sorted(np.concatenate(shares).tolist()) == list(range(101))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    again = iid_shares(101, num_clients, seed=3)
    assert all((one == other).all() for one, other in zip(shares, again, strict=True))


def test_dirichlet_shares_are_a_partition_and_skewed_for_small_alpha() -> None:
    labels = np.repeat(np.arange(10), 100).astype(np.uint8)
    largest = {}
    for alpha in (0.1, 1000.0):
        shares = dirichlet_shares(labels, 8, alpha, seed=5)
        assert sorted(np.concatenate(shares).tolist()) == list(range(1000))
        assert min(map(len, shares)) >= 2
        largest[alpha] = np.mean([np.bincount(labels[share], minlength=10).max() / len(share) for share in shares])
    assert largest[0.1] > 0.4
    assert largest[1000.0] < 0.15


def test_too_many_clients_are_refused() -> None:
    with pytest.raises(OptionError, match="num-clients"):
        iid_shares(10, 6, seed=0)
    with pytest.raises(OptionError, match="dirichlet-alpha"):
        dirichlet_shares(np.zeros(100, np.uint8), 2, 0.0, seed=0)


@pytest.mark.skipif(not DATA, reason="ROBUST_FEDREC_DATA names no folder with the official files")
def test_real_mnist_has_its_sizes() -> None:
    data = load_images("mnist", Path(DATA))
    assert (len(data.train), len(data.test), data.shape) == (60_000, 10_000, (1, 28, 28))
    assert np.bincount(data.test.labels).tolist()[0] == 980


@pytest.mark.skipif(not DATA, reason="ROBUST_FEDREC_DATA names no folder with the reduced CIFAR-10")
def test_reduced_cifar10_says_that_it_went_through_jpeg() -> None:
    data = load_images("cifar10", Path(DATA))
    assert "JPEG" in data.notice or len(data.train) == 50_000
    assert data.shape == (3, 32, 32)
