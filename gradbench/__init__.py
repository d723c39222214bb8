"""gradbench: clip the gradients, penalise them, or leave them alone, and how strongly?"""

__version__ = "0.1.0"

FORMAT = 2
"""Version of the results format; part of every cell's id."""
