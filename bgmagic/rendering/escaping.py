"""Text of a model's as HTML text, with nothing in it that a browser or MathJax could act on.

What is a formula and may be typeset is decided in math.py, what is Markdown in markdown.py.
"""

from __future__ import annotations

import functools
import html
import re


@functools.cache
def _hidden() -> re.Pattern[str]:
    # Controls but tab and newline, lone surrogates (no UTF-8 can hold them), what is no character,
    # and what Unicode lists as Bidi_Control: with these a text reads in another order than it is
    # written. Compiled with the first text, which takes 0.5 ms.
    return re.compile(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufff9-\ufffb\ufffe\uffff"
        "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
    )


_STARTS_MATH = re.compile(r"[\\$]")


def visible(text: str) -> str:
    """``text`` with a visible sign for each character that would act without being seen.

    A control character becomes its picture of Unicode's block U+2400, one that changes the
    direction its number, as in ‹U+202E›, and what is no character U+FFFD.
    """
    return _hidden().sub(_sign, text)


def _sign(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    # Not in brackets: those would mean something in Markdown.
    return "\ufffd" if code < 0xA0 or code >= 0xD800 else f"‹U+{code:04X}›"


def code_text(text: str) -> str:
    """``text`` for the inside of ``<code>`` or an attribute, which MathJax does not look into."""
    return html.escape(visible(text))


def inline_text(text: str) -> str:
    r"""``text`` for anywhere in HTML; nothing of it is typeset.

    Each ``\`` and ``$`` is alone in an element: MathJax, which would otherwise find formulas,
    environments and references in any text, does not read on from one element to the next. It
    does so over ``<br>``, ``<wbr>`` and comments (HTMLDomStrings in 3, tex2jax in 2).
    """
    return _STARTS_MATH.sub(r"<span>\g<0></span>", code_text(text))
