"""All jobs of this process, in order, and which one is meant.

It keeps them for as long as the process lives, so that they can be listed and shown; what happens
to them is the manager's business.
"""

from __future__ import annotations

from bgmagic.job import Job


class Roster:
    """The jobs of this process; every method may be called from any thread."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._by_key: dict[str, Job] = {}
        self._successors: dict[str, str] = {}

    def add(self, job: Job) -> None:
        """Take a new job in."""
        self._jobs.append(job)
        self._by_key[job.record.key] = job

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
        return list(self._jobs)

    def find(self, key: str) -> Job | None:
        """The job with this key; of several the newest, since one that was given up may have been
        attached since."""
        return self._by_key.get(key)

    def succeed(self, job: Job, successor: Job) -> None:
        """Note that a job was sent again, as ``successor``."""
        self._successors[job.record.key] = successor.record.key

    def newest(self, key: str) -> str:
        """The key of the job that was sent last in place of the one with this key, or this."""
        while key in self._successors:
            key = self._successors[key]
        return key
