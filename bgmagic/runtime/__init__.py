"""Brings each job to its end on one thread, sent at most once.

`JobManager` is the door for other threads; everything else here runs on the loop thread.
"""
