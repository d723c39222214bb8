"""Show the verdicts on claims: in a report, on the terminal, in a document. Judging is not done here."""
