"""Claims: sentences about cells, each with the test that decides it, fixed in the experiment's file.

``schema`` reads a claim, ``measures`` turns tables into one number per cell, ``contrasts`` compares two rows of
numbers, ``rules`` decides. Tables in, verdicts out; nothing here imports torch, or knows of a page.
"""
