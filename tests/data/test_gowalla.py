"""Gowalla from small files of the official form."""

from __future__ import annotations

import gzip
import threading
import tracemalloc
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data
from data import delimited, gowalla
from settings.options import OptionError

CHECKINS = [
    "0\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\t22847",
    "0\t2010-10-18T22:17:43Z\t30.2691029532\t-97.7493953705\t420315",
    "0\t2010-10-17T23:42:03Z\t30.2557309927\t-97.7633857727\t22847",
    "5\t2010-10-17T19:26:05Z\t30.2634181234\t-97.7575966669\t22847",
    "7\t2010-10-16T18:50:42Z\t30.2742918584\t-97.7405226231\t316637",
    "7\t2010-10-12T00:21:28Z\t30.261599404\t-97.7585805953\t22847",
    "7\t2010-10-12T00:21:28Z\t30.261599404\t-97.7585805953\t420315",
]
USERS = "org_id remap_id\n0 0\n7 1\n"
ITEMS = "org_id remap_id\n22847 0\n420315 1\n"


def write(folder: Path, checkins: list[str] = CHECKINS, users: str = USERS, items: str = ITEMS) -> tuple[Path, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / name for name in (gowalla.CHECKINS, *gowalla.LISTS))
    paths[0].write_bytes(gzip.compress(("\n".join(checkins) + "\n").encode()))
    paths[1].write_text(users)
    paths[2].write_text(items)
    return paths


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gowalla, "COUNTS", (2, 2, 5))
    monkeypatch.setattr(gowalla, "LISTS_URL", "http://127.0.0.1:9/")
    monkeypatch.setattr(gowalla, "CHECKINS_URL", "http://127.0.0.1:9/checkins")


@pytest.mark.parametrize("chunk", [60, 1 << 20])
def test_listed_users_and_places_are_kept_with_repeats_in_time_order(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "CHUNK_BYTES", chunk)
    write(tmp_path / "gowalla")
    made = data.load("gowalla", tmp_path)
    assert made.user_ids.tolist() == ["0", "7"]
    assert made.item_ids.tolist() == ["22847", "420315"]
    assert made.splits.tolist() == [0, 3, 5]
    assert made.items.tolist() == [0, 1, 0, 0, 1]
    assert made.times[0] == np.datetime64("2010-10-17T23:42:03").astype(np.int64)


def test_what_is_missing_is_downloaded(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("site")
    write(folder)
    with serving(folder) as url:
        monkeypatch.setattr(gowalla, "LISTS_URL", url)
        monkeypatch.setattr(gowalla, "CHECKINS_URL", url + gowalla.CHECKINS)
        assert data.load("gowalla", tmp_path).num_interactions == 5
        (folder / "user_list.txt").write_text("<html>moved</html>")
        with pytest.raises(OptionError, match=r"user_list\.txt did not send.*org_id"):
            data.load("gowalla", tmp_path / "other")
        (folder / "user_list.txt").write_text(USERS)
        (folder / gowalla.CHECKINS).write_text("<html>moved</html>")
        with pytest.raises(OptionError, match=r"did not send.*gzip"):
            data.load("gowalla", tmp_path / "other")


def test_without_a_network_the_error_says_where_to_put_which_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=rf"user_list\.txt at {tmp_path}/gowalla/user_list\.txt"):
        data.load("gowalla", tmp_path)


def test_other_counts_than_the_official_ones_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "gowalla", checkins=CHECKINS[:-1])
    with pytest.raises(OptionError, match=r"holds 2 users, 2 items and 4 interactions"):
        data.load("gowalla", tmp_path)


@pytest.mark.parametrize(
    "line", ["0\t2010-10-19\t1\t2", "0\tnoon\t1\t2\t22847", "x\t2010-10-19T23:55:27Z\t1\t2\t22847", "a line"]
)
def test_a_broken_checkin_is_named(line: str, tmp_path: Path) -> None:
    paths = write(tmp_path, checkins=[*CHECKINS[:3], line, *CHECKINS[3:]])
    with pytest.raises(OptionError, match=r"totalCheckins\.txt\.gz, line 4"):
        gowalla.read_checkins(*paths)


def test_memory_does_not_grow_with_the_checkins_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "CHUNK_BYTES", 1 << 16)
    others = [CHECKINS[3]] * 20_000
    peaks = []
    for times in (1, 5):
        paths = write(tmp_path / str(times), checkins=CHECKINS + others * times)
        tracemalloc.start()
        assert gowalla.read_checkins(*paths).num_interactions > 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_a_broken_list_and_a_cut_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"item_list\.txt, line 3"):
        gowalla.read_checkins(*write(tmp_path, items="org_id remap_id\n1 2\n3\n"))
    paths = write(tmp_path)
    paths[0].write_bytes(paths[0].read_bytes()[:-9])
    with pytest.raises(OptionError, match="not a whole gzip"):
        gowalla.read_checkins(*paths)


class serving:  # noqa: N801
    """Serve a folder on the loopback; gives the address of the folder."""

    def __init__(self, folder: Path) -> None:
        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}/"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
