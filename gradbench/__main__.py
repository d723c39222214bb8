"""Entry point of ``gradbench`` and ``python -m gradbench``."""

import sys


def main() -> None:
    """Run the command line.

    For a sweep, the server that workers are forked from is started first: it imports torch while this process imports
    the command line.
    """
    if sys.argv[1:2] == ["run"] and not {"-h", "--help", "--dry-run"} & set(sys.argv):
        from gradbench.launchers import forkserver

        forkserver.warm_up()
    from gradbench.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
