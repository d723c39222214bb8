"""gradbench: clip the gradients, penalise them, or leave them alone, and how strongly?"""

__version__ = "0.1.0"
