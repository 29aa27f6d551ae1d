"""How a job is to be carried: decided at submission, and the same until its end."""

from __future__ import annotations

from dataclasses import dataclass

from bgmagic.lane import Lane
from bgmagic.server import Server


@dataclass(frozen=True)
class Plan:
    """How a job is to be carried.

    Attributes:
        server: where it goes, and as whom.
        poll_interval: seconds between polls; None means soon at first, then every 10.
        deadline: seconds after acceptance at which watching ends, and after submission at which
            trying to send does.
        same_key: whether the server is asked with the credentials that it accepted the job with.
        lane: what the jobs of its group go to the server by, or None.
    """

    server: Server
    poll_interval: float | None
    deadline: float
    same_key: bool = True
    lane: Lane | None = None
