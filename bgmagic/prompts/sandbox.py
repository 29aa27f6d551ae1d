"""What an expression between ``{{`` and ``}}`` may do: read, and make no more than a prompt holds.

Jinja's sandbox, with three rules of its own. A column or key goes before an attribute. Only what
is known to read is called: Python's functions of `expressions`, and methods by the lists below.
Whatever makes something longer (``*``, ``**``, ``%``, ``center`` …) has a bound.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import itertools
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from bgmagic.prompts.arrays import MOST_TEXT
from bgmagic.prompts.items import MISSING, columns_of, part_of
from bgmagic.prompts.tables import root_of
from bgmagic.text import kind_of


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PADDING = _names("center ljust rjust zfill expandtabs")
OF_TEXT = PADDING | _names(
    """
    capitalize casefold count encode endswith find format format_map index isalnum isalpha
    isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper
    join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit
    rstrip split splitlines startswith strip swapcase title upper decode hex
    """
)
OF_DICTS = _names("get items keys values most_common total")
OF_LISTS = _names("count index")
OF_SETS = _names(
    """
    difference intersection isdisjoint issubset issuperset symmetric_difference union
    """
)
OF_NUMBERS = _names("as_integer_ratio bit_count bit_length conjugate is_integer")
OF_DATES = _names(
    """
    astimezone date day_name isocalendar isoformat isoweekday month_name normalize strftime time
    timestamp timetz total_seconds tzname utcoffset weekday
    """
)
# Of tables, columns, arrays, graphs and models: none changes what it is called on.
OF_LIBRARIES = OF_DATES | _names(
    """
    abs all any argmax argmin argsort as_py as_text between collect columns compute conf_int
    conj copy_to_host corr count cov cummax cummin cumprod cumsum cpu degree describe detach df
    diagonal diff drop drop_duplicates drop_nulls dropna duplicated edges fetchall fill_null fillna
    first flatten get get_column get_group get_params group_by groupby has_edge has_node head
    idxmax idxmin is_duplicated is_in is_not_null is_null is_unique isel isin isna isnull item
    items iter_rows iterrows itertuples keys last len limit m_as max mean median min mode
    model_dump model_dump_json n_unique neighbors nlargest nodes nonzero notna notnull nsmallest
    null_count number_of_edges number_of_nodes numpy nunique pct_change pl predecessors prod ptp
    quantile rank ravel rename reset_index round row rows sel select select_dtypes sem set_index
    size slice sort_by sort_index sort_values squeeze std successors sum summary summary2 tail
    to to_base_units to_csv to_dict to_dicts to_frame to_html to_json to_latex to_list
    to_markdown to_numpy to_pandas to_polars to_pylist to_series to_string to_table to_value
    toPandas toarray todense tolist top_k transpose unique value_counts values var write_csv
    write_json xs
    """
)
LIBRARIES = _names(
    """
    altair astropy bgmagic cudf cupy cupyx dask duckdb _duckdb geopandas ibis jax jaxlib modin
    narwhals networkx numba numpy pandas pint plotly polars pyarrow pydantic pyspark scipy shapely
    sklearn statsmodels torch xarray
    """
)
# These give text, or write where they are given a place.
WRITERS = _names("to_csv to_html to_json to_latex to_markdown to_string write_csv write_json")
CHANGING = _names("buf excel_writer file filename fname in_place inplace out path path_or_buf")

KINDS: tuple[tuple[Any, frozenset[str]], ...] = (
    (str | bytes, OF_TEXT),
    (Mapping, OF_DICTS),
    (Set, OF_SETS),
    (Sequence, OF_LISTS),
    (int | float | complex | decimal.Decimal, OF_NUMBERS),
    (datetime.date | datetime.time | datetime.timedelta, OF_DATES),
    (re.Match, frozenset({"group", "groups", "groupdict", "start", "end", "span"})),
)


def reads(called: Any, owner: Any, name: str) -> bool:
    """Whether ``called``, the method ``name`` of ``owner``, only reads."""
    if isinstance(called, type) or isinstance(owner, type):
        return False
    if owner is None:
        # Views of networkx are called to choose what they show: g.nodes(data=True).
        return "networkx" in root_of(called) and type(called).__name__.endswith("View")
    for kind, names in KINDS:
        if isinstance(owner, kind) and name in names:
            return True
    roots = root_of(owner)
    if not roots & LIBRARIES:
        return False
    of_text = type(owner).__name__ in ("StringMethods", "StringNameSpace")
    if roots & {"duckdb", "_duckdb"}:  # others take SQL, which may do anything
        return name in ("df", "fetchall", "limit", "pl")
    if name == "round" and "astropy" in roots:  # a table's, in place
        return False
    # NumPy sorts in place, too.
    sorts = name == "sort" and bool(roots & {"polars", "narwhals"})
    return sorts or name in (OF_TEXT - PADDING if of_text else OF_LIBRARIES)


MOST_ITEMS = 1_000_000
MOST_BITS = 100_000  # of a whole number: 30,000 digits
WIDEST = 10_000  # to which a text is filled up
DEEPEST = 100  # characters by which JSON is indented
MOST_COPIED = 10**11  # characters: 2 s


class ReadingEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's environment of expressions."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        """Make the environment in which ``functions`` can be called."""
        super().__init__(undefined=jinja2.StrictUndefined)
        self.globals.clear()
        self.globals.update(functions)
        self.globals["sum"] = _summed
        self.filters.update(_filters(self.filters))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``obj.attribute``: a column or key of that name, else the attribute."""
        part = part_of(obj, attribute)
        if part is not MISSING:
            return part
        names = columns_of(obj)
        if names is None or hasattr(obj, attribute):
            return super().getattr(obj, attribute)
        # Without trying obj[attribute]: a defaultdict would make it.
        return self.undefined(hint=_no_column(obj, attribute, names), obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[argument]``; a number, as in ``item.2024``, may be a column's name, too."""
        part = part_of(obj, argument) if isinstance(argument, int) else MISSING
        if part is not MISSING:
            return part
        if isinstance(obj, defaultdict) and argument not in obj:
            return self.undefined(hint=_no_column(obj, argument, obj), obj=obj, name=argument)
        return super().getitem(obj, argument)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what only reads."""
        if isinstance(__obj, jinja2.Undefined):
            str(__obj)  # raises, and says what is undefined
        args = tuple(_listed(arg) if isinstance(arg, Iterator) else arg for arg in args)
        refused = __self._refusal(__obj, args, kwargs)
        if refused:
            raise SecurityError(refused)
        return __context.call(__obj, *args, **kwargs)

    def _refusal(self, called: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        if not callable(called):
            return (
                f"{kind_of(called)} can't be called; a column goes before a method of its name, "
                "which can be called in a cell"
            )
        name = str(getattr(called, "__name__", None) or type(called).__name__)
        aside = f"expressions only read: call it in a cell, y = …{name}(…), and put in {{{{ y }}}}"
        given = [*args, *kwargs.values()]
        ours = list(self.globals.values())
        if any(callable(value) and not _data(value) and value not in ours for value in given):
            return f"{name} was given a function; {aside}"
        if any(called is function for function in ours):
            return ""
        owner = _owner(called)
        if not reads(called, owner, name):
            return f"{name} can't be called here; {aside}"
        writes = name in WRITERS and bool(args)
        arrays = "numpy" in root_of(owner) and any("numpy" in root_of(value) for value in args)
        if writes or arrays or kwargs.keys() & CHANGING:
            return f"{name} would write; {aside}"
        return _too_long(owner, name, args)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operator, unless what it makes is too long."""
        _check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Any:
        """``str.format``, without widths that fill up to more than a prompt holds."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        @functools.wraps(wrapped)
        def narrow(*args: Any, **kwargs: Any) -> str:
            named = value.__name__ == "format_map" and len(args) == 1
            given: Any = ((), args[0]) if named else (args, kwargs)
            return _NarrowFormatter(self).vformat(value.__self__, *given)

        return narrow


class _NarrowFormatter(SandboxedFormatter):
    made = 0  # characters of the fields so far

    def format_field(self, value: Any, format_spec: str) -> str:
        if re.search(r"\d{5}", format_spec):
            raise SecurityError(f"a width in this format is above {WIDEST:,}")
        text = str(super().format_field(value, format_spec))
        self.made += len(text)
        _check_made(self.made)
        return text


def _data(value: Any) -> bool:
    # Symbols of sympy can be called, and are values.
    return not isinstance(value, type) and type(value).__module__.startswith("sympy.")


def _owner(called: Any) -> Any:
    """What a method, decorated or not, belongs to."""
    while not hasattr(called, "__self__") and hasattr(called, "__wrapped__"):
        called = called.__wrapped__
    return getattr(called, "__self__", None)


def _no_column(value: Any, name: str, names: Any) -> str:
    kind = "row" if type(value).__name__ in ("Row", "Series", "dict") else type(value).__name__
    shown = [str(column) for column in itertools.islice(names, 8)]
    odd = next((column for column in names if not str(column).isidentifier()), None)
    written = "" if odd is None else f"; a name that is no word is written item[{_quoted(odd)}]"
    return f"the {kind} has no column {name!r}; it has {', '.join(shown)}{written}"


def _quoted(name: Any) -> str:
    return ", ".join(map(repr, name)) if isinstance(name, tuple) else repr(name)


# Bounds.


def _too_long(owner: Any, name: str, args: Sequence[Any]) -> str:
    if not isinstance(owner, str | bytes):
        return ""
    size = 0
    if name in PADDING:
        if any(isinstance(value, int) and value > WIDEST for value in args):
            return f"{name} fills up to at most {WIDEST:,} characters"
        if name == "expandtabs":
            tab: Any = "\t" if isinstance(owner, str) else b"\t"
            size = len(owner) + owner.count(tab) * max([8, *args])
    elif name == "replace" and len(args) >= 2:
        size = len(owner) + owner.count(args[0]) * len(args[1])
    elif name == "join" and args and isinstance(args[0], Sequence):
        size = sum(len(part) + len(owner) for part in args[0] if isinstance(part, str))
    return _size_refusal(size) if size > MOST_TEXT else ""


def _size_refusal(size: int) -> str:
    return (
        f"this makes {size // 10**6:,} MB of text; at most {MOST_TEXT // 10**6} MB go into a prompt"
    )


def _check_made(size: int) -> None:
    if size > MOST_TEXT:
        raise SecurityError(_size_refusal(size))


# A name in a format; it may have parentheses of its own, as "price (EUR)" has.
_NAMED = re.compile(r"%\(((?:[^()]|\([^()]*\))*)\)")


def _check_operator(operator: str, left: Any, right: Any) -> None:
    whole = isinstance(left, int) and isinstance(right, int)
    if operator == "**" and whole and right > 0 and left.bit_length() * right > MOST_BITS:
        raise SecurityError("this number has more digits than a prompt needs")
    if operator == "*" and whole and left.bit_length() + right.bit_length() > MOST_BITS:
        raise SecurityError("this number has more digits than a prompt needs")
    if operator == "%" and isinstance(left, str | bytes):
        text = left if isinstance(left, str) else left.decode("latin-1")
        if re.search(r"%(\([^)]*\))?[^a-zA-Z%(]*(\d{5}|\*)", text):
            raise SecurityError(
                f"a width in this format is more than {WIDEST:,}, or not written out"
            )
        values = right if isinstance(right, tuple) else (right,)
        if isinstance(right, Mapping):  # each is put in as often as it is named
            values = tuple(map(right.get, _NAMED.findall(text)))
        _check_made(sum(len(value) for value in values if isinstance(value, str)))
    if operator == "*":
        _check_repeated(*((right, left) if isinstance(left, int) else (left, right)))
    _check_broadcast(left, right)


def _check_repeated(value: Any, times: Any) -> None:
    if not isinstance(times, int) or not isinstance(value, str | bytes | Sequence):
        return
    size = len(value) * times
    if isinstance(value, str | bytes):
        _check_made(size)
    elif size > MOST_ITEMS:
        raise SecurityError(f"this makes {size:,} items; at most {MOST_ITEMS:,} go into a prompt")


def _check_broadcast(left: Any, right: Any) -> None:
    numpy: Any = sys.modules.get("numpy")
    shapes = getattr(left, "shape", ()), getattr(right, "shape", ())
    if numpy is None or not all(isinstance(shape, tuple) and shape for shape in shapes):
        return
    try:
        size = math.prod(numpy.broadcast_shapes(*shapes))
    except ValueError:  # the library says so itself
        return
    if size > MOST_TEXT:
        raise SecurityError(f"this makes {size:,} numbers; at most {MOST_TEXT:,} go into a prompt")


def _filters(filters: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Jinja's filters that make something longer, each with its bound."""
    made: dict[str, Callable[..., Any]] = {
        name: _narrow(name, filters[name]) for name in ("center", "indent", "batch", "slice")
    }
    narrow_indent, wrapped = made["indent"], filters["wordwrap"]

    def replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
        told = str(text)
        _check_made(len(told) + told.count(str(old)) * len(str(new)))
        return told.replace(str(old), str(new), -1 if count is None else count)

    @jinja2.pass_environment
    def join(environment: Any, value: Any, d: Any = "", attribute: str | int | None = None) -> str:
        part = make_attrgetter(environment, attribute) if attribute is not None else _itself
        told, size = [], 0
        for item in _ended(value):
            told.append(str(part(item)))
            size += len(told[-1]) + len(str(d))
            _check_made(size)
        return str(d).join(told)

    def formatted(text: Any, /, *args: Any, **kwargs: Any) -> str:
        if args and kwargs:
            raise jinja2.exceptions.FilterArgumentError("give values by place or by name, not both")
        _check_operator("%", str(text), kwargs or args)
        return str(text) % (kwargs or args)

    def indent(
        s: Any, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:  # the names of Jinja's own
        told = str(s)
        _check_made(len(told) + (told.count("\n") + 1) * _width(width))
        return str(narrow_indent(told, width, first, blank))

    # Jinja's own escapes for HTML, which is not what a model should read.
    def tojson(value: Any, indent: int | str | None = None, **rest: Any) -> str:
        if _width(indent) > DEEPEST:
            raise SecurityError(f"tojson indents by at most {DEEPEST} here")
        return json.dumps(value, indent=indent, **{"ensure_ascii": False} | rest)

    @jinja2.pass_environment
    def wordwrap(
        environment: Any, s: Any, width: int = 79, break_long_words: bool = True,
        wrapstring: str | None = None, break_on_hyphens: bool = True,
    ) -> str:  # fmt: skip
        told = str(s)
        _check_wrapped(told, width, len(wrapstring or "\n"), breaks=break_long_words)
        given = width, break_long_words, wrapstring, break_on_hyphens
        return str(wrapped(environment, told, *given))

    @jinja2.pass_environment
    def sum_(environment: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
        part = make_attrgetter(environment, attribute) if attribute is not None else _itself
        return _summed(map(part, iterable), start)

    made |= {"replace": replace, "join": join, "format": formatted, "indent": indent}
    return made | {"list": _listed, "tojson": tojson, "wordwrap": wordwrap, "sum": sum_}


def _width(given: Any) -> int:
    return given if isinstance(given, int) else len(given or "")


def _check_wrapped(text: str, width: int, between: int, *, breaks: bool) -> None:
    """Check that a text can be wrapped with ``between`` characters after each line. Of a word that
    is too long for a line Python copies what is left with each line."""
    narrow, words = max(width, 1), text.split()
    longest = max(map(len, words), default=0)
    if breaks and longest * longest // narrow > MOST_COPIED:
        raise SecurityError(
            f"a word of {longest:,} characters takes too long to wrap to {width}: make the lines "
            "longer, or put in a part of it"
        )
    _check_made((len(words) + len(text) // narrow + text.count("\n") + text.count("-")) * between)


def _summed(values: Any, /, start: Any = 0) -> Any:
    """Python's sum; of lists as one list, where Python copies with each all that came before."""
    if not isinstance(start, list | tuple):
        return sum(values, start)
    made: list[Any] = list(start)
    for part in values:
        if not isinstance(part, type(start)):
            return start + part  # raises, and says why
        made += part
        if len(made) > MOST_ITEMS:
            raise SecurityError(f"this makes more than {MOST_ITEMS:,} items")
    return made if isinstance(start, list) else tuple(made)


def _listed(value: Any) -> list[Any]:
    return list(_ended(value))


def _ended(value: Any) -> Iterator[Any]:
    """The items of ``value``, which is refused where it has too many, or never ends."""
    items = iter(value)
    yield from itertools.islice(items, MOST_ITEMS)
    for _ in items:
        raise SecurityError(f"this has more than {MOST_ITEMS:,} items, or never ends")


def _itself(value: Any) -> Any:
    return value


def _narrow(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(filter_)
    def narrow(*args: Any, **kwargs: Any) -> Any:
        numbers = [v for v in [*args[1:], *kwargs.values()] if isinstance(v, int)]
        if any(number > WIDEST for number in numbers):
            raise SecurityError(f"{name} takes at most {WIDEST:,} here")
        return filter_(*args, **kwargs)

    return narrow
