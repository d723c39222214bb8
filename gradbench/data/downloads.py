"""Download files once, verify their checksums, and keep them in a cache folder."""

import re
import textwrap
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pooch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import Progress

from gradbench import signals
from gradbench.atomic import set_aside
from gradbench.errors import UsageError

TIMEOUT = 30  # seconds to wait for a connection, and between two pieces of the answer
PATIENCE = 600  # seconds to wait for another process that downloads the same file


def cache_folder(root: str | None) -> Path:
    """Return the folder for downloads: ``root``, or the platform's cache folder for ``None``."""
    return Path(root).expanduser() if root is not None else Path(pooch.os_cache("gradbench"))


def fetch(url: str, sha256: str, folder: Path, *, loopback: bool = False) -> Path:
    """Return the path of a verified copy of ``url``, downloading it only if ``folder`` has none.

    The file is downloaded under a temporary name and renamed after its checksum was verified, so that no process reads
    a partial file. Its name contains the checksum, so two addresses that end in ``input.txt`` do not collide. A copy
    damaged since then is set aside. Of several processes one downloads, and the others wait.

    Args:
        url: an https address.
        sha256: 64 hex digits of the expected content.
        folder: cache folder.
        loopback: also accept http from 127.0.0.1, for a server on the same machine.

    Raises:
        UsageError: for another scheme, a failed download, or a wrong checksum.
    """
    _check_address(url, loopback)
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError(
            f"sha256 of {url} must be 64 hex digits, got '{sha256}'; print it with: sha256sum FILE"
        )
    name = f"{sha256[:12].lower()}-{PurePosixPath(urlsplit(url).path).name or 'file'}"
    path = folder / name
    if _is_sound(path, sha256):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{name}.lock", timeout=PATIENCE):
            if not _is_sound(path, sha256):  # no other process has downloaded it meanwhile
                if path.exists():
                    kept = set_aside(path).name
                    Console(stderr=True).print(
                        f"{path} is damaged: it is kept as {kept}, and fetched again",
                        markup=False,
                        soft_wrap=True,
                    )
                _download(url, sha256, path, loopback)
    except Timeout as error:
        raise UsageError(
            f"another process has been downloading {name} for {PATIENCE // 60} minutes; wait for it or end it, "
            "then try again"
        ) from error
    except OSError as error:  # requests' exceptions are OSErrors too
        reason = textwrap.shorten(str(_root_cause(error)), 160, placeholder=" …")
        raise UsageError(
            f"could not download {url} ({reason}); try again, or save the file by hand as {path}"
        ) from error
    return path


def _download(url: str, sha256: str, path: Path, loopback: bool) -> None:
    """Download a file under a temporary name, always from its beginning, verify it, and rename it."""
    partial = path.with_name(
        f".{path.name}.part"
    )  # a fixed name: the remains of a killed process are overwritten

    def check(response: Any, **_: Any) -> None:
        try:
            _check_address(response.url, loopback)  # the address after redirections
            response.raise_for_status()
        except Exception:
            response.close()  # requests would leave its socket open
            raise

    console = Console(stderr=True)
    with signals.temporary(partial):
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = _Bar(progress, path.name)
            pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT, hooks={"response": check})(
                url, partial, None
            )
        if not _is_sound(partial, sha256):
            raise UsageError(
                f"{url} does not have the expected sha256 {sha256}, so it was not kept; "
                "try again, or correct the address or the sha256 beside it in the data config"
            )
        partial.replace(path)


def _check_address(url: str, loopback: bool) -> None:
    """Raise ``UsageError`` unless an address is https, or http on this machine with ``loopback``."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (
        loopback and parts.scheme == "http" and parts.hostname == "127.0.0.1"
    ):
        raise UsageError(
            f"only https addresses are downloaded, got {url}; give its https address, "
            "or download the file by hand and use data=text data.path=FILE"
        )


def _is_sound(path: Path, sha256: str) -> bool:
    """Return whether a file exists and has the expected checksum."""
    return path.is_file() and bool(pooch.file_hash(path) == sha256.lower())


def _root_cause(error: BaseException) -> BaseException:
    """Return the innermost error, such as "Name or service not known", without the retries around it."""
    while error.__context__ is not None:
        error = error.__context__
    return error


class _Bar:
    """The progress bar that pooch expects (tqdm's methods), drawn by rich."""

    def __init__(self, progress: Progress, label: str) -> None:
        self.total = 0  # bytes; pooch sets it when the response begins, to 0 if the server does not tell
        self._progress = progress
        self._task = progress.add_task(label, total=None)

    def update(self, count: int) -> None:
        self._progress.update(self._task, advance=count, total=self.total or None)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop_task(self._task)
