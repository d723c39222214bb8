"""Compute intervals of scores and choose settings by them: arrays in, numbers out.

Pure functions of NumPy arrays belong here; tables, claims and figures never do, nor imports of torch or pandas.
"""
