"""Holds what is known of jobs and calls their listeners; starts nothing.

`Job`, `Answer` and `JobGroup` are what users hold. Only `runtime` changes a job, on the loop
thread.
"""
