"""Shows jobs and groups, live and afterwards.

Clicks call the job's own methods. The scripts and styles beside the modules belong to the widgets.
"""
