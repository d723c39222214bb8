"""The command line: parse arguments, call the other packages, print their results.

Only this package uses Typer, and it decides nothing itself.
"""
