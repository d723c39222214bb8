"""The files that the guide has a reader write, and its commands."""

import re
from pathlib import Path

import gradbench

GUIDE = (Path(gradbench.__file__).parent / "README.md").read_text(encoding="utf-8")

FILES = dict(
    re.findall(r"^`([\w/.]+)`:\n\n```(?:python|yaml)\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
)
"""Path -> text."""

COMMANDS = re.findall(r"^gradbench (run .*)$", GUIDE, flags=re.MULTILINE)


def write_files(folder: Path) -> None:
    """Write the files of the guide into a folder."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
