"""MovieLens-1M from small files of the official form, and from the real ratings where they are at hand."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data
from data import movielens
from data.interactions import Interactions, leave_one_out
from settings.options import OptionError

RATINGS = ["1::1193::5::978300760", "1::661::3::978302109", "2::1193::4::978298413", "1::914::3::978300760"]
MOVIES = ["661::James and the Giant Peach (1996)::Animation", "914::Café: a Film (1964)::Musical|Romance"]
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
REAL = os.environ.get("ROBUST_FEDREC_DATA")


def write_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml-1m/README", "about")
        archive.writestr("ml-1m/ratings.dat", "\n".join(RATINGS) + "\n")
        archive.writestr("ml-1m/movies.dat", ("\n".join(MOVIES) + "\n").encode("latin-1"))
    return path


def write_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "ratings.dat").write_text("\r\n".join(RATINGS))
    (folder / "movies.dat").write_bytes("\n".join(MOVIES).encode("latin-1"))


def write_inter(folder: Path) -> None:
    folder.mkdir()
    lines = [INTER, *(line.replace("::", "\t") for line in RATINGS)]
    (folder / "ml-1m.inter.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


@pytest.fixture(autouse=True)
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if "real" not in request.node.name:
        monkeypatch.setattr(movielens, "COUNTS", (2, 3, 4))
        monkeypatch.setattr(movielens, "URL", "http://127.0.0.1:9/ml-1m.zip")


def is_right(made: Interactions) -> bool:
    return (
        made.user_ids.tolist() == ["1", "2"]
        and made.item_ids.tolist() == ["661", "914", "1193"]
        and made.items.tolist() == [2, 1, 0, 2]
        and made.times.tolist() == [978300760, 978300760, 978302109, 978298413]
    )


@pytest.mark.parametrize("form", ["zip", "folder", "inter"])
def test_all_three_forms_say_the_same(form: str, tmp_path: Path) -> None:
    if form == "zip":
        write_zip(tmp_path / "ml-1m.zip")
    else:
        {"folder": write_folder, "inter": write_inter}[form](tmp_path / "ml-1m")
    made = data.load("ml-1m", tmp_path)
    assert is_right(made)
    if form == "inter":
        assert made.titles is None
    else:
        assert made.titles is not None
        assert made.titles.tolist() == ["James and the Giant Peach (1996)", "Café: a Film (1964)", ""]


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("site")
    path = write_zip(folder / "ml-1m.zip")
    monkeypatch.setattr(movielens, "MD5", hashlib.md5(path.read_bytes()).hexdigest())

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(movielens, "URL", f"http://127.0.0.1:{server.server_port}/ml-1m.zip")
        yield path
        server.shutdown()
        thread.join()


def test_what_is_not_there_is_downloaded(site: Path, tmp_path: Path) -> None:
    assert is_right(data.load("ml-1m", tmp_path))
    assert (tmp_path / "ml-1m.zip").read_bytes() == site.read_bytes()


def test_a_download_with_another_checksum_is_refused(site: Path, tmp_path: Path) -> None:
    site.write_bytes(site.read_bytes() + b" ")
    with pytest.raises(OptionError, match=r"md5.*ml-1m\.zip"):
        data.load("ml-1m", tmp_path)
    assert not (tmp_path / "ml-1m.zip").exists()


def test_without_a_network_the_error_says_where_to_put_which_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=rf"ml-1m/ml-1m\.inter\.gz is in {tmp_path}.*at {tmp_path}/ml-1m\.zip"):
        data.load("ml-1m", tmp_path)


def test_another_file_under_the_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(tmp_path / "ml-1m.zip")
    monkeypatch.setattr(movielens, "COUNTS", (6_040, 3_706, 1_000_209))
    with pytest.raises(OptionError, match=r"ml-1m\.zip holds 2 users.*6,040"):
        data.load("ml-1m", tmp_path)
    (tmp_path / "ml-1m.zip").write_bytes(b"PK, but no more")
    with pytest.raises(OptionError, match=r"ml-1m\.zip is not a whole"):
        data.load("ml-1m", tmp_path)


def test_a_broken_rating_is_named(tmp_path: Path) -> None:
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / "ratings.dat").write_text("\n".join([*RATINGS[:2], "1::2::3", RATINGS[2]]))
    with pytest.raises(OptionError, match=r"ratings\.dat, line 3"):
        data.load("ml-1m", tmp_path)


@pytest.mark.skipif(not REAL, reason="needs ROBUST_FEDREC_DATA, a folder with ml-1m in it")
def test_the_real_ratings_have_the_published_counts_and_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert REAL
    (tmp_path / "ml-1m").symlink_to(Path(REAL) / "ml-1m")
    made = data.load("ml-1m", tmp_path)
    assert (made.num_users, made.num_items, made.num_interactions) == (6_040, 3_706, 1_000_209)
    assert made.user_ids.tolist() == [str(user) for user in range(1, 6_041)]
    assert made.counts.min() == 20
    owner = np.repeat(np.arange(made.num_users), made.counts)
    assert (np.diff(made.times)[np.diff(owner) == 0] >= 0).all()
    split = leave_one_out(made)
    assert len(split.train_items) == made.num_interactions - 2 * made.num_users
    assert min(split.valid.min(), split.test.min()) >= 0
