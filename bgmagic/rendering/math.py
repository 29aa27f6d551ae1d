r"""Formulas in a model's text: where they are, and which may be left for MathJax to typeset.

MathJax can do more than formulas: link, style, load, redefine what another formula means. So a
formula is typeset only if all its commands are on a list of harmless ones, and is shown as its
source otherwise; a command that MathJax learns in years to come is not on it. How either looks, and
the place of the rules among those of Markdown, is left to markdown.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bgmagic.rendering.escaping import visible

if TYPE_CHECKING:
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline

# A formula that is longer, in characters or lines, or deeper in braces, is shown as its source.
LONGEST, LINES, DEEPEST = 5_000, 200, 30
# How many formulas of a text are typeset: each costs the browser about a millisecond.
MOST = 2_000


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Harmless, without arguments that are anything but formulas. Left out are those that define
# (\def, \let, \newcommand), link, style, name or load (\href, \style, \class, \cssId, \data,
# \require, \label), put boxes over others (\smash, \llap, \kern, \raise, \rule, \bbox), take
# another syntax (\verb, \char, \unicode, \mmlToken, \csname), or are all-purpose like these.
_COMMANDS = _words("""
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa varkappa lambda mu
    nu xi omicron pi varpi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega digamma
    Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega varGamma varDelta varTheta varLambda
    varPi varSigma varPhi varPsi varOmega aleph beth gimel daleth hbar hslash ell wp Re Im imath
    jmath partial nabla infty emptyset varnothing forall exists nexists neg lnot top bot angle
    measuredangle triangle square blacksquare Box Diamond lozenge bigstar prime backprime flat sharp
    natural clubsuit diamondsuit heartsuit spadesuit surd complement eth mho checkmark degree dagger
    ddagger dag ddag S P copyright pounds sum prod coprod int iint iiint iiiint oint bigcap bigcup
    bigsqcup bigvee bigwedge bigodot bigoplus bigotimes biguplus limits nolimits pm mp times div
    cdot ast star circ bullet cap cup uplus sqcap sqcup vee wedge lor land setminus smallsetminus wr
    oplus ominus otimes oslash odot boxplus boxminus boxtimes boxdot amalg ltimes rtimes
    bowtie Join leq le geq ge ll gg lll ggg leqslant geqslant lesssim gtrsim lessgtr gtrless prec
    succ preceq succeq precsim succsim sim simeq approx approxeq cong equiv doteq asymp propto
    varpropto neq ne nleq ngeq nless ngtr nsim ncong subset supset subseteq supseteq subsetneq
    supsetneq nsubseteq nsupseteq sqsubset sqsupset sqsubseteq sqsupseteq in ni notin owns mid nmid
    parallel nparallel perp vdash dashv vDash Vdash models nvdash nvDash smile frown between
    therefore because triangleq coloneqq eqqcolon vartriangle triangleleft triangleright
    trianglelefteq trianglerighteq unlhd unrhd bigtriangleup bigtriangledown to gets leftarrow
    rightarrow leftrightarrow Leftarrow Rightarrow Leftrightarrow longleftarrow longrightarrow
    longleftrightarrow Longleftarrow Longrightarrow Longleftrightarrow mapsto longmapsto
    hookleftarrow hookrightarrow uparrow downarrow updownarrow Uparrow Downarrow Updownarrow nearrow
    searrow swarrow nwarrow leftharpoonup leftharpoondown rightharpoonup rightharpoondown
    rightleftharpoons leftrightharpoons leftrightarrows rightleftarrows twoheadrightarrow
    rightrightarrows leftleftarrows rightsquigarrow leadsto circlearrowleft circlearrowright
    curvearrowleft curvearrowright nleftarrow nrightarrow nRightarrow nLeftarrow implies impliedby
    iff xleftarrow xrightarrow ldots cdots vdots ddots dots dotsc dotsb dotsm dotsi colon ldotp
    cdotp arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf injlim
    ker lg lim liminf limsup ln log max min Pr projlim sec sin sinh sup tan tanh varlimsup varliminf
    bmod pmod mod pod hat widehat check widecheck tilde widetilde acute grave dot ddot dddot breve
    bar vec mathring overline underline overbrace underbrace overrightarrow overleftarrow
    overleftrightarrow underrightarrow underleftarrow overset underset stackrel substack sideset
    frac dfrac tfrac cfrac binom dbinom tbinom over choose atop brace brack sqrt left right
    middle big Big bigg Bigg bigl bigr bigm Bigl Bigr Bigm biggl biggr biggm Biggl Biggr Biggm
    langle rangle lfloor rfloor lceil rceil lbrace rbrace lbrack rbrack lvert rvert lVert rVert vert
    Vert backslash lgroup rgroup lmoustache rmoustache ulcorner urcorner llcorner lrcorner mathrm
    mathbf mathit mathsf mathtt mathcal mathbb mathfrak mathscr mathnormal boldsymbol pmb rm bf it
    sf tt cal displaystyle textstyle scriptstyle scriptscriptstyle mathop mathrel mathbin mathord
    mathopen mathclose mathpunct mathinner quad qquad enspace thinspace space nobreakspace boxed
    cancel bcancel xcancel phantom not hline hdashline newline nonumber notag bra ket braket
""")
# After a backslash: spaces, signs, and the end of a row.
_SIGNS = frozenset(" ,;:!>{}|\\_%$#&/")
_ENVIRONMENTS = _words("""
    align align* aligned alignat alignat* alignedat array bmatrix Bmatrix cases dcases eqnarray
    eqnarray* equation equation* gather gather* gathered matrix multline multline* pmatrix rcases
    smallmatrix split vmatrix Vmatrix
""")
_POSITION = r"(?:\[[tbc]\])?"
_PAIRS = re.compile(_POSITION + r"\{\d\}")
_COLUMNS = {
    "array": re.compile(_POSITION + r"\{[lcr|: ]{0,40}\}"),
    "alignat": _PAIRS,
    "alignat*": _PAIRS,
    "alignedat": _PAIRS,
}
# A distance, never negative.
_SMALL = r"(?:[1-3]?\d|\d?\.\d{1,2}) ?(?:em|ex|mu|pt|px|mm)"
# Commands whose argument is no formula, and how it must look. MathJax takes some of these apart by
# rules of their own, so that what reads as two commands could become another one.
_ATOMS = "[A-Za-z0-9()+^_. =<>*-]"
_ARGUMENTS = {
    "hspace": re.compile(rf"\{{{_SMALL}\}}"),
    "tag": re.compile(r"\{[A-Za-z0-9 .,*'′-]{0,40}\}"),
    "operatorname": re.compile(r"\*?\{(?:[A-Za-z0-9 .*-]|\\[,; ]){0,40}\}"),
    "ce": re.compile(rf"\{{(?:{_ATOMS}|\{{{_ATOMS}{{0,40}}\}}){{0,200}}\}}"),
}
_WORDS = _words("text textrm textbf textit textsf texttt textnormal mbox")
# The commands that MathJax 3.2.2 takes within those words, of all that are here; others are errors.
_WITHIN_WORDS = _words("""
    dag ddag dagger ddagger copyright pounds bf it rm sf tt cal enspace thinspace quad qquad
    langle rangle lbrace rbrace lbrack rbrack lvert rvert lVert rVert vert Vert
""")
# What MathJax 3.2.2, as JupyterLab ships it, does not know, by what it draws.
_DRAWN_BY = {
    "dag": "†", "ddag": "‡", "P": "¶", "copyright": "©", "pounds": "£", "/": "{}",
    "widecheck": "\\check",
}  # fmt: skip
# Where it takes no tag, one of an equation's number.
_INNER = re.compile(r"\\begin\{(?:aligned|alignedat|split|gathered)\}")
_TAG = re.compile(r"(?<!\\)((?:\\\\)*)\\tag\{([^{}]*)\}")
_MOST_PULLS = 20  # \! draws together; many of them would draw text over other text

_TOKEN = re.compile(r"\\([A-Za-z]+|.)|[{}$%]", re.DOTALL)
_NAME = re.compile(r"\{([A-Za-z]+\*?)\}")
_ROW_GAP = re.compile(r"\*?\s*\[")
_ROW_SMALL = re.compile(rf"\*?\s*\[{_SMALL}\]")
_BRACED = re.compile(r"\s*\{")


def typesettable(formula: str) -> bool:
    """Whether MathJax may have ``formula``, given with its delimiters.

    It may if every command is on the list, braces are balanced, and nothing is a comment, in which
    MathJax and we might see different things.
    """
    if len(formula) > LONGEST or visible(formula) != formula:
        return False
    start, end = _inside(formula)
    depth, words, again = 0, -1, False  # words: how deep the \text is that we are in
    for token in _TOKEN.finditer(formula, start, end):
        sign = token.group()
        if sign == "{":
            depth += 1
        elif sign == "}":
            depth -= 1
            if depth == words:
                words = -1
        elif sign == "%" or (sign == "$" and words < 0):
            return False
        elif sign == "$":
            again = not again  # a formula within words
        else:
            if not _harmless(formula, token, within_words=words >= 0 and not again):
                return False
            if token[1] in _WORDS and words < 0:
                words = depth
        if not 0 <= depth <= DEEPEST:
            return False
    return depth == 0 and not again and formula.count("\\!") <= _MOST_PULLS


def for_mathjax(formula: str) -> str:
    """``formula`` without what MathJax 3.2.2 doesn't take: some commands, tags in some places."""
    if _INNER.search(formula) or ("\\begin" not in formula and formula.count("\\tag") > 1):
        formula = _TAG.sub(r"\1\\qquad\\text{(\2)}", formula)
    return _TOKEN.sub(lambda token: _DRAWN_BY.get(token[1] or "", token.group()), formula)


def inside(formula: str) -> str:
    """``formula`` without its delimiters; an environment is its own."""
    start, end = _inside(formula)
    return formula[start:end]


def displayed(formula: str) -> bool:
    """Whether ``formula``, given with its delimiters, stands on lines of its own."""
    return formula.startswith(("$$", "\\[", "\\begin"))


def _inside(formula: str) -> tuple[int, int]:
    if formula.startswith("\\begin"):
        return 0, len(formula)
    width = 1 if formula[0] == "$" and formula[1] != "$" else 2
    return width, len(formula) - width


def _harmless(formula: str, token: re.Match[str], *, within_words: bool) -> bool:
    """Whether the command ``token`` of ``formula`` is, with what follows it."""
    name, after = token[1], token.end()
    if name in ("begin", "end"):
        return _environment(formula, after, columns=name == "begin")
    if name in _ARGUMENTS:
        return _ARGUMENTS[name].match(formula, after) is not None
    if name in _WORDS:
        return _BRACED.match(formula, after) is not None
    if name == "\\":
        gap = _ROW_GAP.match(formula, after)
        return not within_words and (gap is None or bool(_ROW_SMALL.match(formula, after)))
    if within_words and len(name) > 1:
        return name in _WITHIN_WORDS
    return name in _COMMANDS or name in _SIGNS


def _environment(formula: str, at: int, *, columns: bool) -> bool:
    found = _NAME.match(formula, at)
    if found is None or found[1] not in _ENVIRONMENTS:
        return False
    expected = _COLUMNS.get(found[1]) if columns else None
    return expected is None or expected.match(formula, found.end()) is not None


# What opens, closes, escapes or nests. A formula ends where MathJax would end it: at the first
# closing delimiter that is not within braces of the formula's.
_MARK = re.compile(r"\\.|\$+|[{}]", re.DOTALL)
_CLOSING = {"$": "$", "$$": "$$", "\\(": "\\)", "\\[": "\\]"}
_PRICE = re.compile(r"\d[\d.,]*[KMBkmb]?\W*\s[^\\={}^_+]*[A-Za-z]{2}")
# Between two dollars with spaces inside: what says nothing of whether these are words; a word,
# which is longer where there are signs of a formula (mc^2), or what no formula has; and what
# follows a price.
_TEX = re.compile(r"\\[A-Za-z]+|\{[^{}]*\}")
_WORD = re.compile(r"[^\W\d_]{2}|[^\W\d_A-Za-z\u0370-\u03ff]|[€£¥₹]")
_LONG_WORD = re.compile(_WORD.pattern.replace("{2}", "{3}"))
_AFTER_PRICE = re.compile(r"[-–—/,;.(&]\s*\Z")


def formulas(text: str) -> dict[int, int]:
    r"""Where formulas in ``text`` start and end: ``$…$``, ``$$…$$``, ``\(…\)`` and ``\[…\]``.

    Each start is looked at for itself, as if no other were one: the caller reads from the left, and
    knows what else (code, say) takes a start or an end away. A single dollar opens before what is
    no space, closes after what is no space and before no digit, as in Pandoc; and a number with
    words after it is a price. ``$ x $`` is a formula where there are letters and no words in it.
    Linear in the text's length: one pass, from the end.

    mdit-py-plugins does not do: its dollarmath takes "$5 here and 10$" for a formula
    (test_prices_are_no_formulas), its texmath and amsmath take time that grows with the square of
    the text's length (test_nesting_does_not_hang), and tables need the places before it is parsed.
    """
    found: dict[int, int] = {}
    nearest: dict[tuple[str, int], int | None] = {}  # by delimiter and depth in braces
    depth = 0
    for mark in reversed(list(_MARK.finditer(text))):
        sign, at = mark.group(), mark.start()
        if sign == "}":
            depth += 1
            for closing in _CLOSING.values():
                nearest.pop((closing, depth), None)
        elif sign == "{":
            depth -= 1
        if sign in _CLOSING:
            end = nearest.get((_CLOSING[sign], depth))
            if end is not None and end - at <= LONGEST and _delimited(text, at, end, sign):
                found[at] = end
            nearest[(_CLOSING[sign], depth)] = mark.end() if sign[0] == "$" else None
        elif sign in _CLOSING.values():
            nearest[(sign, depth)] = mark.end()
    return found


def _delimited(text: str, at: int, end: int, sign: str) -> bool:
    inside = text[at + len(sign) : end - len(sign)]
    if not inside.strip() or "`" in inside:  # a formula has no code in it
        return False
    if sign != "$":
        return True
    if text[end : end + 1].isdigit() or text[max(0, at - 1) : at].isalnum():
        return False
    if inside[0].isspace() and inside[-1].isspace():
        return _without_words(inside)
    return not inside[0].isspace() and not inside[-1].isspace() and not _PRICE.match(inside)


def _without_words(inside: str) -> bool:
    """Whether ``inside`` has letters or commands, and no words, as what stands between prices."""
    word = _LONG_WORD if re.search(r"[\\^=]", inside) else _WORD
    if word.search(_TEX.sub(" 0 ", inside)) or _AFTER_PRICE.search(inside):
        return False
    return re.search(r"[^\W\d_]|\\", inside) is not None


class Formulas:
    """What one text's formulas have used up of `MOST`, and where they are in its parts."""

    def __init__(self) -> None:
        self._left = MOST
        self._known: dict[str, dict[int, int]] = {}

    def inline(self, state: StateInline, silent: bool) -> bool:
        """Markdown's inline rule for a formula."""
        if state.src[state.pos] not in "$\\":
            return False
        if state.src not in self._known:
            self._known[state.src] = formulas(state.src)
        end = self._known[state.src].get(state.pos)
        if end is None or end > state.posMax:
            return False
        if not silent:
            token = state.push("math_inline", "", 0)
            token.content = state.src[state.pos : end]
            token.hidden = not self._take(token.content)
        state.pos = end
        return True

    def block(self, state: StateBlock, start: int, end: int, silent: bool) -> bool:
        """Markdown's block rule for a formula on lines of its own."""
        if state.is_code_block(start):
            return False
        last = _last_line(state, start, min(end, start + LINES))
        if last is None:
            return False
        formula = state.getLines(start, last + 1, state.blkIndent, False).strip()
        if not formula.startswith("\\begin") and formulas(formula).get(0) != len(formula):
            return False
        if not silent:
            token = state.push("math_block", "", 0)
            token.content, token.map = formula, [start, last + 1]
            token.hidden = not self._take(formula)
            state.line = last + 1
        return True

    def _take(self, formula: str) -> bool:
        self._left -= 1
        return self._left >= 0 and typesettable(formula)


_OPENING = re.compile(r"\$\$(?!\$)|\\\[|\\begin\{([A-Za-z]+\*?)\}")


def _last_line(state: StateBlock, start: int, end: int) -> int | None:
    """The line on which the formula ends that starts the line ``start``, if one does."""
    lines = _lines(state, start, end)
    first = next(lines, "")
    opening = _OPENING.match(first)
    if opening is None or (opening[1] is not None and opening[1] not in _ENVIRONMENTS):
        return None
    closing = f"\\end{{{opening[1]}}}" if opening[1] else _CLOSING[opening.group()]
    if first.endswith(closing) and len(first) >= opening.end() + len(closing):
        return start
    # A second opening shows that the first was none; so no line is read again and again.
    again = re.compile(r"(?<!\\)" + re.escape(opening.group()))
    if again.search(first, opening.end()):
        return None
    for number, line in enumerate(lines, start + 1):
        if line.endswith(closing):
            return number
        if not line or again.search(line):
            return None
    return None


def _lines(state: StateBlock, start: int, end: int) -> Iterator[str]:
    for number in range(start, end):
        if number > start and state.sCount[number] < state.blkIndent:
            return
        at = state.bMarks[number] + state.tShift[number]
        yield state.src[at : state.eMarks[number]].rstrip()
