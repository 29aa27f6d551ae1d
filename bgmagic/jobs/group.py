"""Many jobs as one sequence: the answers in order, with the jobs that have none in their places.

A `JobGroup` reads its jobs and passes calls on to them; it makes and sends none.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from bgmagic.errors import AnswerGone, BadInput, BgmagicError, public
from bgmagic.jobs.job import Answer, Job, outcomes
from bgmagic.jobs.outcome import Detached, JobError, mirror
from bgmagic.jobs.placeholder import as_completed
from bgmagic.jobs.record import GroupDisplays, Status
from bgmagic.text import count_each, count_jobs

if TYPE_CHECKING:
    import pandas


@public
class JobGroup(Collection[Any]):
    """The jobs of one sweep, in order. A sequence of their answers, or a mapping for a dict.

    An answer is an `Answer`, a ``str``; where there is none (yet), the `Job` stands in its place.
    """

    def __init__(
        self,
        key: str,
        name: str,
        jobs: Sequence[Job | None],
        items: Sequence[Any] | None = None,
        *,
        displays: GroupDisplays,
        make: Callable[[int], Job] | None = None,
    ) -> None:
        """Make the group of ``jobs``, each of which has a position in it.

        Args:
            key: our own name of the group, unique.
            name: the variable that holds it.
            jobs: in order; None stands for one whose handle is made when somebody needs it.
            displays: what shows the group.
            items: each job's item as it was given; None means what the journal kept of them.
            make: makes the handle of the job at an index; called once for each, from any thread.
        """
        self.key = key
        self.name = name
        self._jobs: list[Job | None] = list(jobs)
        self._make = make
        self._making = threading.RLock()
        self._items = items
        self._listeners: list[Callable[[Job], None]] = []
        # What each job has of its group.
        self._tells: tuple[Callable[[Job], None], ...] = (self._notify,)
        self._holds = (GroupPlaces(self),)
        self._displays = displays
        self._board: Any = None
        self._indices: dict[Job, int] = {}  # of jobs whose records do not tell
        # Whether all requests are known; those of a large sweep are rendered as it is sent.
        self.is_rendered = make is None
        for index, job in enumerate(jobs):
            if job is not None:
                self._place(index, job)

    def _place(self, index: int, job: Job) -> None:
        self._jobs[index] = job
        if self._indices:
            self._indices[job] = index
        job.join_group(self._tells, self._holds)

    # What the user reads.

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs in order, ended or not."""
        return tuple(map(self.job, range(len(self._jobs))))

    def job(self, index: int) -> Job:
        """The job at ``index``; its handle is made now if nobody needed it yet."""
        found = self._jobs[index]
        if found is None:
            with self._making:
                found = self._jobs[index]
                if found is None:
                    assert self._make is not None  # noqa: S101 - else there are no gaps
                    found = self._make(index)
                    self._place(index, found)
        return found

    @property
    def places(self) -> Sequence[Job | None]:
        """The jobs in order; None where nobody needed the handle yet, of a job that waits."""
        return self._jobs

    @property
    def made(self) -> list[Job]:
        """The jobs in order whose handles are made: most often all."""
        return [job for job in self._jobs if job is not None]

    @property
    def size(self) -> int:
        """Number of jobs that the sweep asked for; an attached group may have fewer."""
        positions = (job.outline.position for job in self.made)
        return max((at.size for at in positions if at is not None), default=0) or len(self._jobs)

    @property
    def failed(self) -> tuple[Job, ...]:
        """The jobs that ended without an answer, in order: failed, cancelled, incomplete, …"""
        ended = ((job, job.error) for job in self.made)
        return tuple(job for job, why in ended if why and not isinstance(why, Detached))

    @property
    def counts(self) -> dict[str, int]:
        """Number of jobs by status, the most frequent first."""
        made = self.made
        counts = Counter(job.status for job in made)
        if len(made) < len(self._jobs):
            counts[str(Status.WAITING)] += len(self._jobs) - len(made)
        return dict(counts.most_common())

    def to_frame(self) -> pandas.DataFrame:
        """A pandas DataFrame with one row a job: item, settings, status, seconds, tokens, price.

        ``seconds`` are those the server took, prices are in US dollars; what is not known is
        missing, never 0.

        Raises:
            BadInput: pandas is not installed.
        """
        from bgmagic.jobs.export import to_frame

        return to_frame(self.jobs, self._items)

    # concurrent.futures, for all of them.

    def done(self) -> bool:
        """Whether all have ended."""
        return all(job is not None and job.done() for job in self._jobs)

    def running(self) -> bool:
        """Whether the server has at least one that has not ended."""
        return any(job.running() for job in self.made)

    def cancel(self) -> bool:
        """Cancel those that have not ended; False if there is none."""
        # The last first: no slot becomes free for one that is to be cancelled too.
        return sum(job.cancel() for job in reversed(self.jobs)) > 0

    def retry_failed(self, *, unknown: bool = False) -> tuple[Job, ...]:
        """Send the failed ones again, as new jobs in their places; returns these.

        Args:
            unknown: also those of which nobody knows whether the server accepted them: what was
                accepted after all is paid for twice.

        Raises:
            BadInput: none of them ever became a request, for a mistake in its item.
        """
        again = [job for job in self.failed if unknown or job.status != Status.UNKNOWN]
        asked = [job for job in again if not job.record.is_unrendered]
        if again and not asked:
            raise BadInput(
                f"{self.name}: there is nothing to send again: {again[0].error}; mend the items "
                "and run the cell again"
            )
        return ResentJobs(asked[0]._control.resend_all(asked) if asked else ())

    def result(self, timeout: float | None = None, *, return_exceptions: bool = False) -> Any:
        """The answers, once all jobs have ended: a list, or a dict for a dict.

        Args:
            timeout: seconds to wait at most.
            return_exceptions: put the error where there is no answer, instead of raising it.

        Raises:
            JobError: the error of the first job in order that ended without an answer; the others
                are in `failed`, and those that have an answer in the group itself.
            TimeoutError: not all have ended within ``timeout``; they go on.
        """
        until = None if timeout is None else time.monotonic() + timeout
        jobs = self.jobs
        while not _all_done(jobs):
            for job in jobs:
                job.exception(None if until is None else max(0.0, until - time.monotonic()))
            jobs = self.jobs  # one that was retried meanwhile counts instead
        return self._results(jobs, return_exceptions=return_exceptions)

    def _results(self, jobs: Sequence[Job], *, return_exceptions: bool = False) -> Any:
        failed = [job for job in jobs if job.error is not None]
        if failed and not return_exceptions:
            error = failed[0].error
            assert error is not None  # noqa: S101 - that is why it is in the list
            raise _with_the_others(error, len(failed), len(jobs))
        return self._shaped(list(map(_result, jobs) if return_exceptions else outcomes(jobs)))

    def as_completed(self, timeout: float | None = None) -> AsCompleted:
        """The jobs as they end, for ``for`` and for ``async for``.

        Raises:
            TimeoutError: not all have ended within ``timeout`` seconds; they go on.
        """
        return AsCompleted(self.jobs, timeout)

    def __await__(self) -> Generator[Any, None, Any]:
        jobs = self.jobs
        while not _all_done(jobs):
            yield from _all_ended(jobs).__await__()
            jobs = self.jobs
        return self._results(jobs)

    def add_listener(self, listener: Callable[[Job], None]) -> None:
        """Have ``listener(job)`` called after each change of a job, mostly on the loop thread."""
        self._listeners.append(listener)

    def index_of(self, job: Job) -> int:
        """The index of a job that is, or was, in the group; -1 of another."""
        jobs, at = self._jobs, job.record.position
        if at is not None and at.index < len(jobs) and jobs[at.index] is job:
            return at.index
        if job not in self._indices:
            # All at once: where one has moved, mostly all have.
            self._indices |= {one: index for index, one in enumerate(jobs) if one is not None}
        return self._indices.get(job, -1)

    def replace_job(self, job: Job, successor: Job) -> None:
        """Put ``successor`` in the place of ``job``, if that is still there."""
        index = self.index_of(job)
        if index >= 0 and self._jobs[index] is job:
            self._jobs[index] = successor
            self._indices[job] = index
            successor.join_group(self._tells, ())
            self._notify(successor)

    def join(self, index: int, job: Job) -> None:
        """Put ``job``, which exists already, at ``index``. On the loop thread.

        A handle that somebody holds of that place says and ends as ``job`` does from now on.
        """
        with self._making:
            earlier = self._jobs[index]
            self._place(index, job)
            if earlier is not None:
                self._indices[earlier] = index
        if earlier is not None:
            mirror(earlier, job)
        self._notify(job)

    def _notify(self, job: Job) -> None:
        for listener in list(self._listeners):
            listener(job)

    # As a collection.

    def _shaped(self, results: list[Any]) -> Any:
        return results

    def __repr__(self) -> str:
        counts = count_each(self.counts)
        telling = [job for job in self.made if job.outline.batch_counts and not job.done()]
        if telling:
            from bgmagic.jobs.export import batch_progress

            counts += f"; at the server {batch_progress(telling)}"
        return f"<JobGroup {self.name} {count_jobs(len(self._jobs))}: {counts}>"

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._displays.bundle(self), {}

    @property
    def board(self) -> Any:
        """The live display of all of them, an ordinary widget."""
        if self._board is None:
            self._board = self._displays.board(self)
        return self._board

    def __reduce__(self) -> NoReturn:
        raise BgmagicError(
            f"{self.name} is a group of live jobs and can't be pickled; pickle its answers: "
            f"{self.name}.result()"
        )

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class JobList(JobGroup, Sequence[Any]):
    """A group as a sequence."""

    def __len__(self) -> int:
        return len(self._jobs)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            jobs = [self.job(at) for at in range(*index.indices(len(self._jobs)))]
            return list(outcomes(jobs))
        return _outcome(self.job(index))

    def __iter__(self) -> Iterator[Any]:
        return outcomes(self.jobs)

    __hash__ = JobGroup.__hash__


class JobDict(JobGroup, Mapping[Any, Any]):
    """A group as a mapping; with several jobs an item, each value is the list of their answers."""

    def __init__(
        self,
        key: str,
        name: str,
        jobs: Sequence[Job | None],
        items: Sequence[Any] | None = None,
        *,
        displays: GroupDisplays,
        keys: Sequence[Any],
        several: bool = False,
        make: Callable[[int], Job] | None = None,
    ) -> None:
        """Make the group; ``keys`` has the key of each job's item, ``several`` whether an item has
        several jobs although one is here."""
        super().__init__(key, name, jobs, items, displays=displays, make=make)
        self._keys = keys
        self._more = several

    @cached_property
    def _places(self) -> dict[Any, list[int]]:
        places: dict[Any, list[int]] = {}
        for index, item in enumerate(self._keys):
            places.setdefault(item, []).append(index)
        return places

    @property
    def _several(self) -> bool:
        return self._more or len(self._places) < len(self._keys)

    def _shaped(self, results: list[Any]) -> Any:
        return {key: self._of(key, results) for key in self._places}

    def _of(self, key: Any, values: Sequence[Any]) -> Any:
        found = [values[index] for index in self._places[key]]
        return found if self._several else found[0]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._places)

    def __getitem__(self, key: Any) -> Any:
        found = [_outcome(self.job(index)) for index in self._places[key]]
        return found if self._several else found[0]

    __hash__ = JobGroup.__hash__
    __eq__ = JobGroup.__eq__


class GroupPlaces:
    """The places of a group's jobs; a `Variable` of each of them."""

    __slots__ = ("_group",)

    def __init__(self, group: JobGroup) -> None:
        self._group = group

    def assign(self, job: Job) -> None:
        """Nothing: the group has the job."""

    def replace(self, job: Job, successor: Job | Answer) -> None:
        """Put a ``successor`` that is a job there; an answer is read off its job."""
        if isinstance(successor, Job):
            self._group.replace_job(job, successor)


class ResentJobs(tuple[Job, ...]):
    """Jobs that were sent again; as the last line of a cell, one line however many they are."""

    def __repr__(self) -> str:
        return f"<{count_jobs(len(self))} sent again>"


class AsCompleted:
    """Jobs in the order in which they end."""

    def __init__(self, jobs: Sequence[Job], timeout: float | None) -> None:
        self._jobs = jobs
        self._timeout = timeout

    def __iter__(self) -> Iterator[Job]:
        yield from as_completed(self._jobs, self._timeout)

    async def __aiter__(self) -> AsyncIterator[Job]:
        async def ended(job: Job) -> Job:
            await _all_ended([job])
            return job

        tasks = [asyncio.ensure_future(ended(job)) for job in self._jobs]
        try:
            for task in asyncio.as_completed(tasks, timeout=self._timeout):
                yield await task
        finally:
            for left in tasks:
                left.cancel()


def _all_done(jobs: Sequence[Job]) -> bool:
    return all(job.done() for job in jobs)


async def _all_ended(jobs: Sequence[Job]) -> None:
    async def quietly(job: Job) -> None:
        with contextlib.suppress(JobError):  # raised by the caller, with all the others
            await job

    await asyncio.gather(*map(quietly, jobs))


def _outcome(job: Job) -> Job | Answer:
    return job.result(0) if job.done() and job.error is None else job


def _result(job: Job) -> Answer | BgmagicError:
    try:
        return job.error or job.result(0)
    except AnswerGone as gone:
        return gone


def _with_the_others(error: BgmagicError, failed: int, size: int) -> BgmagicError:
    others = f"{failed} of {size} jobs ended without an answer; .failed has them all"
    error.__notes__ = [others]
    return error
