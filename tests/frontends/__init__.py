"""Programs in which notebooks run, each in an environment of its own: see `python -m tests.frontends`."""
