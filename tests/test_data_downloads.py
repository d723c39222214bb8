"""Downloads, from a server that the test runs on this very machine."""

import gc
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest

from gradbench.data import downloads
from gradbench.errors import UsageError

CONTENT = b"to be, or not to be\n" * 1000
SUM = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        found = self.path.startswith("/good")
        self.send_response(200 if found or self.path == "/cut.txt" else 404)
        # A "cut" answer promises more than it sends, as a lost connection does.
        self.send_header("Content-Length", str(len(CONTENT) + (5 if self.path == "/cut.txt" else 0)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        running.address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()
    gc.collect()  # a socket left open by the test shows here, as a warning, not in a later test


def test_a_file_is_fetched_once_and_then_read_from_the_folder(server, tmp_path):
    url = f"{server.address}/good.txt"
    folder = tmp_path / "new" / "folder"
    paths = [downloads.fetch(url, SUM, folder, loopback=True) for _ in range(2)]
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == CONTENT
    assert server.asked == ["/good.txt"]
    assert list(folder.iterdir()) == [paths[0]]


def test_a_damaged_copy_is_fetched_again(server, tmp_path):
    url = f"{server.address}/good.txt"
    downloads.fetch(url, SUM, tmp_path, loopback=True).write_bytes(b"half of it")
    assert downloads.fetch(url, SUM, tmp_path, loopback=True).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_wrong_checksum_is_refused_and_leaves_nothing_behind(server, tmp_path):
    wrong = "0" * 64
    with pytest.raises(UsageError, match=f"does not have the expected sha256 {wrong}") as caught:
        downloads.fetch(f"{server.address}/good.txt", wrong, tmp_path, loopback=True)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("page", "reason"), [("missing.txt", "404 Client Error"), ("cut.txt", "5 more expected")]
)
def test_a_failed_download_is_one_line_and_leaves_nothing_behind(server, tmp_path, page, reason):
    url = f"{server.address}/{page}"
    with pytest.raises(UsageError, match=r"could not download .*save the file by hand as") as caught:
        downloads.fetch(url, SUM, tmp_path, loopback=True)
    assert url in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_saved_by_hand_under_the_named_path_is_used(server, tmp_path):
    with pytest.raises(UsageError) as caught:
        downloads.fetch(f"{server.address}/missing.txt", SUM, tmp_path, loopback=True)
    by_hand = tmp_path / str(caught.value).rpartition("/")[2]
    by_hand.write_bytes(CONTENT)
    assert downloads.fetch(f"{server.address}/missing.txt", SUM, tmp_path, loopback=True) == by_hand


def test_files_of_one_name_from_two_addresses_do_not_collide(tmp_path, server):
    other = hashlib.sha256(b"other").hexdigest()
    first = downloads.fetch(f"{server.address}/good/input.txt", SUM, tmp_path, loopback=True)
    with pytest.raises(UsageError):
        downloads.fetch(f"{server.address}/good/2/input.txt", other, tmp_path, loopback=True)
    assert first.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:1/a.txt", False),
        ("http://example.org/a.txt", True),
        ("http://127.0.0.1.example.org/a.txt", True),
        ("ftp://example.org/a.txt", False),
        ("file:///etc/hostname", False),
    ],
)
def test_only_https_is_downloaded(tmp_path, url, loopback):
    with pytest.raises(
        UsageError, match=r"only https addresses are downloaded, got .*data=text data.path=FILE"
    ):
        downloads.fetch(url, SUM, tmp_path, loopback=loopback)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("checksum", ["", "abc", "g" * 64, "md5:" + "0" * 60])
def test_a_checksum_that_is_none_is_refused_before_anything_is_fetched(server, tmp_path, checksum):
    with pytest.raises(UsageError, match=r"must be 64 hex digits.*sha256sum FILE"):
        downloads.fetch(f"{server.address}/good.txt", checksum, tmp_path, loopback=True)
    assert server.asked == []


def test_the_default_folder_is_the_platforms_cache(tmp_path, monkeypatch):
    assert downloads.cache_folder(None) == pooch.os_cache("gradbench")
    assert downloads.cache_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert downloads.cache_folder("~/data") == tmp_path / "data"


def test_the_bar_counts_to_the_size_of_the_file(server, tmp_path, monkeypatch):
    seen = []
    close = downloads._Bar.close

    def closing(bar):
        close(bar)
        seen.append((bar.total, bar._progress.tasks[0].completed, bar._progress.finished))

    monkeypatch.setattr(downloads._Bar, "close", closing)
    downloads.fetch(f"{server.address}/good.txt", SUM, tmp_path, loopback=True)
    assert seen == [(len(CONTENT), len(CONTENT), True)]
