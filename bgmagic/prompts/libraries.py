"""Objects of scientific libraries as simpler values, and those that no text can stand for.

Each reader goes one step: a graph becomes a dict of nodes and edges, a quantity a number with its
unit; what that holds is read as any other value. Libraries are told by the packages that a
value's classes come from: none is imported here. No `str` that leaves things out is called.
"""

from __future__ import annotations

import base64
import functools
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bgmagic.errors import BadInput
from bgmagic.prompts.arrays import (
    ON_DEVICE,
    Line,
    Measured,
    array_of,
    check_count,
    check_size,
    duration_words,
    numbers_of,
    on_device,
    wide_type,
)
from bgmagic.prompts.tables import cells_of, is_missing, root_of
from bgmagic.text import kind_of

UNREAD = object()  # a reader's "not mine"


def simplified(value: Any) -> Any:
    """``value`` one step simpler, or `UNREAD` where no library is known that it belongs to.

    Raises:
        BadInput: it has no text that is whole; the message names the way out.
    """
    roots = root_of(value)
    refused = refusal(value)
    if refused:
        raise BadInput(refused)
    for root in roots:
        simpler = _READERS[root](value) if root in _READERS else UNREAD
        if simpler is not UNREAD:
            return simpler
    return _array_like(value)


_CHART = "is a chart: save it as an image for --file"

# What is refused, by the package and the name of a class, and what to put in instead.
_REFUSED: Mapping[tuple[str, str], str] = {
    ("polars", "LazyFrame"): "holds a query, not its rows; put in its .collect()",
    ("narwhals", "LazyFrame"): "holds a query, not its rows; put in its .collect()",
    ("polars", "Expr"): "holds no values; put in what .select() gives",
    ("dask", "DaskMethodsMixin"): "holds a plan, not its values; put in its .compute()",
    ("dask", "FrameBase"): "holds a plan, not its values; put in its .compute()",
    ("dask", "Array"): "holds a plan, not its values; put in its .compute()",
    ("dask", "Delayed"): "holds a plan, not its values; put in its .compute()",
    ("pyspark", "DataFrame"): "holds a query, not its rows; put in its .toPandas()",
    ("ibis", "Expr"): "holds a query, not its values; put in its .to_pandas()",
    ("pyarrow", "Dataset"): "holds files, not their rows; put in its .to_table()",
    ("pyarrow", "RecordBatchReader"): "can be read once only; put in its .read_all()",
    ("pandas", "NDFrameIndexerBase"): "holds no values; give it rows and columns",
    ("pandas", "BaseGroupBy"): "holds groups, not values; put in its .mean(), .size() or the like",
    ("pandas", "Styler"): "is a picture of a table; put in its .data",
    ("sklearn", "BaseEstimator"): "has no whole text; put in its .get_params()",
    ("altair", "TopLevelMixin"): f"{_CHART}, or put in its .to_dict()",
    # Its to_dict() has all of the template, too.
    ("plotly", "BaseFigure"): f"{_CHART}, or put in its .data",
    ("bokeh", "Model"): _CHART,
    ("holoviews", "Dimensioned"): _CHART,
    ("matplotlib", "Artist"): "is a drawing: --file $NAME attaches its figure as an image",
    ("PIL", "Image"): "has no text of its own; --file $NAME attaches it as an image",
    ("statsmodels", "Results"): "has no text of its own; put in its .summary()",
    ("statsmodels", "ResultsWrapper"): "has no text of its own; put in its .summary()",
    ("statsmodels", "Model"): "is not fitted; put in its .fit().summary()",
    ("torch", "Module"): "has no whole text; put in its .state_dict()",
    ("torch", "UntypedStorage"): "holds bytes; put in a tensor of it",
    ("torch", "TypedStorage"): "holds bytes; put in a tensor of it",
    ("jax", "JAXSparse"): "has no whole text; put in its .todense()",
    ("astropy", "SkyCoord"): "has no whole text; put in its .to_table()",
    ("numpy", "poly1d"): "has no whole text; put in its .coeffs",
    ("numpy", "ABCPolyBase"): "has no whole text; put in its .coef",
}


def refusal(value: Any) -> str:
    """Why ``value`` can't go in, and what can in its place; "" if nothing is known against it."""
    roots = root_of(value)
    if callable(getattr(type(value), "savefig", None)):
        return f"{kind_of(value)} has no text of its own; --file $NAME attaches an image"
    names = {(c.__module__.partition(".")[0], c.__name__) for c in type(value).__mro__}
    if roots & _REFUSERS and not ("ibis" in roots and type(value).__name__ == "Table"):
        for key in names & _REFUSED.keys():
            return f"{kind_of(value)} {_REFUSED[key]}"
    return ""


_REFUSERS = {package for package, _ in _REFUSED}


# Readers, one a library.


def _of_pandas(value: Any) -> Any:
    if is_missing(value):
        return None
    name = type(value).__name__
    if name == "Timedelta":
        # In nanoseconds, whatever unit it has; None if there are too many for 64 bits.
        return duration_words(int(value.as_unit("ns").value), 10**9)
    if name in ("Timestamp", "Period", "Interval"):
        return str(value)
    return UNREAD


def _of_pyarrow(value: Any) -> Any:
    if type(value).__name__.endswith("Scalar") and hasattr(value, "as_py"):
        return value.as_py()
    if hasattr(value, "to_pylist") and hasattr(value, "type") and hasattr(value, "null_count"):
        chunked = value if hasattr(value, "chunks") else sys.modules["pyarrow"].chunked_array(value)
        return cells_of(chunked)
    return UNREAD


def _of_numpy(value: Any) -> Any:
    numpy: Any = sys.modules["numpy"]
    if isinstance(value, numpy.generic | numpy.ndarray):
        unit = getattr(value, "units", None)  # of subclasses, as unyt's
        array = value if isinstance(value, numpy.ndarray) else numpy.asarray(value)
        return array_of(array) if unit is None else _measured(numpy.asarray(value), str(unit))
    return str(value) if isinstance(value, numpy.dtype) else UNREAD


def _array_like(value: Any) -> Any:
    """What other libraries call an array: it has a type and a shape, and gives a NumPy array."""
    kind = type(value)
    if "numpy" not in sys.modules or isinstance(value, type):
        return UNREAD
    if callable(getattr(kind, "__array__", None)):
        known = hasattr(value, "dtype") and hasattr(value, "shape")
        return sys.modules["numpy"].asarray(value) if known else UNREAD
    return on_device(value) if any(hasattr(kind, name) for name in ON_DEVICE) else UNREAD


def _of_cupy(value: Any) -> Any:
    if hasattr(type(value), "nnz"):
        check_count(value.nnz)
    # Its own `__array__` refuses.
    return value.get() if hasattr(value, "dtype") and hasattr(value, "get") else UNREAD


def _of_jax(value: Any) -> Any:
    jax: Any = sys.modules["jax"]
    if isinstance(value, jax.core.Tracer):
        raise BadInput("a JAX array has no values while it is traced, as in jit and grad")
    if not isinstance(value, jax.Array):
        return UNREAD
    if value.is_deleted():
        raise BadInput("this JAX array has no values any more: it was deleted or donated")
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        raise BadInput("a random key of JAX has no text; put in what jax.random.key_data() gives")
    return UNREAD


def _of_torch(value: Any) -> Any:
    torch: Any = sys.modules["torch"]
    if isinstance(value, torch.Size):
        return list(value)
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if not isinstance(value, torch.Tensor):
        return UNREAD
    if value.is_meta:
        raise BadInput(f"{kind_of(value)} on the device meta has a shape, but no values")
    if value.is_nested:
        return list(value.detach().unbind())
    if type(value).__name__ == "MaskedTensor":
        numpy: Any = sys.modules["numpy"]
        return numpy.ma.MaskedArray(numbers_of(value.get_data()), ~numbers_of(value.get_mask()))
    if value.is_mkldnn:
        value = value.to_dense()
    if value.layout is not torch.strided:
        coordinates = value.layout is torch.sparse_coo
        check_count((value._values() if coordinates else value.values()).numel())
        value, dtype = value.detach().cpu(), value.dtype
        value = value.to(wide_type(dtype))  # coalesced by few types only
        sparse = (value if coordinates else value.to_sparse()).coalesce()
        return _coordinates(value.shape, sparse.indices().t(), numbers_of(sparse.values(), dtype))
    return numbers_of(value)


def _coordinates(shape: Any, indices: Any, values: Any) -> dict[str, Any]:
    numbers = array_of(values)
    return {
        "shape": Line(shape),
        "entries": [
            Line([*at, number]) for at, number in zip(indices.tolist(), numbers, strict=True)
        ],
    }


def _of_scipy(value: Any) -> Any:
    if not hasattr(value, "tocoo") or not hasattr(value, "nnz"):
        return UNREAD
    check_count(value.nnz)
    coo = value.tocoo()
    coords = getattr(coo, "coords", None) or (coo.row, coo.col)
    columns = [*(axis.tolist() for axis in coords), array_of(coo.data)]
    entries = [Line(entry) for entry in zip(*columns, strict=True)]
    return {"shape": Line(map(int, coo.shape)), "entries": entries}


def _of_networkx(value: Any) -> Any:
    if not hasattr(value, "is_multigraph"):
        # Views of nodes, edges and degrees: sets and mappings of the library's own.
        data = getattr(value, "_viewer", None) is None and hasattr(value, "_graph")
        return [*value] if data or type(value).__name__.endswith("DataView") else UNREAD
    graph: dict[str, Any] = {"directed": value.is_directed()}
    if value.graph:
        graph["graph"] = dict(value.graph)
    nodes = [(node, attributes) for node, attributes in value.nodes(data=True)]
    # A node or edge without attributes stands alone; with them, they follow it.
    plain = not any(attributes for _, attributes in nodes)
    graph["nodes"] = Line(n for n, _ in nodes) if plain else [_without_empty(*n) for n in nodes]
    keys = {"keys": True} if value.is_multigraph() else {}
    graph["edges"] = [_without_empty(*edge) for edge in value.edges(data=True, **keys)]
    return graph


def _without_empty(*parts: Any) -> Line:
    return Line(parts if parts[-1] else parts[:-1])


def _of_xarray(value: Any) -> Any:
    name = type(value).__name__
    if name == "DataTree":
        return dict(value.to_dict())
    if getattr(value, "chunks", None):
        raise BadInput(f"{kind_of(value)} holds a plan, not its values; put in its .compute()")
    if hasattr(value, "data_vars"):
        fields: dict[str, Any] = {"dims": dict(value.sizes)}
        parts = {"coords": value.coords, "data_vars": value.data_vars}
        fields |= {
            part: {n: _variable(v) for n, v in at.items()} for part, at in parts.items() if at
        }
    elif hasattr(value, "dims") and not callable(getattr(value, "values", callable)):
        fields = {} if getattr(value, "name", None) is None else {"name": value.name}
        fields["dims"] = dict(value.sizes)
        if len(getattr(value, "coords", ())):
            fields["coords"] = {n: _variable(v) for n, v in value.coords.items()}
        fields["data"] = value.values
    else:
        return UNREAD
    return {**fields, **({"attrs": dict(value.attrs)} if value.attrs else {})}


def _variable(value: Any) -> Any:
    check_size(value)  # it may still lie in a file
    fields = {"dims": Line(value.dims), "data": value.values}
    if value.attrs:
        fields["attrs"] = dict(value.attrs)
    # A coordinate along its own dimension needs no more than its values.
    return value.values if not value.attrs and value.dims == (value.name,) else fields


def _measured(number: Any, unit: str) -> Any:
    """A number with its unit; an array of them as a dict, since the unit goes for all."""
    if getattr(number, "shape", ()):
        return {"values": number, **({"unit": unit} if unit else {})}
    return Measured(number, unit)


def _of_pint(value: Any) -> Any:
    if hasattr(value, "magnitude") and hasattr(value, "units"):
        return _measured(value.magnitude, f"{value.units:~D}")
    return str(value) if type(value).__name__ == "Unit" else UNREAD


def _of_astropy(value: Any) -> Any:
    if hasattr(value, "colnames") and not hasattr(value, "itercols"):  # a row
        return {name: _with_unit(value[name], value.columns[name]) for name in value.colnames}
    if hasattr(value, "to_value") and hasattr(value, "unit"):
        number = value.value
        if hasattr(value, "unmasked"):
            number = sys.modules["numpy"].ma.MaskedArray(value.unmasked.value, value.mask)
        return _measured(number, str(value.unit))
    if hasattr(value, "isot") and hasattr(value, "scale"):
        exact = value.copy()
        exact.precision = 9
        moments, scale = exact.isot, str(value.scale).upper()
        if not value.shape:
            return f"{_trimmed(str(moments))} {scale}"
        return {"times": [_trimmed(str(moment)) for moment in moments.ravel()], "scale": scale}
    if hasattr(value, "dtype") and hasattr(value, "unit"):  # a column
        array = sys.modules["numpy"].ma.asarray(value) if hasattr(value, "mask") else value.data
        array = array if value.unit is None else _measured(array, str(value.unit))
        return array if value.name is None else {value.name: array}
    return str(value) if hasattr(value, "physical_type") else UNREAD


def _with_unit(cell: Any, column: Any) -> Any:
    unit = getattr(column, "unit", None)
    return cell if unit is None or hasattr(cell, "unit") else Measured(cell, str(unit))


def _trimmed(moment: str) -> str:
    return moment.replace("T", " ").rstrip("0").rstrip(".")


def _of_statsmodels(value: Any) -> Any:
    return str(value.as_text()) if callable(getattr(value, "as_text", None)) else UNREAD


def _of_shapely(value: Any) -> Any:
    return str(value.wkt) if hasattr(value, "wkt") else UNREAD


def _of_sqlalchemy(value: Any) -> Any:
    return dict(value._mapping) if hasattr(type(value), "_mapping") else UNREAD


def _of_uncertainties(value: Any) -> Any:
    # Its str rounds the number to the digits that the error leaves.
    if not hasattr(value, "nominal_value"):
        return UNREAD
    return f"{float(value.nominal_value)}+/-{float(value.std_dev)}"


def _of_plotly(value: Any) -> Any:
    # A trace, or a part of one. Unlike a figure's to_dict() this leaves arrays what they are.
    return value.to_plotly_json() if hasattr(value, "to_plotly_json") else UNREAD


# How plotly names what its typed arrays hold (its `to_typed_array_spec`).
_TYPED = frozenset({"i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"})


def typed_array(named: Mapping[Any, Any]) -> Any:
    """The numbers of an array as plotly's ``to_dict()`` writes it; `UNREAD` if it is none."""
    if "bdata" not in named or not named.keys() <= {"dtype", "bdata", "shape"}:
        return UNREAD
    numpy, code = sys.modules.get("numpy"), named.get("dtype")
    if numpy is None or not isinstance(code, str) or code not in _TYPED:
        return UNREAD
    try:
        numbers = numpy.frombuffer(base64.b64decode(named["bdata"], validate=True), f"<{code}")
        shape = [int(length) for length in str(named.get("shape", numbers.size)).split(",")]
        return numbers.reshape(shape)
    except (TypeError, ValueError):
        return UNREAD


def _of_sympy(value: Any) -> Any:
    # Its own str leaves out the last digits of floats: 0.1 + 0.2 is 0.300000000000000.
    names = {c.__name__ for c in type(value).__mro__}
    if "Printable" not in names or not type(value).__module__.startswith("sympy."):
        return UNREAD
    return str(_sympy_printer()().doprint(value))


@functools.cache
def _sympy_printer() -> Any:
    """SymPy's printer, with floats as short as they can be read back, instead of 15 digits."""
    printing: Any = sys.modules["sympy.printing.str"]
    libmp: Any = sys.modules["mpmath.libmp"]

    def printed(_: Any, number: Any) -> str:
        most = libmp.repr_dps(number._prec)  # as many digits tell any number of that precision
        texts = [libmp.to_str(number._mpf_, digits) for digits in range(most - 2, most + 1)]
        same = (text for text in texts if libmp.from_str(text, number._prec, "n") == number._mpf_)
        return str(next(same, texts[-1]))

    return type("Printer", (printing.StrPrinter,), {"_print_Float": printed})


def _of_cftime(value: Any) -> Any:
    # Its str has neither fractions of a second nor the calendar.
    if not hasattr(value, "calendar"):
        return UNREAD
    return f"{value.isoformat(' ')} {value.calendar}".strip()


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "pandas": _of_pandas, "modin": _of_pandas, "cudf": _of_pandas,
    "pyarrow": _of_pyarrow, "numpy": _of_numpy, "torch": _of_torch, "scipy": _of_scipy,
    "networkx": _of_networkx, "xarray": _of_xarray, "pint": _of_pint, "astropy": _of_astropy,
    "statsmodels": _of_statsmodels, "shapely": _of_shapely, "cftime": _of_cftime,
    "uncertainties": _of_uncertainties, "sqlalchemy": _of_sqlalchemy, "plotly": _of_plotly,
    "sympy": _of_sympy, "cupy": _of_cupy, "cupyx": _of_cupy, "jax": _of_jax, "jaxlib": _of_jax,
}  # fmt: skip


# Whose own text is taken.

# Their str says the whole value, as their documentation promises or their code shows.
_WHOLE = frozenset({
    "arrow", "bgmagic", "bs4", "dateutil", "gmpy2", "pendulum", "pydantic", "pydantic_core",
    "sympy", "yarl",
})  # fmt: skip


def has_whole_text(value: Any) -> bool:
    """Whether ``str(value)`` may be asked: its class is Python's, the user's or known to be whole.

    A user's own class is taken at its word; one from an installed package is not, since it may
    leave out what is too long for a screen.
    """
    cls: Any = type(value)
    return _whole(cls)


@functools.lru_cache(maxsize=1024)
def _whole(cls: Any) -> bool:
    method = "__repr__" if cls.__str__ is object.__str__ else "__str__"
    owner = next(kind for kind in cls.__mro__ if method in vars(kind))
    root = owner.__module__.partition(".")[0]
    if root in _WHOLE or root in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(owner.__module__), "__file__", None)
    return file is None or not any(Path(file).is_relative_to(folder) for folder in _installed())


@functools.cache
def _installed() -> tuple[Path, ...]:
    import site

    folders = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages()]
    folders += [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return tuple({Path(folder) for folder in folders})
