"""Decide claims: sentences about cells, each with its test, fixed in the experiment's file before the run.

``schema`` parses a claim, ``metrics`` computes one number per cell, ``samples`` arranges them by setting and seed,
``contrasts`` and ``trends`` test them, ``judge`` decides. Tables in, verdicts out: reading folders, writing reports
and importing torch never belong here.
"""
