"""Speed, measured against what a user would do otherwise: `python -m tests.benchmarks`."""
