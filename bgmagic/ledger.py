"""What is written into the journal when: a job's intent before its request is sent, the response
id before the first poll, the whole response before the variable is bound.

Between the course of a job and the journal, which only stores. A journal that can't be written
stops no job; the promise that it outlives this kernel is off then, and `trouble` says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from bgmagic.errors import BgmagicError
from bgmagic.journal import Journal
from bgmagic.owners import Owner
from bgmagic.redaction import credentials_fingerprint, without_secrets
from bgmagic.request import Request
from bgmagic.server import Server
from bgmagic.status import JobRecord
from bgmagic.store import Entry, JournalError


class Ledger:
    """One process's entries in the journal."""

    def __init__(self, journal: Journal, owner: Owner) -> None:
        self.journal = journal
        self.owner = owner
        self._trouble: str | None = None
        self._unwritten: set[str] = set()
        self._prints: dict[tuple[str, Server], str] = {}

    @property
    def trouble(self) -> str | None:
        """One line for the user about what is wrong with the journal, or None."""
        return self.journal.trouble or self._trouble

    async def intend(
        self, record: JobRecord, server: Server, interval: float | None, deadline: float
    ) -> None:
        """Write down that ``record``'s request is going to be sent."""
        try:
            self.owner.hold()
        except BgmagicError as error:
            self._trouble = str(error)
        body, hidden = without_secrets(record.request.body, server.secrets)
        credentials = self._prints.get((self.journal.known_salt or "", server))
        if credentials is None:
            # Off the loop: a locked file is waited for.
            credentials = await asyncio.to_thread(self.credentials, server)
        entry = Entry(
            key=record.key,
            created_at=record.submitted_at,
            notebook=record.notebook,
            name=record.name if record.named else None,
            server=record.server,
            organization=server.organization,
            project=server.project,
            credentials=credentials,
            fingerprint=record.request.fingerprint(record.server),
            request=json.dumps(body, ensure_ascii=False) if hidden else record.request.text,
            sendable=not hidden,
            model=record.request.model,
            effort=record.request.effort,
            poll_interval=interval,
            deadline=deadline,
            status=record.status,
            owner=self.owner.id,
            response_id=record.response_id,
            accepted_at=record.accepted_at,
        )
        if not await self._done(self.journal.add(entry)):
            self._unwritten.add(record.key)

    async def claim(self, record: JobRecord, *, ours: bool) -> bool:
        """Whether the job may be sent now by this process, and by no other.

        Args:
            ours: whether it was submitted in this process; then it is sent even if the journal
                fails, since no other kernel takes it from a live one.
        """
        if record.key in self._unwritten:
            return ours
        try:
            # Of a job that was submitted here the owner is known.
            dead = set() if ours else await asyncio.to_thread(self._dead)
            return await asyncio.wrap_future(self.journal.claim(record.key, self.owner.id, dead))
        except JournalError:
            return ours

    async def adopt(self, record: JobRecord) -> bool:
        """Whether this process may follow a job that another one had accepted."""
        try:
            self.owner.hold()
            dead = await asyncio.to_thread(self._dead)
            return await asyncio.wrap_future(self.journal.adopt(record.key, self.owner.id, dead))
        except BgmagicError:
            return False

    async def write(self, record: JobRecord, **columns: Any) -> None:
        """Change the job's entry, and wait until that is committed or has failed."""
        await self._done(self.journal.change(record.key, **columns))

    def note(self, record: JobRecord, **columns: Any) -> None:
        """Change the job's entry soon."""
        self.journal.change(record.key, **columns)

    def texts(self, response: Mapping[str, Any] | None, server: Server) -> str | None:
        """A response as it may be kept: what the model wrote is not touched but for our secrets."""
        if response is None:
            return None
        about = {key: value for key, value in response.items() if key != "output"}
        clean, _ = without_secrets(about, server.secrets)
        text = json.dumps({**clean, "output": response.get("output")}, ensure_ascii=False)
        for secret in server.secrets:
            text = text.replace(json.dumps(secret, ensure_ascii=False)[1:-1], "[secret]")
        return text

    def credentials(self, server: Server) -> str:
        """What tells the server's credentials from others, without giving them away."""
        if server.isolated:
            return server.name  # its token is another after each start, its user is not
        salt = self.journal.salt  # another one after a damaged file was replaced
        if (salt, server) not in self._prints:
            self._prints[salt, server] = credentials_fingerprint(salt, server.api_key)
        return self._prints[salt, server]

    def alive(self) -> set[str]:
        """The owners of open jobs whose kernels live."""
        owners = self.journal.owners()
        return owners - self.owner.dead(owners)

    def free(self, entry: Entry) -> bool:
        """Whether no living kernel follows the job, or this one does."""
        return entry.owner in (None, self.owner.id) or entry.owner in self._dead()

    def close(self, timeout: float) -> None:
        """Commit what is queued, and let other kernels have what is open."""
        self.journal.close(timeout)
        self.owner.release()

    def _dead(self) -> set[str]:
        return self.owner.dead(self.journal.owners())

    async def _done(self, future: Future[Any]) -> bool:
        try:
            await asyncio.wrap_future(future)
        except JournalError:
            return False
        return True


def record_of(entry: Entry) -> JobRecord:
    """What the journal knows of a job, as a record."""
    return JobRecord(
        key=entry.key,
        request=Request(entry.request),
        server=entry.server,
        submitted_at=entry.created_at,
        name=entry.name,
        named=entry.name is not None,
        notebook=entry.notebook,
        status=entry.status,
        accepted_at=entry.accepted_at,
        started_at=entry.started_at,
        checked_at=entry.checked_at,
        ended_at=entry.ended_at,
        response_id=entry.response_id,
        response=None if entry.response is None else json.loads(entry.response),
        reason=entry.reason,
        cancelling=entry.cancelling,
    )
