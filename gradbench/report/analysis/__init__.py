"""Compare treatments with ``none``: judgements, answers, tables and the audit.

Numbers and sentences belong here; reading files, drawing and markup never do.
"""
