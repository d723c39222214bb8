"""Configs: parse overrides, compose and validate YAML, hash what a cell computes, instantiate ``_target_``s.

Everything that uses Hydra or OmegaConf belongs here. Nothing here imports torch, trains, or reads a results folder.
"""
