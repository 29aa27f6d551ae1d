"""Plans, prices, sends and attaches many jobs as one group.

Imported with the first sweep of a process.
"""
