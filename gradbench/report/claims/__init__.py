"""Judge the claims of results folders and write the verdicts: in a report, on the terminal, as CSV and Markdown.

The rules that decide a claim are in :mod:`gradbench.claims`, never here.
"""
