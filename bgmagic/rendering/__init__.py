"""Turns text that a model wrote into HTML in which nothing of it acts: the security border.

Imports nothing else of the package.
"""
