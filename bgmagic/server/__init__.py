"""Jupyter Server's extension: gives the panel in JupyterLab the journal's jobs and its news.

Jupyter Server loads `extension`; `handlers` answer, `rows` read, `watch` says what has changed.
"""
