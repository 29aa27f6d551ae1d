"""Makes messages of text and values, now or when the answers that they need are there.

Knows nothing of IPython: the caller hands in the namespace.
"""
