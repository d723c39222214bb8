"""What the processes of a sweep import: the same modules everywhere, and none of the working folder's by accident."""

import os
import subprocess
import sys
from pathlib import Path

from gradbench.launchers import forkserver

SCRIPT = """
import pydoc

from gradbench.__main__ import append_working_folder
from gradbench.launchers import forkserver

if __name__ == "__main__":
    append_working_folder()
    forkserver.PRELOADED[:] = ["profile"]
    forkserver.warm_up()
    for name in ("nets.WHICH", "profile.__file__", "yaml.__name__"):
        print(pydoc.locate(name), forkserver.run_in_forkserver(pydoc.locate, name))
"""


def test_modules_of_the_working_folder_are_found_by_every_process_and_stand_in_for_no_others(tmp_path):
    """As under a console script, whose own folder begins the import path."""
    elsewhere, here = tmp_path / "bin", tmp_path / "here"
    for folder in (elsewhere, here):
        folder.mkdir()
    (here / "nets.py").write_text("WHICH = 'mine'\n")
    (here / "profile.py").write_text("raise SystemExit('imported in place of the standard library')\n")
    (here / "yaml.py").write_text("raise SystemExit('imported in place of what is installed')\n")
    script = elsewhere / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], cwd=here, capture_output=True, text=True, check=True)
    mine, standard, installed = (line.split(" ") for line in done.stdout.splitlines())
    assert mine == ["mine", "mine"]
    assert installed == ["yaml", "yaml"]
    assert len(set(standard)) == 1
    assert not Path(standard[0]).is_relative_to(tmp_path)


def test_a_process_has_the_environment_of_its_caller_and_not_of_the_first_one(monkeypatch):
    """A notebook sets a variable, and its next run reads it."""
    forkserver.warm_up()
    for value in ("first", "second"):
        monkeypatch.setenv("GRADBENCH_TEST", value)
        assert forkserver.run_in_forkserver(os.getenv, "GRADBENCH_TEST") == value
