"""Statistics of paired scores: arrays in, numbers out.

It knows no table, no claim and no figure, and imports no torch and no pandas.
"""
