"""From the words of a command line and YAML files to resolved configs, and from those to objects.

Here belongs what knows Hydra and OmegaConf. It imports no torch, trains nothing, and never reads a results folder.
"""
