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

    def add(self, job: Job) -> None:
        """Take a new job in."""
        self._jobs.append(job)

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
        return list(self._jobs)

    def find(self, key: str) -> Job | None:
        """The job with this key; of several the newest, since one that was given up may have been
        attached since."""
        return next((job for job in reversed(self._jobs) if job.record.key == key), None)

    def twin(self, fingerprint: str, server: str, name: str | None, notebook: str) -> Job | None:
        """The newest job with this fingerprint that is for the same variable.

        Args:
            name: the variable that the user chose; None stands for all that were not chosen.
        """
        for job in reversed(self._jobs):
            record = job.record
            chosen = record.name if record.named else None
            if (chosen, record.notebook, record.server) != (name, notebook, server):
                continue
            if record.fingerprint == fingerprint:
                return job
        return None
