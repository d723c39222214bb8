"""Read the tables of a results folder for a report, and check them. Nothing here concludes or draws."""
