"""gradbench from Python, in a script or a notebook: run a grid, show its progress, look at its results.

The command line is a thin layer over it. Nothing here parses a command line.
"""
