"""Sweeps: plan a grid from the words of a command line, and train it.

This package prints nothing; the command line does.
"""
