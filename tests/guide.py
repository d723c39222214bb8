"""The files that the guide and the page on claims have a reader write, and the commands of the guide."""

import re
from pathlib import Path

import gradbench

GUIDE = (Path(gradbench.__file__).parent / "README.md").read_text(encoding="utf-8")

CLAIMS = (Path(gradbench.__file__).parent / "claims/README.md").read_text(encoding="utf-8")

WRITTEN = re.compile(r"^`([\w/.]+)`:\n\n```(?:python|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)

FILES = dict(WRITTEN.findall(GUIDE))
"""Path -> text."""

CLAIMING = dict(WRITTEN.findall(CLAIMS))
"""Name of an experiment's file on the page on claims -> text."""

COMMANDS = re.findall(r"^gradbench (run .*)$", GUIDE, flags=re.MULTILINE)


def write_files(folder: Path) -> None:
    """Write the files of the guide into a folder."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
