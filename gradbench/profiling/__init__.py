"""Profiling for ``gradbench cost``: time per step and peak memory of each regularizer, relative to ``none``.

It builds, times and tabulates stacks. Nothing here trains a sweep, or writes into a results folder of one.
"""
