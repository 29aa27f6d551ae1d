"""What is written into the journal when: a job's intent before its request is sent, the response
id before the first poll, the whole response before the variable is bound.

What the journal never took runs all the same; `trouble` says that it would not outlive this kernel.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from bgmagic.api import redaction
from bgmagic.api.pricing import Billing
from bgmagic.api.request import Request
from bgmagic.api.response import Usage
from bgmagic.api.server import ServerConfig
from bgmagic.concurrency import FutureWaiter
from bgmagic.errors import BgmagicError
from bgmagic.jobs.record import JobRecord, Status
from bgmagic.jobs.steps import with_all_usage
from bgmagic.storage import database, reader
from bgmagic.storage.database import JournalError, StoredJob, WriteDeferred
from bgmagic.storage.journal import Journal
from bgmagic.storage.live_rows import changed
from bgmagic.storage.owner_lock import BEAT, OwnerLock
from bgmagic.storage.reader import StoredResponses
from bgmagic.storage.retention import LARGE
from bgmagic.storage.search import JournalSearch

AT_ONCE = 25  # entries prepared in one go, about a millisecond
LET_OTHERS = functools.partial(asyncio.sleep, 0)  # the polls of others go on


class JobStore:
    """One process's entries in the journal; ``search`` finds them by the words in them."""

    def __init__(self, journal: Journal, owner: OwnerLock) -> None:
        self.journal = journal
        self.search = JournalSearch(journal)
        self.responses = StoredResponses(journal.given)
        self.may_be_remade = journal.live.may_be_remade  # the row of a job with this key
        self.owner = owner
        self._trouble: str | None = None
        self.on_unwritten: Callable[[str], object] = lambda why: None
        self._unwritten: set[str] = set()
        self.salted_keys: dict[tuple[str, ServerConfig], str] = {}
        self.landing = FutureWaiter()
        self._coming: dict[str, dict[str, Any]] = {}
        self._known_dead: frozenset[str] = frozenset()
        self.is_shared = owner.is_elsewhere("another")
        if self.is_shared:  # kernels of other hosts see no lock of this one
            journal.on_turn, journal.pause = owner.beat, BEAT

    @property
    def trouble(self) -> str | None:
        """One line for the user about what is wrong with the journal, or None."""
        return self.journal.trouble or self._trouble

    def buffer_until_inserted(self, record: JobRecord) -> None:
        """Buffer `update_soon` for this job until its row is inserted."""
        self._coming.setdefault(record.key, {})

    def expect(self, *keys: str) -> None:
        """Note that jobs are going to be inserted. From any thread."""
        self._unwritten.update(keys)

    async def insert(
        self, record: JobRecord, server: ServerConfig, interval: float | None, deadline: float
    ) -> None:
        """Write down that ``record``'s request is going to be sent."""
        await self.insert_all([record], server, interval, deadline)

    def is_stored(self, record: JobRecord) -> bool:
        """Whether the job's intent is on disk."""
        return record.key not in self._unwritten and not self.journal.is_unsaved(record.key)

    async def insert_all(
        self,
        records: Sequence[JobRecord],
        server: ServerConfig,
        interval: float | None,
        deadline: float,
        pause: Callable[[], Awaitable[None]] = LET_OTHERS,
    ) -> None:
        """Write down that the requests of a whole group are going to be sent: all or none."""
        keys = [record.key for record in records]
        self._unwritten.update(keys)
        try:
            self.owner.acquire()
        except BgmagicError as error:
            self._trouble = str(error)
        credentials = await self._known_credentials(server)
        entries = []
        for record in records:
            entries.append(self.row_of(record, server, interval, deadline, credentials))
            if len(entries) % AT_ONCE == 0:
                await pause()
        await self._added(self.journal.add(*entries), keys)

    async def _added(self, adding: Future[None], keys: Sequence[str]) -> None:
        try:
            await self.landing.wait(adding)
            taken = True
        except JournalError as error:
            taken = isinstance(error, WriteDeferred)
            self.on_unwritten(self.trouble or str(error))
        for key in keys:
            if taken:
                self._unwritten.discard(key)
            noted = self._coming.pop(key, None)
            if noted and key not in self._unwritten:
                self.journal.change(key, **noted)

    async def _known_credentials(self, server: ServerConfig) -> str:
        known = self.salted_keys.get((self.journal.known_salt or "", server))
        # Off the loop: a locked file is waited for.
        return known if known else await asyncio.to_thread(self.credentials, server)

    def row_of(
        self,
        record: JobRecord,
        server: ServerConfig,
        interval: float | None,
        deadline: float,
        credentials: str,
    ) -> StoredJob:
        """What the journal has of a job; ``credentials`` as `credentials` gives them."""
        request, sendable = redaction.kept_request(record.request, server.secrets)
        partial = redaction.hidden(record.partial, server.secrets) if record.partial else None
        return StoredJob(
            key=record.key,
            created_at=record.submitted_at,
            notebook=record.notebook,
            name=record.name if record.named else None,
            server=record.server,
            organization=server.organization,
            project=server.project,
            credentials=credentials,
            fingerprint=record.fingerprint,
            request=request,
            sendable=sendable and partial == record.partial,
            model=record.request.model,
            effort=record.request.effort,
            poll_interval=interval,
            deadline=deadline,
            status=record.status,
            owner=self.owner.id,
            response_id=record.response_id,
            accepted_at=record.accepted_at,
            ended_at=record.ended_at,
            reason=record.reason,
            cancelling=record.cancelling,
            draft=partial,
            billing=Billing.of(record.request).text,
            previous=_previous_text(record.request),
            batch=record.batch,
            over_budget=record.over_budget,
            rounds=_rounds_text(record, server),
            **database.position_columns(record.position, server.secrets),
        )

    async def update_request(self, record: JobRecord, server: ServerConfig) -> None:
        """Store the request that a partial prompt has become."""
        request, sendable = redaction.kept_request(record.request, server.secrets)
        await self.update(
            record,
            request=request,
            sendable=sendable,
            fingerprint=record.fingerprint,
            draft=None,
            billing=Billing.of(record.request).text,
            previous=_previous_text(record.request),
            rounds=_rounds_text(record, server),
        )

    async def update_rounds(self, record: JobRecord, server: ServerConfig, **others: Any) -> bool:
        """Write down the calls of functions, and what came of them; whether the file says so now.
        What the journal never took counts as written: the user was told."""
        await self.update(record, rounds=_rounds_text(record, server), **others)
        return not self.is_behind(record)

    def is_behind(self, record: JobRecord) -> bool:
        """Whether the file does not say yet what was written last of the job."""
        return record.key not in self._unwritten and self.journal.is_unsaved(record.key)

    async def claim(self, record: JobRecord, *, ours: bool) -> bool:
        """Whether the job may be sent now by this process, and by no other.

        Then the file says so, or it never had the job. What it has as waiting may not be sent ahead
        of it: after a crash the next kernel would send that again.

        Args:
            ours: whether it was submitted in this process.

        Raises:
            JournalError: the journal can't be written now; another try may do.
        """
        if record.key in self._unwritten:
            return ours
        claim = functools.partial(self.journal.claim, record.key, self.owner.id)
        if ours:  # of a job that was submitted here the owner is known
            if self.is_shared and self.owner.was_away:
                # Its user may have had it sent from another host meanwhile.
                entry = await asyncio.to_thread(self.find, record.key)
                later = [] if entry is None else await asyncio.to_thread(self.sent_elsewhere, entry)
                if later:
                    return False
            return await self.landing.wait(claim(()))
        return await self._take(claim)

    async def adopt(self, record: JobRecord, *, waits: bool = False) -> bool:
        """Whether this process may look after a job of another one.

        Args:
            waits: whether it still waits to be sent; else it was accepted.

        Raises:
            BgmagicError: the journal, or its folder, can't be written.
        """
        adopt = functools.partial(self.journal.adopt, record.key, self.owner.id, waits=waits)
        self.owner.acquire()
        return await self._take(adopt) or (not waits and await self._copy(record.key))

    async def _copy(self, key: str) -> bool:
        """Follow an accepted job of another host's file, which is not written here, in our own."""
        found = await asyncio.to_thread(self.journal.elsewhere, "WHERE key = :it", it=key)
        free = [entry for entry in found if entry.response_id and self.is_unowned(entry)]
        for entry in free[:1]:
            await self.landing.wait(self.journal.add(changed(entry, {"owner": self.owner.id})))
        return bool(free)

    async def _take(self, taking: Callable[[Collection[str]], Future[bool]]) -> bool:
        """Take a job from nobody or a dead owner: one known to be dead, else one found dead now."""
        if await self.landing.wait(taking(self._known_dead)):
            return True
        return await self.landing.wait(taking(await asyncio.to_thread(self._dead)))

    async def update(self, record: JobRecord, **changes: Any) -> bool:
        """Change the job's entry; returns, once that is over, whether it is committed."""
        return await self.is_committed(self.journal.change(record.key, **changes))

    async def end(
        self, record: JobRecord, server: ServerConfig, text: str, changes: Mapping[str, Any]
    ) -> bool:
        """Write down how a job ends; whether its response can be read here from now on, just so.

        Args:
            text: the response as JSON, if that is at hand.
            changes: what the record becomes.
        """
        kept = ("status", "ended_at", "started_at", "checked_at", "reason")
        written = {name: changes[name] for name in kept if name in changes}
        response, whole = changes.get("response"), False
        if response is not None:
            secrets = server.secrets
            written["response"], whole = redaction.kept_response(response, secrets, text)
            paid = with_all_usage(record.rounds, response)
            written["output_tokens"] = Usage.of(paid).output
            written["billing"] = Billing.of(record.request, paid).text
        return await self.update(record, **written) and whole and self.responses.has(record.key)

    def update_position(self, record: JobRecord, server: ServerConfig) -> None:
        """Store a job's new position in a group soon."""
        name = record.name if record.named else None
        self.update_soon(
            record, name=name, **database.position_columns(record.position, server.secrets)
        )

    def update_soon(self, record: JobRecord, **changes: Any) -> None:
        """Change the job's entry soon."""
        coming = self._coming.get(record.key)
        if coming is None:
            self.journal.change(record.key, **changes)
        else:
            coming.update(changes)

    def credentials(self, server: ServerConfig) -> str:
        """A fingerprint of the server's credentials, which does not give them away."""
        if server.is_local:
            return server.name  # its token is another after each start, its user is not
        salt = self.journal.salt  # another one after a damaged file was replaced
        if (salt, server) not in self.salted_keys:
            self.salted_keys[salt, server] = redaction.credentials_fingerprint(salt, server.api_key)
        return self.salted_keys[salt, server]

    def alive(self) -> set[str]:
        """The owners of open jobs whose kernels live."""
        here = self._owners_here()
        return here - self.owner.dead_owners(here) | self._elsewhere(silent=False)

    def is_unowned(self, entry: StoredJob) -> bool:
        """Whether no living kernel follows the job, or this one does."""
        return self.is_nobody(entry.owner)

    def is_nobody(self, owner: str | None) -> bool:
        """Whether this kernel may take what ``owner`` has."""
        if owner is not None and self.owner.is_elsewhere(owner):
            return self.owner.is_silent(owner)
        if owner in (None, self.owner.id) or owner in self._known_dead:
            return True
        return bool(self.owner.dead_owners({owner}))

    def available_owners(self) -> set[str | None]:
        """The owners whose open jobs this kernel may take; None is nobody."""
        return {None, self.owner.id, *self._dead(), *self._elsewhere(silent=True)}

    def is_elsewhere(self, entry: StoredJob) -> bool:
        """Whether a kernel on another host has the job, or had it."""
        return self.owner.is_elsewhere(entry.owner)

    def sent_elsewhere(self, entry: StoredJob) -> list[StoredJob]:
        """What asks the same as an unsent job and was sent later from another host."""
        values = {"it": entry.fingerprint, "notebook": entry.notebook, "at": entry.created_at}
        return self.journal.elsewhere(reader.SENT_LATER, **values)

    # Queries. What can't be read is empty, and `trouble` says so.

    def find(self, key_or_response_id: str) -> StoredJob | None:
        """The job with this key, or the newest one with this response id; None if there is none."""
        return self.journal.find(key_or_response_id)

    def meant(self, word: str, notebook: str) -> list[StoredJob]:
        """The jobs that ``word`` may mean, newest first, in one read.

        Of the jobs that have it as key or response id the newest; of those that have it as
        variable, and of those whose group has it, the newest of ``notebook`` and the newest of all.
        """
        return self.journal.select(reader.MEANT, word=word, notebook=notebook)

    def of_batch(self, batch_id: str) -> StoredJob | None:
        """A job of the batch that the server calls so, or None."""
        return next(iter(self.journal.select(reader.OF_BATCH, it=batch_id)), None)

    def listed(
        self, notebook: str | None, *, open_only: bool = False, limit: int = -1
    ) -> list[StoredJob]:
        """The jobs of a notebook, or of all for None, newest first, without request and response.

        Args:
            open_only: leave out those that have ended.
            limit: how many at most; -1 means all.
        """
        return self.journal.entries(notebook=notebook, open_only=open_only, limit=limit)

    def past(self, notebook: str | None, known: Collection[str]) -> list[StoredJob]:
        """The whole jobs of a notebook, or of all for None, oldest first.

        Args:
            known: the keys of the jobs to leave out.
        """
        return self.journal.select(reader.PAST, notebook=notebook, known=json.dumps(list(known)))

    def group(self, key: str) -> list[StoredJob]:
        """The jobs of a group by their index; of those with one index the oldest first."""
        return self.journal.select(reader.GROUP, group=key)

    def open_groups(self, name: str | None, notebook: str) -> list[StoredJob]:
        """The jobs, oldest first, of the groups of this variable in which a job is open."""
        return self.journal.select(reader.OPEN_GROUPS, name=name, notebook=notebook)

    def same_request(self, fingerprint: str, *, name: str | None, notebook: str) -> list[StoredJob]:
        """The open jobs with this fingerprint, oldest first.

        Args:
            name: of this variable; None means of any.
        """
        return self.journal.same(fingerprint, notebook=notebook, name=name)

    def completed(self, fingerprints: Collection[str]) -> list[StoredJob]:
        """The completed jobs with one of these fingerprints, oldest first."""
        return self.journal.select(reader.COMPLETED, fingerprints=json.dumps(list(fingerprints)))

    def partials(self) -> list[str]:
        """What is still to go into the requests of open jobs: JSON texts of partial prompts."""
        return [entry.draft for entry in self.journal.select(reader.DRAFTED) if entry.draft]

    def billed(self, since: float, known: Collection[str] = ()) -> list[StoredJob]:
        """The jobs, oldest first, that ended since then (seconds since the epoch) or are at the
        server now, without request and response; those of an older bgmagic are whole.

        Args:
            known: the keys of the jobs to leave out.
        """
        listed = json.dumps(list(known))
        found = self.journal.select(reader.BILLED, brief=True, since=since, known=listed)
        return [entry if entry.billing else self.find(entry.key) or entry for entry in found]

    def durations(self, server: str, model: str, effort: str | None) -> list[float]:
        """Seconds from acceptance to completion of the newest such jobs, at most 200."""
        return self.journal.durations(server, model, effort)

    def forget(self, keys: Collection[str]) -> Future[int]:
        """Delete those of these jobs that have ended, with their texts; gives how many."""
        self.responses.forget(keys)
        return self.search.forget_after(self.journal.forget(keys))

    def forget_before(self, at: float, needed: Collection[str]) -> Future[int]:
        """The same for all but the ``needed`` that ended before ``at``, by the wall clock."""
        return self.forget(set(self.journal.ended_before(at)).difference(needed))

    def is_large(self) -> bool:
        """Whether the journal has grown so that its user should know."""
        return self.journal.size() > LARGE

    def mark_unsendable(self, entry: StoredJob, reason: str, now: float) -> None:
        """End a job that was not sent, and that nobody can send, as failed."""
        told = f"not sent: {reason}"
        self.journal.change(entry.key, status=Status.FAILED, ended_at=now, reason=told)

    def close(self, timeout: float) -> None:
        """Commit what is queued, and let other kernels have what is open."""
        self.search.close()
        self.responses.close()
        self.journal.close(timeout)
        self.owner.release()

    def _dead(self) -> frozenset[str]:
        # Ids are used once: who is dead stays so.
        self._known_dead |= self.owner.dead_owners(self._owners_here())
        return self._known_dead

    def _owners_here(self) -> set[str]:
        others = self.journal.other_owners()
        return self.journal.owners() | {o for o in others if not self.owner.is_elsewhere(o)}

    def _elsewhere(self, *, silent: bool) -> set[str]:
        """The owners on other hosts that have been ``silent`` for long, or have not."""
        others = filter(self.owner.is_elsewhere, self.journal.other_owners())
        return {owner for owner in others if self.owner.is_silent(owner) == silent}

    async def is_committed(self, future: Future[Any]) -> bool:
        """Wait for a write of the journal; whether it is on disk."""
        try:
            await self.landing.wait(future)
        except JournalError:
            return False
        return True


def _previous_text(request: Request) -> str | None:
    return None if request.previous is None else request.previous.text


def _rounds_text(record: JobRecord, server: ServerConfig) -> str | None:
    return None if record.rounds is None else redaction.hidden(record.rounds.text, server.secrets)
