"""Downloads, from a server that the test runs on this very machine."""

import gc
import hashlib
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest

from gradbench.data import downloads
from gradbench.errors import UsageError

CONTENT = b"to be, or not to be\n" * 1000
LENGTH = len(CONTENT)
SUM = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers by the first word of the path; anything that it does not know is not found."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        kind = self.path.split(".")[0].split("/")[1]
        self.close_connection = True
        getattr(self, f"say_{kind}", self.say_missing)()

    def answer(self, status=200, length=LENGTH, **headers):
        self.send_response(status)
        headers = {"Content-Length": str(length), "Connection": "close"} | headers
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def say_good(self):
        self.answer()
        self.wfile.write(CONTENT)

    def say_missing(self):
        self.answer(404)
        self.wfile.write(CONTENT)

    def say_cut(self):
        """Promise more than is sent, as a lost connection does."""
        self.answer(length=len(CONTENT) + 5)
        self.wfile.write(CONTENT)

    def say_torn(self):
        """Send pieces of which the last never ends."""
        self.answer(Transfer_Encoding="chunked")
        self.wfile.write(b"1000\r\n" + CONTENT[:100])

    def say_stall(self):
        """Send half, then nothing, until the test is over."""
        self.answer()
        self.wfile.write(CONTENT[: len(CONTENT) // 2])
        self.wfile.flush()
        self.server.over.wait(30)

    def say_mute(self):
        self.server.over.wait(30)

    def say_dead(self):
        self.connection.close()

    def say_lie(self):
        """Send as many bytes as were expected, one of them another."""
        self.answer()
        self.wfile.write(b"T" + CONTENT[1:])

    def say_short(self):
        """Send less than the file, and promise no more."""
        self.answer(length=100)
        self.wfile.write(CONTENT[:100])

    def say_elsewhere(self):
        self.answer(302, 0, Location=f"http://localhost:{self.server.server_port}/good.txt")

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked, running.over = [], threading.Event()
        running.address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()
    gc.collect()  # a socket left open by the test shows here, as a warning, not in a later test


def kept(folder):
    """Return the names of what lies there, but for the empty files that locks leave."""
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


def test_a_file_is_fetched_once_and_then_read_from_the_folder(server, tmp_path):
    url = f"{server.address}/good.txt"
    folder = tmp_path / "new" / "folder"
    paths = [downloads.fetch(url, SUM, folder, loopback=True) for _ in range(2)]
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == CONTENT
    assert server.asked == ["/good.txt"]
    assert kept(folder) == [paths[0].name]


@pytest.mark.parametrize("damage", [CONTENT[:-1], b"U" + CONTENT[1:], b""], ids=["cut", "flipped", "emptied"])
def test_a_damaged_copy_is_set_aside_and_fetched_again(server, tmp_path, damage, capsys):
    url = f"{server.address}/good.txt"
    path = downloads.fetch(url, SUM, tmp_path, loopback=True)
    path.write_bytes(damage)
    assert downloads.fetch(url, SUM, tmp_path, loopback=True).read_bytes() == CONTENT
    assert (tmp_path / f"_{path.name}.damaged-1").read_bytes() == damage
    said = capsys.readouterr().err
    assert f"{path} is damaged" in said
    assert len(said.splitlines()) == 1
    assert len(server.asked) == 2


@pytest.mark.parametrize("page", ["lie.txt", "short.txt"])
def test_content_that_is_not_what_was_expected_is_refused_and_leaves_nothing_behind(server, tmp_path, page):
    with pytest.raises(UsageError, match="does not have the expected sha256"):
        downloads.fetch(f"{server.address}/{page}", SUM, tmp_path, loopback=True)
    assert kept(tmp_path) == []


def test_a_redirection_to_where_nothing_is_encrypted_is_not_followed_to_a_file(server, tmp_path):
    with pytest.raises(UsageError, match="only https addresses are downloaded, got http://localhost"):
        downloads.fetch(f"{server.address}/elsewhere.txt", SUM, tmp_path, loopback=True)
    assert kept(tmp_path) == []


FETCH = """
import pathlib, sys
from gradbench.data import downloads
downloads.fetch(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), loopback=True)
"""


@pytest.fixture
def other(server, tmp_path):
    """Another process, in the middle of a download that never ends."""
    words = [sys.executable, "-c", FETCH, f"{server.address}/stall.txt", SUM, tmp_path]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        while not server.asked:
            assert process.poll() is None
            time.sleep(0.01)
        yield process
        process.kill()


def test_while_another_process_downloads_a_file_it_is_waited_for(server, tmp_path, other, monkeypatch):
    monkeypatch.setattr(downloads, "PATIENCE", 0.2)
    with pytest.raises(UsageError, match="another process has been downloading"):
        downloads.fetch(f"{server.address}/stall.txt", SUM, tmp_path, loopback=True)
    assert server.asked == ["/stall.txt"], "it must not have been asked twice"
    monkeypatch.setattr(downloads, "PATIENCE", 30)
    (name,) = (path.name.removeprefix(".").removesuffix(".part") for path in tmp_path.glob(".*.part"))
    (tmp_path / name).write_bytes(CONTENT)  # as the other would, at its end
    other.kill()
    assert (
        downloads.fetch(f"{server.address}/stall.txt", SUM, tmp_path, loopback=True).read_bytes() == CONTENT
    )
    assert server.asked == ["/stall.txt"]


def test_a_process_killed_in_a_download_blocks_nobody_and_its_half_is_not_used(
    server, tmp_path, other, monkeypatch
):
    other.kill()
    other.wait()
    assert list(tmp_path.glob(".*.part"))
    monkeypatch.setattr(Handler, "say_stall", Handler.say_good)
    path = downloads.fetch(f"{server.address}/stall.txt", SUM, tmp_path, loopback=True)
    assert path.read_bytes() == CONTENT
    assert kept(tmp_path) == [path.name]


def test_a_wrong_checksum_is_refused_and_leaves_nothing_behind(server, tmp_path):
    wrong = "0" * 64
    with pytest.raises(UsageError, match=f"does not have the expected sha256 {wrong}") as caught:
        downloads.fetch(f"{server.address}/good.txt", wrong, tmp_path, loopback=True)
    assert "\n" not in str(caught.value)
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("missing.txt", "404 Client Error"),
        ("cut.txt", "5 more expected"),
        ("torn.txt", ""),
        ("stall.txt", "timed out"),
        ("mute.txt", "timed out"),
        ("dead.txt", ""),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_nothing_behind(server, tmp_path, page, reason, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
    url = f"{server.address}/{page}"
    with pytest.raises(UsageError, match=r"could not download .*save the file by hand as") as caught:
        downloads.fetch(url, SUM, tmp_path, loopback=True)
    assert url in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert kept(tmp_path) == []


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
