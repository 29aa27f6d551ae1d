"""Functions of the notebook as tools of the model: what they are called with, and what they give.

Promise: only a function that the cell names is called, with arguments that fit its signature; what
it raises, and what can't be sent, becomes a line for the model. Knows no job and no server.
"""
