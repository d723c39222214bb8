"""Results folders: written atomically, verified when read, shared by concurrent runs.

Every file format of results is defined here. The package imports no torch, and knows nothing of training or reports.
"""
