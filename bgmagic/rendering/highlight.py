"""Code as coloured HTML, in the colours of the Jupyter theme around it.

Pygments reads the code, and is imported when the first code with a known language is met. The
block around the code is made in markdown.py.
"""

from __future__ import annotations

import functools
from itertools import groupby
from typing import TYPE_CHECKING, Any

from bgmagic.rendering.escaping import code_text

if TYPE_CHECKING:
    from pygments.lexer import Lexer

# Characters. Some of Pygments' patterns take time that grows with the square of a text's length, so
# only code that a person might read is coloured, and of one text so much.
LONGEST, LONGEST_LINE, MOST = 10_000, 1_000, 100_000

# By Pygments' names. Not all of them: some lexers never end on some text, some (for Markdown and
# other documents) choose a further lexer by what the text says, and an unknown name would load
# what other packages have registered.
_NAMES = """
    python py python3 py3 pycon javascript js typescript ts json yaml toml ini html xml css
    sql bash sh shell zsh console kotlin swift go rust rs r julia jl ruby rb perl lua scala haskell
    hs matlab octave fortran latex tex diff make makefile docker dockerfile powershell
"""

# Those that Pygments reads in quadratic time: 20 s for 5,000 empty lines of C, 80 s for 10,000
# words of C# (Pygments 2.21). These are read by `_curly`.
_CURLY_NAMES = "c h cpp c++ cc hpp csharp c# cs java"

_CURLY_KEYWORDS = """
    abstract alignas alignof as async auto await base break case catch class concept const constexpr
    continue co_await co_return co_yield decltype default delegate delete do else enum event
    explicit export extends extern final finally fixed for foreach friend get goto if implements
    implicit
    import in inline instanceof interface internal is lock mutable namespace native new noexcept
    operator out override package params permits private protected public readonly record ref
    register requires restrict return sealed set sizeof stackalloc static static_assert struct super
    switch synchronized template this throw throws transient try typedef typeid typename union using
    var virtual void volatile when while with yield
"""

_CURLY_TYPES = """
    bool boolean byte char decimal double dynamic float int long object sbyte short signed string
    uint ulong unsigned ushort wchar_t
"""

_CURLY_CONSTANTS = "false null nullptr true NULL"

_CURLY = frozenset(_CURLY_NAMES.split())

LANGUAGES = frozenset(_NAMES.split()) | _CURLY

# Pygments' kinds of token, the more special first: the variable of JupyterLab's own editor, and a
# colour that can be read on white and on black where there is no Jupyter theme.
_COLOURS = (
    ("Token.Comment.Preproc", "meta", "#a65fd6"),
    ("Token.Comment", "comment", "#408080"),
    ("Token.Keyword.Constant", "atom", "#7777ee"),
    ("Token.Keyword", "keyword", "#168a16"),
    ("Token.Operator.Word", "keyword", "#168a16"),
    ("Token.Operator", "operator", "#a65fd6"),
    ("Token.Literal.String", "string", "#d0453e"),
    ("Token.Literal.Number", "number", "#168a16"),
    ("Token.Name.Builtin", "builtin", "#168a16"),
    ("Token.Name.Function", "def", "#4477ee"),
    ("Token.Name.Class", "def", "#4477ee"),
    ("Token.Name.Decorator", "meta", "#a65fd6"),
    ("Token.Name.Exception", "builtin", "#168a16"),
    ("Token.Name.Tag", "tag", "#168a16"),
    ("Token.Name.Attribute", "attribute", "#4477ee"),
    ("Token.Name.Constant", "atom", "#7777ee"),
    ("Token.Generic.Deleted", "string", "#d0453e"),
    ("Token.Generic.Inserted", "number", "#168a16"),
    ("Token.Generic.Heading", "header", "#4477ee"),
    ("Token.Generic.Subheading", "header", "#4477ee"),
    ("Token.Generic.Prompt", "comment", "#408080"),
    ("Token.Generic.Output", "comment", "#408080"),
)


def highlighted(code: str, language: str) -> str:
    """``code`` as HTML for the inside of ``<code>``.

    Each token is coloured by one of JupyterLab's variables (theme-light-extension's and
    theme-dark-extension's ``--jp-mirror-editor-…``), in a style attribute, since a page that
    shows the notebook need not have any of our CSS. Without a language that we know, and when the
    code is too long for one that somebody reads, it is all of one colour.
    """
    name = language.lower()
    if name not in LANGUAGES or not readable_size(code):
        return code_text(code)
    runs = groupby(_lexer(name).get_tokens(code), key=lambda token: _style(str(token[0])))
    return "".join(_run(style, "".join(text for _, text in tokens)) for style, tokens in runs)


def readable_size(code: str) -> bool:
    """Whether ``code`` is short enough to be coloured, as a whole and in each line."""
    return len(code) <= LONGEST and max(map(len, code.split("\n"))) <= LONGEST_LINE


@functools.cache
def _lexer(name: str) -> Lexer:
    from pygments.lexers import get_lexer_by_name

    # As it is: Pygments would else take line breaks away, and add one.
    options: dict[str, Any] = {"stripnl": False, "ensurenl": False}
    return _curly()(**options) if name in _CURLY else get_lexer_by_name(name, **options)


@functools.cache
def _curly() -> type[Lexer]:
    """A lexer for the languages with C's signs, in which no pattern reads further than its match.

    It knows the keywords of all of them at once, and of a name only whether it is called.
    """
    from pygments import token
    from pygments.lexer import RegexLexer, words

    def known(names: str) -> words:
        return words(names.split(), prefix=r"\b", suffix=r"\b")

    rules = [
        (r"\s+", token.Whitespace),
        (r"//[^\n]*", token.Comment),
        (r"/\*[^*]*(?:\*(?!/)[^*]*)*(?:\*/)?", token.Comment),
        (r"#[^\n]*", token.Comment.Preproc),
        (r"[@$]*\"(?:\\.|[^\"\\\n])*\"?", token.String),
        (r"'(?:\\.|[^'\\\n])*'?", token.String),
        (r"@[A-Za-z_]\w*", token.Name.Decorator),
        (r"\d[\w.]*", token.Number),
        (known(_CURLY_CONSTANTS), token.Keyword.Constant),
        (known(_CURLY_TYPES), token.Keyword.Type),
        (known(_CURLY_KEYWORDS), token.Keyword),
        (r"[A-Za-z_]\w*(?=\()", token.Name.Function),
        (r"[^\W\d]\w*", token.Name),
        (r"[-+*/%=<>!&|^~?:]+", token.Operator),
        (r"[^\w\s]", token.Punctuation),
    ]
    return type("Curly", (RegexLexer,), {"name": "Curly", "tokens": {"root": rules}})


def _style(kind: str) -> str:
    for prefix, variable, colour in _COLOURS:
        if kind.startswith(prefix):
            slanted = "; font-style: italic" if variable == "comment" else ""
            return f"color: var(--jp-mirror-editor-{variable}-color, {colour}){slanted}"
    return ""


def _run(style: str, text: str) -> str:
    if not style or not text.strip():
        return code_text(text)
    return f'<span style="{style}">{code_text(text)}</span>'
