"""The blocks of code of an answer: the same that are drawn as such."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.rendering.markdown import to_html
from bgmagic.rendering.parser import code_blocks

BLOCKS = [
    ("no code, `inline` only", []),
    ("```python\nprint(1)\n```", [("python", "print(1)")]),
    ("a\n\n~~~ {.r}\nx <- 1\n\n~~~\nb\n\n    indented\n", [("r", "x <- 1\n"), ("", "indented")]),
    ("- item\n\n  ```sh\n  ls\n  ```\n\n> ```\n> quoted\n> ```", [("sh", "ls"), ("", "quoted")]),
    ("````md\n```py\nx\n```\n````\nand", [("md", "```py\nx\n```")]),
    ("```markdown\nText\n```py\nx\n```\n```", [("py", "x")]),  # an answer within a fence
    ("```js title=a\nunclosed\n", [("js", "unclosed")]),
    ("```\r\na\r\nb\r\n```", [("", "a\nb")]),
    ("``` ```", []),
    ("```\n```", [("", "")]),
]


@pytest.mark.parametrize(("text", "expected"), BLOCKS)
def test_blocks(text: str, expected: list[tuple[str, str]]) -> None:
    """Fences of both kinds, nested, indented, unclosed and within lists and quotes, with their languages."""
    assert [(block.language, block.text) for block in code_blocks(text)] == expected


@given(st.text("`~\n py>-#$|\\[]1", max_size=60))
def test_as_many_as_are_drawn(text: str) -> None:
    """Whatever Markdown: what is drawn as code is what is given, in the same order; of several lines it
    stands in a field too, in which all of it can be selected alone without a script."""
    made = to_html(text, fold=False)
    drawn = re.findall(r'<pre dir="ltr".*?</pre>', made, re.DOTALL)
    shown = [html.unescape(re.sub(r"<[^>]*>", "", one)).removesuffix("\n") for one in drawn]
    assert [block.text.replace("\t", " ") for block in code_blocks(text)] == shown
    fields = re.findall(r"<textarea [^>]*>\n(.*?)</textarea>", made, re.DOTALL)
    several = [block.text for block in code_blocks(text) if "\n" in block.text]
    assert [html.unescape(field) for field in fields] == several
