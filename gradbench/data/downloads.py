"""Files from the network: fetched once, checked, kept in a cache folder."""

import re
import textwrap
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pooch
from rich.console import Console
from rich.progress import Progress

from gradbench.errors import UsageError

TIMEOUT = 30  # seconds to wait for a connection, and between two pieces of the answer


def cache_folder(root: str | None) -> Path:
    """Return the folder that downloads are kept in: ``root``, or the platform's cache folder for None."""
    return Path(root).expanduser() if root is not None else Path(pooch.os_cache("gradbench"))


def fetch(url: str, sha256: str, folder: Path, *, loopback: bool = False) -> Path:
    """Return the path of a checked copy of ``url``, downloading it only if ``folder`` has none.

    The file arrives under a temporary name and is renamed once its checksum is right, so a reader never
    sees half of it. It is named after its checksum: two addresses ending in ``input.txt`` do not collide.

    url: an https address. sha256: 64 hex digits of the expected content.
    loopback: also accept http from 127.0.0.1, for a server on this very machine.
    Raises UsageError for another scheme, a failed download and a wrong checksum.
    """
    parts = urlsplit(url)
    if not (
        parts.scheme == "https" or (loopback and parts.scheme == "http" and parts.hostname == "127.0.0.1")
    ):
        raise UsageError(
            f"only https addresses are downloaded, got {url}; give its https address, "
            "or download the file by hand and use data=text data.path=FILE"
        )
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError(
            f"sha256 of {url} must be 64 hex digits, got '{sha256}'; print it with: sha256sum FILE"
        )
    name = f"{sha256[:12].lower()}-{PurePosixPath(parts.path).name or 'file'}"
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        downloader = pooch.HTTPDownloader(
            progressbar=_Bar(progress, name), timeout=TIMEOUT, hooks={"response": _close_error_page}
        )
        try:
            return Path(pooch.retrieve(url, f"sha256:{sha256}", name, folder, downloader=downloader))
        except OSError as error:  # requests' exceptions are OSErrors too
            reason = textwrap.shorten(str(_root_cause(error)), 160, placeholder=" …")
            raise UsageError(
                f"could not download {url} ({reason}); try again, or save the file by hand as {folder / name}"
            ) from error
        except ValueError as error:  # pooch's word for a wrong checksum; it has deleted the file by now
            raise UsageError(
                f"{url} does not have the expected sha256 {sha256}, so it was not kept; "
                "try again, or correct the address or the sha256 beside it in the data config"
            ) from error


def _root_cause(error: BaseException) -> BaseException:
    """Return what happened first: "Name or service not known" rather than the layers of retries around it."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _close_error_page(response: Any, **_: Any) -> None:
    """Close an answer such as "404 not found": requests raises on it, and would leave its socket open."""
    if not response.ok:
        response.close()


class _Bar:
    """The progress bar that pooch expects (tqdm's methods), drawn by rich."""

    def __init__(self, progress: Progress, label: str) -> None:
        self.total = 0  # bytes; pooch writes it when the answer begins, 0 where the server does not say
        self._progress = progress
        self._task = progress.add_task(label, total=None)

    def update(self, count: int) -> None:
        self._progress.update(self._task, advance=count, total=self.total or None)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop_task(self._task)
