"""``gradbench``, and ``python -m gradbench``."""

import sys


def main() -> None:
    """Run the command line; before it is even imported, what a sweep's workers are forked from starts to import."""
    if sys.argv[1:2] == ["run"] and not {"-h", "--help", "--dry-run"} & set(sys.argv):
        from gradbench.launchers import forkserver

        forkserver.warm_up()
    from gradbench.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
