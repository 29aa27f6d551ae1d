"""All that the fault tests import of the package's inner modules."""

from __future__ import annotations

import os
import signal
from typing import Any


def trouble_of_session() -> str | None:
    """What this process tells its user about the journal, or None."""
    from bgmagic.submission.app import app

    return app.manager.store.trouble


def bound_answers(size: int) -> None:
    """Let answers of servers have at most so many bytes, on the wire and unpacked."""
    from bgmagic.runtime import watcher
    from bgmagic.transport import bounded

    bounded.BODY = watcher.PREVIEW_SIZE = size


def stop_before_posting() -> None:
    """Suspend this process between the claim of its next job and its POST."""
    from bgmagic.transport.client import ResponsesClient

    create = ResponsesClient.create

    async def stopped(*given: Any) -> Any:
        ResponsesClient.create = create  # type: ignore[method-assign]
        os.kill(os.getpid(), signal.SIGSTOP)
        return await create(*given)

    ResponsesClient.create = stopped  # type: ignore[method-assign]
