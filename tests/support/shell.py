"""A notebook's shell without IPython: variables in a dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bgmagic.jobs.job import Job


@dataclass
class DictVariable:
    """A name in a dict, as a notebook's variable."""

    namespace: dict[str, Any]
    name: str

    def assign(self, job: Job) -> None:
        self.namespace[self.name] = job

    def replace(self, job: Job, successor: Any) -> None:
        if self.namespace.get(self.name) is job:
            self.namespace[self.name] = successor


@dataclass
class FakeShell:
    """What the app needs of a notebook, over ``namespace``."""

    namespace: dict[str, Any] = field(default_factory=dict)
    notebook: str = ""
    configured: dict[str, Any] = field(default_factory=dict)

    def defaults(self) -> Mapping[str, Any]:
        return self.configured

    def notebook_path(self) -> str:
        return self.notebook

    def variable(self, name: str) -> DictVariable:
        return DictVariable(self.namespace, name)

    def function(self, name: str) -> Any:
        return self.namespace.get(name)

    def can_ask(self) -> bool:
        return True

    def on_main_thread(self) -> None:
        return None

    def bind(self, name: str, value: Any) -> None:
        self.namespace[name] = value
