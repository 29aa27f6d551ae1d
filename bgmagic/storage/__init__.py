"""Writes down before it happens, and says which kernel owns what: the journal.

Decides nothing about jobs: `runtime` says what to store and when.
"""
