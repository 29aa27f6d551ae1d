"""Brings sweeps to the server in batches: a file of requests, and files of results.

Each batch is made at most once, none of its requests is in two, and its results reach their jobs
whatever breaks off. Loaded with the first batch.
"""
