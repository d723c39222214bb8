"""Entry point of ``gradbench`` and ``python -m gradbench``: it owns the process's signals and streams."""

import sys


def append_working_folder() -> None:
    """Let Python find modules in the working folder, after all others, as ``python -m`` does before all others.

    The processes that gradbench starts inherit the import path.
    """
    from contextlib import suppress
    from pathlib import Path

    with suppress(FileNotFoundError):  # a folder that was removed holds no modules
        here = str(Path.cwd())
        if not {"", here} & set(sys.path):
            sys.path.append(here)


def main() -> None:
    """Run the command line.

    For a sweep, the server that workers are forked from is started first: it imports torch while this process imports
    the command line.
    """
    try:
        from gradbench import signals

        signals.leave_on_interrupt()
    except KeyboardInterrupt:
        sys.exit(130)
    from gradbench import streams

    streams.protect()
    append_working_folder()
    trains = sys.argv[1:2] == ["run"] and not {"-h", "--help", "--dry-run"} & set(sys.argv)
    if trains:
        from contextlib import suppress

        from gradbench.launchers import forkserver

        signals.ignore_hangup()
        with suppress(OSError):  # the command tries again, where an error is told
            forkserver.warm_up()
    from gradbench.cli.main import main as run

    try:
        run()
    except SystemExit as ended:
        lost = streams.report_failures(trains)
        signals.ignore()
        sys.exit(ended.code or lost)


if __name__ == "__main__":
    main()
