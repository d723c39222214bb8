"""``python -m gradbench``."""

from gradbench.cli import main

if __name__ == "__main__":
    main()
