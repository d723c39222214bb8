"""Entry point of ``gradbench`` and ``python -m gradbench``."""

import contextlib
import sys
from pathlib import Path


def append_working_folder() -> None:
    """Let Python find modules in the working folder, after all others, as ``python -m`` does before all others.

    The processes that gradbench starts inherit the import path.
    """
    with contextlib.suppress(FileNotFoundError):  # a folder that was removed holds no modules
        here = str(Path.cwd())
        if not {"", here} & set(sys.path):
            sys.path.append(here)


def main() -> None:
    """Run the command line.

    For a sweep, the server that workers are forked from is started first: it imports torch while this process imports
    the command line.
    """
    append_working_folder()
    if sys.argv[1:2] == ["run"] and not {"-h", "--help", "--dry-run"} & set(sys.argv):
        from gradbench.launchers import forkserver

        forkserver.warm_up()
    from gradbench.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
