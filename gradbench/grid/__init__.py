"""Cells: what an experiment asks for, one by one, and which of them train together.

It imports no torch: a grid is made of configs.
"""
