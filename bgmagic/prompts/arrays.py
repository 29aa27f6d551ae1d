"""Arrays of NumPy's kind as lists of values that have a text: dates, durations, own digits."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from bgmagic.errors import BadInput
from bgmagic.text import kind_of
from bgmagic.values import dataclass

Cells = list[Any]

# More values are no prompt: each takes two characters or more, and a prompt about 10 million. To
# find that out by writing them took a minute and all of the kernel's memory.
MOST_CELLS = 5_000_000
MOST_TEXT = 50_000_000  # characters


def check_count(count: int) -> None:
    """Raise BadInput if so many values are more than any prompt holds."""
    if count > MOST_CELLS:
        raise BadInput(
            f"it has {count:,} values; a prompt holds at most {MOST_CELLS:,}: put in a part of it, "
            "as x[:1000], or what it comes to, as a mean"
        )


def check_size(value: Any) -> None:
    """The same for an array or a table, of any library, before it is read."""
    kind = type(value)  # an object of the user's may have any attribute, and take long for it
    try:
        shape = getattr(value, "shape", None) if hasattr(kind, "shape") else None
    except Exception:  # nested tensors of torch have none
        return
    if not isinstance(shape, tuple) or not all(type(size) is int for size in shape):
        return
    dense = str(getattr(value, "layout", "strided")).endswith("strided")  # of torch
    if dense and not hasattr(kind, "nnz"):
        check_count(math.prod(shape))


_read: ContextVar[int | None] = ContextVar("values_read", default=None)


@contextmanager
def counting() -> Iterator[None]:
    """Count all that is read within: each array of a model's weights may be small enough."""
    if _read.get() is not None:
        yield
        return
    token = _read.set(0)
    try:
        yield
    finally:
        _read.reset(token)


def count_read(count: int) -> None:
    """Raise BadInput if, with these values, more than any prompt holds are read for one text."""
    before = _read.get()
    if before is not None:
        check_count(before + count)
        _read.set(before + count)


class Line(list[Any]):
    """A list that stands on one line of JSON."""


class Digits(str):
    """A number by its own digits, where a float has not as many."""


@dataclass(frozen=True)
class Measured:
    """One number and its unit."""

    number: Any
    unit: str


def array_of(value: Any) -> Any:
    """A NumPy array as lists within lists, one a dimension; without dimensions its one value."""
    cells = array_cells(value, flat=True)
    if not value.shape:
        return cells[0]
    return _nested(cells, value.shape, list if value.dtype.kind in "OUTV" else Line)


def _nested(cells: Cells, shape: Sequence[int], row: Callable[[Cells], Cells]) -> Cells:
    if len(shape) == 1:
        return row(cells)
    step = math.prod(shape[1:])
    parts = (cells[at * step : (at + 1) * step] for at in range(shape[0]))
    return [_nested(part, shape[1:], row) for part in parts]


def array_cells(value: Any, *, flat: bool = False) -> Cells:
    """What a NumPy array holds along its first dimension, or in all if ``flat``.

    Dates are text, durations text with units, records dicts, what is masked is None.
    """
    numpy: Any = sys.modules["numpy"]
    if value.ndim > 1 and not flat:
        return [array_of(part) for part in value]
    masked = isinstance(value, numpy.ma.MaskedArray)
    data = numpy.asarray(value.data if masked else value).reshape(-1)
    count_read(data.size)
    if data.dtype.names:
        source = value.reshape(-1) if masked else data
        columns = [array_cells(source[name]) for name in data.dtype.names]
        return [dict(zip(data.dtype.names, row, strict=True)) for row in zip(*columns, strict=True)]
    cells = _typed(data, numpy)
    if masked:
        mask = numpy.ma.getmaskarray(value).reshape(-1)
        return [None if gone else cell for cell, gone in zip(cells, mask, strict=True)]
    return cells


def _typed(data: Any, numpy: Any) -> Cells:
    kind = data.dtype.kind
    of_jax = data.dtype.type.__module__ == "ml_dtypes"  # NumPy says little of these types
    if (kind == "f" and data.dtype.itemsize == 2) or (of_jax and data.dtype.name == "bfloat16"):
        exact = data.astype("f8")
        return list(own_digits(exact, lambda near: near.astype(data.dtype).astype("f8")).tolist())
    if of_jax and "float" in data.dtype.name:  # 8 bits or less: what they are has few digits
        return list(data.astype("f8").tolist())
    if kind == "f" and data.dtype.itemsize < 8:
        return list(data.astype(str).astype(float).tolist())
    if kind == "f" and data.dtype.itemsize > 8:
        return [Digits(x) if numpy.isfinite(x) else float(x) for x in data]
    if kind == "c" or (of_jax and "complex" in data.dtype.name):
        data = data.astype("c8") if of_jax else data
        return [str(number).strip("()") for number in data]
    if kind == "M":
        days = data.astype("M8[D]")
        if ((data == days) | numpy.isnat(data)).all():  # no time of day, whatever the unit
            data = days if numpy.datetime_data(data.dtype)[0] not in ("Y", "M") else data
        return [None if t == "NaT" else _dated(t) for t in numpy.datetime_as_string(data).tolist()]
    if kind == "m":
        return [None if numpy.isnat(span) else _timed(span, numpy) for span in data]
    if kind == "S":
        return [_decoded(text) for text in data.tolist()]
    return list(data.tolist())


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise BadInput("it holds bytes that are no UTF-8; turn them into text first") from None


def _dated(text: str) -> str:
    day, _, time = text.partition("T")
    return f"{day} {time.rstrip('0').rstrip('.') if '.' in time else time}".strip()


_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9, "ps": 10**12, "fs": 10**15}
_SECONDS = {"W": 604800, "D": 86400, "h": 3600, "m": 60}


def _timed(span: Any, numpy: Any) -> str:
    unit, step = numpy.datetime_data(span.dtype)
    count = int(span.view("i8")) * step
    if unit in _SECONDS:
        return duration_words(count * _SECONDS[unit], 1)
    if unit in ("Y", "M"):
        return f"{count} {'years' if unit == 'Y' else 'months'}"
    return (
        duration_words(count, {**_PER_SECOND, "as": 10**18}[unit])
        if unit != "generic"
        else str(count)
    )


# Arrays that are not NumPy's.


def wide_type(dtype: Any) -> Any:
    """The type, or one that NumPy has and that holds its numbers: of bfloat16, float8, …"""
    torch: Any = sys.modules["torch"]
    if dtype is torch.complex32:
        return torch.complex64
    known = not dtype.is_floating_point or dtype in (torch.float16, torch.float32, torch.float64)
    return dtype if known else torch.float32


def numbers_of(value: Any, dtype: Any = None) -> Any:
    """The values of a tensor, which may lie anywhere, as a NumPy array. If they were of the type
    ``dtype``, with the digits of that."""
    torch: Any = sys.modules["torch"]
    value = value.detach().cpu()
    if value.is_quantized:
        value = value.dequantize()
    dtype = dtype or value.dtype
    wide = wide_type(dtype)
    plain = value.resolve_conj().resolve_neg().to(wide).numpy()
    if dtype is not torch.bfloat16:
        return plain if wide is dtype or wide.is_complex else plain.astype("f8")

    def rounded(near: Any) -> Any:
        return torch.from_numpy(near).to(dtype).to(wide).double().numpy()

    return own_digits(plain.astype("f8"), rounded)


# By these, libraries hand arrays on to each other where they lie, as on a GPU.
ON_DEVICE = ("__cuda_array_interface__", "__dlpack__")


def on_device(value: Any) -> Any:
    """An array that may lie on a GPU, by its own way to the host or that of a library which is
    loaded: none is imported, and CUDA is not begun with here."""
    numpy: Any = sys.modules["numpy"]
    described = getattr(value, ON_DEVICE[0], None)
    if isinstance(described, Mapping):
        check_count(math.prod(described["shape"]))
    for method in ("get", "copy_to_host", "numpy"):  # of PyCUDA, Numba, Warp
        if callable(getattr(type(value), method, None)):
            found = getattr(value, method)()
            if isinstance(found, numpy.ndarray):
                return found
    if described is not None and "cupy" in sys.modules:
        return sys.modules["cupy"].asarray(value).get()
    if hasattr(type(value), ON_DEVICE[1]):
        if value.__dlpack_device__()[0] == 1:  # kDLCPU
            return numpy.from_dlpack(value)
        for library in ("torch", "cupy"):
            if library in sys.modules:
                return sys.modules[library].from_dlpack(value)
    if described is not None and "torch" in sys.modules:
        return sys.modules["torch"].as_tensor(value, device="cuda")
    raise BadInput(f"{kind_of(value)} lies on another device; put in a NumPy array of it")


# Numbers and durations.


_WHOLE = 1e6  # below it, a whole number of a short type is itself: 65504, not 65500


def shortest(number: float, bits: int = 32) -> float:
    """A float of 16 or 32 bits as the number with the fewest digits that is the same in these."""
    if not math.isfinite(number) or (bits == 16 and number.is_integer()):
        return number
    form, places = ("f", range(6, 10)) if bits == 32 else ("e", range(3, 6))
    for digits in places:
        near = float(f"{number:.{digits}g}")
        try:
            if struct.pack(form, near) == struct.pack(form, number):
                return near
        except OverflowError:  # rounded up beyond the largest
            continue
    return number


def own_digits(values: Any, rounded: Callable[[Any], Any]) -> Any:
    """The same for an array of a type of 16 bits, also of bfloat16.

    Args:
        values: its numbers, as NumPy's of 64 bits.
        rounded: makes numbers of 64 bits those of the type, and these again numbers of 64 bits.
    """
    numpy: Any = sys.modules["numpy"]
    found, places = numpy.unique(values, return_inverse=True)
    short = found.copy()
    with numpy.errstate(all="ignore"):  # rounded up beyond the largest; NaNs of any kind
        whole = (found == numpy.rint(found)) & (abs(found) < _WHOLE)
        left = numpy.isfinite(found) & ~whole
        for digits in range(1, 6):  # five tell any two numbers of 16 bits
            near = numpy.array([float(f"{number:.{digits}g}") for number in found], "f8")
            same = left & (rounded(near) == found)
            short[same], left = near[same], left & ~same
    return numpy.copysign(short[places].reshape(values.shape), values)  # -0.0 was found as 0.0


def duration_words(count: int, per_second: int) -> str:
    """So many parts of a second as text with units, exactly: ``1 d 2 h 0.5 s``, ``-(1 h 5 s)``."""
    whole, rest = divmod(abs(count), per_second)
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        number, whole = divmod(whole, size)
        parts += [f"{number} {unit}"] if number else []
    if whole or rest or not parts:
        digits = f"{rest * 10**18 // per_second:018d}".rstrip("0")
        parts.append(f"{whole}{'.' if digits else ''}{digits} s")
    text = " ".join(parts)
    return text if count >= 0 else f"-({text})" if len(parts) > 1 else f"-{text}"
