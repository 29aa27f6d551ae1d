r"""Formulas as MathML, for pages that typeset nothing, such as HTML outputs in VS Code.

latex2mathml reads TeX: in Python alone, so that no formula can end the kernel. It does not say what
it doesn't know, and knows MathML 3, of which browsers draw the part called Core. So its tree is
built again here, of elements and attributes that are all written here; a formula in which something
else was found has no MathML.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bgmagic.rendering.escaping import code_text
from bgmagic.rendering.math import displayed, for_mathjax, inside

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_ELEMENTS = {
    *("math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mstyle", "mphantom", "mpadded"),
    *("mfrac", "msqrt", "mroot", "msub", "msup", "msubsup", "munder", "mover", "munderover"),
    *("mtable", "mtr", "mtd"),
}
# How many children these must have.
_PARTS = {
    **dict.fromkeys(("mfrac", "mroot", "msub", "msup", "munder", "mover"), 2),
    **dict.fromkeys(("msubsup", "munderover"), 3),
}
_LENGTH = re.compile(r"[-+]?\d*\.?\d{1,4}(?:em|ex|mu|pt|px|mm)?")
_WORDS = re.compile("true|false|prefix|infix|postfix|block|inline")
_ATTRIBUTES = {
    **dict.fromkeys(("linethickness", "lspace", "rspace", "width", "minsize", "maxsize"), _LENGTH),
    **dict.fromkeys(("height", "depth", "voffset"), _LENGTH),
    "scriptlevel": re.compile("[0-3]"),
    **dict.fromkeys(("stretchy", "fence", "separator", "accent", "movablelimits"), _WORDS),
    **dict.fromkeys(("displaystyle", "form", "display"), _WORDS),
}
# What browsers draw by CSS alone.
_FONTS = {
    "normal": "",
    "bold": "font-weight: bold",
    "italic": "font-style: italic",
    "bold-italic": "font-weight: bold; font-style: italic",
    "sans-serif": "font-family: sans-serif",
    "monospace": "font-family: monospace",
}
_SPACES = {"thinmathspace": "0.167em", "negativethinmathspace": "-0.167em"}
# How it gives the one letter of \mathrm{d}.
_UPRIGHT = re.compile("&#x000(?:4[1-9A-F]|5[0-9A]|6[1-9A-F]|7[0-9A]);")
_LINES = {"solid": "1px solid", "dashed": "1px dashed", "none": ""}
_HANDLED = {"xmlns", "mathvariant", "columnalign", "columnlines", "rowlines"}
_HANDLED |= {"rowspacing", "columnspacing", "notation"}

# Environments that latex2mathml doesn't know, by those that look like them.
_LIKE = {
    **dict.fromkeys(("aligned", "align", "split", "alignat", "alignat*", "alignedat"), "align*"),
    **dict.fromkeys(("eqnarray", "eqnarray*"), "align*"),
    **dict.fromkeys(("gather", "gather*", "gathered", "multline", "multline*"), "matrix"),
    "dcases": "cases",
    "equation": "",
    "equation*": "",
}
_ENVIRONMENT = re.compile(
    r"\\(begin|end)\{([A-Za-z]+\*?)\}"
    r"((?:\[[tbc]\])?(?:(?<=at\})\{\d\}|(?<=at\*\})\{\d\}|(?<=at\}\[.\])\{\d\})?)"
)
_REPLACED = (
    (re.compile(r"(?<!\\)((?:\\\\)+)\*?\s*\[[^\]]{0,9}\]"), r"\1"),  # gaps between rows
    (re.compile(r"\\(?:nonumber|notag)(?![A-Za-z])"), ""),
    (re.compile(r"\\arg(?![A-Za-z])"), r"\\operatorname{arg}"),
    (re.compile(r"\\tag(?=\{)"), r"\\qquad\\tag"),
)
_OPERATOR = re.compile(r"\\operatorname\*?\{([^{}]*)\}")
_MIXED = re.compile(r"\\text\{([^{}$]*\$[^{}]*)\}")
# Operators below which a limit stands where there is room.
_LIMITED = {
    *("lim", "max", "min", "sup", "inf", "argmax", "argmin", "liminf", "limsup", "Pr", "det"),
}
_UNKNOWN = re.compile(r"\\[A-Za-z]|\A&\Z")


def to_mathml(formula: str) -> str:
    """``formula``, TeX with its delimiters, as a ``<math>`` element; "" if that can't be said.

    It never raises. The formula must be one that may be typeset (`math.typesettable`).
    """
    from latex2mathml.converter import convert_to_element

    display = "block" if displayed(formula) else "inline"
    try:
        tree = convert_to_element(_known(inside(for_mathjax(formula))), display=display)
        return "".join(_built(tree, display == "block"))
    except Exception:  # of its many kinds (exceptions.py), and what hostile TeX brings about
        return ""


def _known(tex: str) -> str:
    """``tex`` in the words that latex2mathml knows."""
    tex = _MIXED.sub(_unmixed, tex)
    tex = _OPERATOR.sub(_operator, tex)
    tex = _ENVIRONMENT.sub(_environment, tex)
    for pattern, replaced in _REPLACED:
        tex = pattern.sub(replaced, tex)
    return tex


def _unmixed(found: re.Match[str]) -> str:
    """Words and the formulas in them, one after another."""
    parts = found[1].split("$")
    if "\\$" in found[1] or len(parts) % 2 == 0:
        return found.group()
    words = ["\\text{" + part + "}" for part in parts[::2]]
    return "{" + " ".join(map(" ".join, zip(words, [*parts[1::2], ""], strict=True))) + "}"


def _operator(found: re.Match[str]) -> str:
    r"""An operator with the spaces of its name as characters: at ``\,`` it would be taken apart."""
    return "\\operatorname{" + re.sub(r"\\[,; ]", "\u2009", found[1]) + "}"


def _environment(found: re.Match[str]) -> str:
    if found[2] not in _LIKE:
        return found.group()
    name = _LIKE[found[2]]
    return f"\\{found[1]}{{{name}}}" if name else ""


def _built(node: Element, display: bool, style: str = "") -> Iterator[str]:
    tag = node.tag
    if tag == "menclose" and node.get("notation") == "box":
        tag, style = "mrow", "border: 1px solid; padding: 0.2em"
    if tag not in _ELEMENTS or len(node) != _PARTS.get(tag, len(node)):
        raise ValueError(tag)
    if tag == "msub" and display and re.sub(r"\s", "", "".join(node[0].itertext())) in _LIMITED:
        tag = "munder"
    yield f"<{tag}{_attributes(node, style)}>"
    if node.text:
        yield _text(node.text, tag)
    if tag == "mtable":
        yield from _rows(node, display)
    else:
        for child in node:
            yield from _built(child, display)
    yield f"</{tag}>"


def _attributes(node: Element, style: str) -> str:
    variant = node.get("mathvariant", "normal")
    font = "" if node.tag == "mi" and variant == "script" else _FONTS[variant]
    upright = "mathvariant" in node.attrib and variant == "normal"
    shown = (
        ' mathvariant="normal"'
        if upright or (node.tag == "mi" and _UPRIGHT.fullmatch(node.text or ""))
        else ""
    )
    if node.tag == "mo" and node.text == "&#x0007C;" and "form" not in node.attrib:
        shown += ' lspace="0" rspace="0"'  # P(A|B); browsers would put wide spaces there
    for name, value in node.attrib.items():
        if name in _HANDLED:
            continue
        length = _SPACES.get(value, value)
        if not _ATTRIBUTES[name].fullmatch(length):
            raise ValueError(name)
        shown += f' {name}="{length}"'
    said = "; ".join(filter(None, (style, font)))
    return f'{shown} style="{said}"' if said else shown


def _rows(table: Element, display: bool) -> Iterator[str]:
    """The rows of ``table``: browsers align cells and draw lines between them by CSS alone."""
    pairs = table.get("displaystyle") == "true"  # a left side and a right side, without a gap
    down, across = table.get("columnlines", "").split(), table.get("rowlines", "").split()
    for row, cells in enumerate(table):
        yield "<mtr>"
        for column, cell in enumerate(cells):
            styles = [
                _side("right", down, column, len(cells)),
                _side("bottom", across, row, len(table)),
            ]
            side = cell.get("columnalign")
            if side in ("left", "right"):
                styles.append(f"text-align: {side}" + (f"; padding-{side}: 0" if pairs else ""))
            yield from _built(cell, display, "; ".join(filter(None, styles)))
        yield "</mtr>"


def _side(side: str, lines: list[str], place: int, number: int) -> str:
    if not lines or place >= number - 1:
        return ""
    line = _LINES[lines[min(place, len(lines) - 1)]]
    return f"border-{side}: {line}" if line else ""


def _text(text: str, tag: str) -> str:
    shown = html.unescape(text)
    if (tag == "mtext" and "$" in shown) or (tag != "mtext" and _UNKNOWN.search(shown)):
        raise ValueError(shown)
    return code_text(shown)
