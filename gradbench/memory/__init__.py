"""Memory: predict and measure a stack's peak, and choose how many cells train together.

Widths follow from shapes, the kind of device and its memory, never from timings, so that a sweep always has the same
stacks. Nothing here trains beyond the few steps of a measurement.
"""
