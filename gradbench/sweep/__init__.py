"""One sweep, from the words of a command line to finished tables.

Here belongs what plans and runs a whole grid. It prints nothing: the command line does.
"""
