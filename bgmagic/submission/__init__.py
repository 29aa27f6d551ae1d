"""Turns settings and a prompt into one job, or joins the job that asks the same.

Holds the process's `App`. Works the same from a cell and from plain Python.
"""
