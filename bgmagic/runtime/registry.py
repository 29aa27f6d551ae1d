"""The jobs of this process by their keys."""

from __future__ import annotations

from bgmagic.jobs.job import Job


class JobRegistry:
    """The jobs of this process; every method may be called from any thread."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._by_key: dict[str, Job] = {}
        self._successors: dict[str, str] = {}

    def add(self, job: Job) -> None:
        """Add a new job."""
        self._jobs.append(job)
        self._by_key[job.record.key] = job

    def drop(self, job: Job) -> None:
        """Remove a job."""
        self._jobs.remove(job)
        self._by_key.pop(job.record.key, None)

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
        return list(self._jobs)

    def by_key(self) -> dict[str, Job]:
        """The jobs by their keys; of several with one key the newest."""
        return dict(self._by_key)

    def find(self, key: str) -> Job | None:
        """Find the job with this key; of several the newest, since a detached one may have been
        attached again."""
        return self._by_key.get(key)

    def mark_resent(self, job: Job, successor: Job) -> None:
        """Record that a job was sent again, as ``successor``."""
        self._successors[job.record.key] = successor.record.key

    def latest_key(self, key: str) -> str:
        """The key of the job that was sent last in place of this one, or this key."""
        while key in self._successors:
            key = self._successors[key]
        return key
