"""The blocks of code in what a model wrote, as the parser that draws them finds them."""

from __future__ import annotations

from dataclasses import dataclass

from bgmagic.rendering.parser import LONGEST, parse, unfenced


@dataclass(frozen=True)
class CodeBlock:
    """A block of code of an answer; ``str`` of it is its text.

    Attributes:
        text: the code, without a line break at its end.
        language: the word that stands after the fence, as "python", or "".
    """

    text: str
    language: str = ""

    def __str__(self) -> str:
        return self.text


def language_of(info: str) -> str:
    """The language that the words after a fence name: "python" of "{.python} title=x"; or ""."""
    return (info.split() or [""])[0].strip("{}.")


def code_blocks(text: str) -> tuple[CodeBlock, ...]:
    """The fenced and the indented blocks of code in ``text``, Markdown, in order; never raises.

    Those within lists and quotes too, and one whose fence is not closed. What stands beyond
    `LONGEST` characters is not looked at, as it is not drawn as Markdown either.
    """
    try:
        tokens = parse(unfenced(text.replace("\r\n", "\n").replace("\r", "\n"))[:LONGEST])
    except Exception:  # an answer that was paid for can be used, whatever a library makes of it
        return ()
    return tuple(
        CodeBlock(token.content.removesuffix("\n"), language_of(token.info))
        for token in tokens
        if token.type in ("fence", "code_block")
    )
