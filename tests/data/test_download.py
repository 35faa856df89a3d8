"""Downloads from a server that is slow, wrong, cut off or not there."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from data.download import download
from settings.options import OptionError

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Site:
    """A server on the loopback: what it serves, how it behaves, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    cut_after: int | None = None
    cuts: int = 0
    status: int = 200
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.asked.append(wanted)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and site.ranges else 0
            if start and start >= len(site.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(site.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = site.content[start:]
            self.send_response(206 if start else site.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if site.cuts:
                site.cuts -= 1
                body = body[: site.cut_after]
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_port}/file.bin"
        yield site
        server.shutdown()
        thread.join()


def partial(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def test_a_file_is_fetched_once(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file.bin"
    for _ in range(2):
        assert download(site.url, target, MD5).read_bytes() == CONTENT
    assert len(site.asked) == 1
    assert not partial(target).exists()


@pytest.mark.parametrize("there", [1, 1000, len(CONTENT) - 1, len(CONTENT)])
def test_what_an_earlier_attempt_left_is_not_asked_for_again(there: int, site: Site, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    partial(target).write_bytes(CONTENT[:there])
    assert download(site.url, target, MD5).read_bytes() == CONTENT
    assert site.asked == [f"bytes={there}-"]


def test_a_server_without_ranges_sends_everything_anew(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    partial(target).write_bytes(b"something else")
    site.ranges = False
    assert download(site.url, target, MD5).read_bytes() == CONTENT


def test_more_than_there_is_begins_again(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    partial(target).write_bytes(CONTENT + b"more")
    assert download(site.url, target, MD5).read_bytes() == CONTENT


def test_cut_connections_are_taken_up_again(site: Site, tmp_path: Path) -> None:
    site.cuts, site.cut_after = 5, 100_000
    target = download(site.url, tmp_path / "file.bin", MD5)
    assert target.read_bytes() == CONTENT
    assert site.asked == [None, *(f"bytes={100_000 * k}-" for k in range(1, 6))]


def test_a_server_that_only_cuts_ends_in_an_error_and_the_next_start_goes_on(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    partial(target).write_bytes(CONTENT[:500])
    site.cuts, site.cut_after = 1, 0
    with pytest.raises(OptionError, match=r"broke off after 500 of .*file\.bin"):
        download(site.url, target, MD5)
    assert not target.exists()
    assert download(site.url, target, MD5).read_bytes() == CONTENT


def test_wrong_bytes_never_get_the_name_and_are_not_kept(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    site.content = b"<html>please log in</html>"
    with pytest.raises(OptionError, match=f"md5.*{MD5}.*{target}"):
        download(site.url, target, MD5)
    with pytest.raises(OptionError, match="it is a web page"):
        download(site.url, target, check=lambda path: "it is a web page")
    assert not target.exists()
    assert not partial(target).exists()


def test_what_the_server_refuses_is_said(site: Site, tmp_path: Path) -> None:
    site.status = 404
    with pytest.raises(OptionError, match=rf"404.*put {site.url} at {tmp_path / 'file.bin'}"):
        download(site.url, tmp_path / "file.bin")


def test_without_a_network_the_error_says_where_to_put_which_file(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/file.bin"
    with pytest.raises(OptionError, match=rf"cannot be downloaded: .*refused.*put {url} at {tmp_path / 'file.bin'}"):
        download(url, tmp_path / "file.bin")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_said(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    partial(target).symlink_to("/dev/full")
    with pytest.raises(OptionError, match=r"disk is full.*file\.bin"):
        download(site.url, target)


def test_a_closed_folder_is_said(site: Site, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    for target in (closed / "file.bin", closed / "new" / "file.bin"):
        with pytest.raises(OptionError, match=r"file\.bin cannot be written .*read-only.*data-dir"):
            download(site.url, target)
    assert list(closed.iterdir()) == []
    assert site.asked == []


def test_two_that_want_the_same_file_fetch_it_once(site: Site, tmp_path: Path) -> None:
    site.cuts, site.cut_after = 3, 50_000
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(download, site.url, tmp_path / "file.bin", MD5) for _ in range(4)]
        assert all(job.result().read_bytes() == CONTENT for job in jobs)
    assert len(site.asked) == 4
