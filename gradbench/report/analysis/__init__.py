"""What a report concludes from tables: comparisons, answers, warnings. Nothing here reads files or draws."""
