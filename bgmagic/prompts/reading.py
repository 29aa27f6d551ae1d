"""The methods that expressions may call: each only reads what it is called on.

Jinja's sandbox allows whatever is not known to be unsafe; here it is the other way round.
"""

from __future__ import annotations

import datetime
import decimal
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from bgmagic.prompts.tables import root_of


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
    conj corr count cov cummax cummin cumprod cumsum cpu degree describe detach df diagonal diff
    drop drop_duplicates drop_nulls dropna duplicated edges fetchall fill_null fillna
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
    altair astropy bgmagic cudf dask duckdb _duckdb geopandas ibis modin narwhals networkx numpy
    pandas pint plotly polars pyarrow pydantic pyspark scipy shapely sklearn statsmodels torch
    xarray
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
