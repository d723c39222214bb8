"""Read, check and clean the tables of a results folder for a report.

Reading and derived columns belong here; statistics, conclusions and figures never do.
"""
