"""Sends one request, once, and says what came of it and whether it may have been accepted.

Never retries and knows no job: `runtime` decides when to call again.
"""
