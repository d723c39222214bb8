"""What a results folder holds: how it is written whole, read back checked, and shared by several runs.

Here belongs every file format of results. It imports no torch, and knows nothing of training or reports.
"""
