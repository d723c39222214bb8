"""How much memory a stack takes, and so how many cells train together.

Decided from shapes, the kind of device and its memory, never from a stopwatch.
"""
