"""Compare two results folders, cell by cell, and show where they differ."""
