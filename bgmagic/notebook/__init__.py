"""Everything that needs IPython to be typed into; nothing below knows it.

`%load_ext bgmagic` imports this package.
"""
