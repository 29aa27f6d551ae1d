"""What an answer has beside its text: the blocks of code in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bgmagic.rendering.code import CodeBlock


class Artifacts:
    """The part of an `Answer` that is worked out when it is asked for; itself a ``str``."""

    @property
    def code(self) -> tuple[CodeBlock, ...]:
        """The blocks of code in the text, in order, each with ``.text`` and ``.language``."""
        from bgmagic.rendering.code import code_blocks  # most answers are only read

        return code_blocks(str(self))
