"""Compare results folders: pair their cells by setting and seed, and build the report of the differences.

Reading a folder and drawing figures never belong here.
"""
