"""The grid: expand an experiment into cells, and group cells that can train together into stacks.

Cells are made of configs. Nothing here imports torch, trains, or reads a results folder.
"""
