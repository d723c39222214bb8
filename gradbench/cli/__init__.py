"""The command line: parses words, calls the rest, prints what it returns.

Only this package knows Typer. It decides nothing.
"""
