"""Makes the parts of a request beside the prompt's text: files and tools."""

from __future__ import annotations

import base64
import io
import json
import mimetypes
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bgmagic.api.request_body import plain_json, reading
from bgmagic.api.words import TOOLS
from bgmagic.errors import BadInput
from bgmagic.text import UnescapedText, did_you_mean, one_line
from bgmagic.values import dataclass

# OpenAI's guides "File inputs" and "Images": so much in all files of one request.
MOST = 50 * 2**20  # bytes

_LIMIT = "one request takes 50 MB of files"

_IMAGES = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"))

# What the guide "File inputs" lists and has no text in it: bytes that open it, endings, MIME type.
_OFFICE = "application/vnd.openxmlformats-officedocument."

_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

_DOCUMENTS = {
    ".docx": (_ZIP, _OFFICE + "wordprocessingml.document"),
    ".pptx": (_ZIP, _OFFICE + "presentationml.presentation"),
    ".xlsx": (_ZIP, _OFFICE + "spreadsheetml.sheet"),
    ".odt": (_ZIP, "application/vnd.oasis.opendocument.text"),
    ".doc": (_OLE, "application/msword"),
    ".ppt": (_OLE, "application/vnd.ms-powerpoint"),
    ".xls": (_OLE, "application/vnd.ms-excel"),
}

_OTHER_IMAGES = {".bmp", ".heic", ".heif", ".ico", ".tif", ".tiff", ".avif"}

_TAKEN = "it takes images (PNG, JPEG, WEBP, GIF), PDF, Office documents and text"

_KINDS = "a path, bytes, a PIL image or a matplotlib figure"

_URL = re.compile(r"https?://\S+", re.IGNORECASE)


@dataclass(frozen=True)
class _File:
    """A file to attach: ``data``, and its ``name``, or "" if it came from a variable."""

    data: bytes
    name: str = ""


def file_parts(files: Sequence[Any]) -> list[dict[str, Any]]:
    """Make the parts of a message that hold ``files``, in this order.

    PNG, JPEG, WEBP and GIF become ``input_image``, all else ``input_file``. An http(s) address is
    passed on for the server to fetch: as an image if it ends like one.

    Args:
        files: paths, relative to the working directory and with ``~`` expanded, addresses, bytes,
            PIL images, matplotlib figures, and lists of these.

    Raises:
        BadInput: one of them can't be read or attached, or they are too large together.
    """
    parts: list[dict[str, Any]] = []
    left = MOST
    for number, value in enumerate(flat(files, "--file"), start=1):
        with reading("--file", value):
            if isinstance(value, str) and _URL.fullmatch(value):
                parts.append(_linked(value))
                continue
            found = _read(value, left)
        left -= len(found.data)
        if left < 0:
            raise BadInput(f"--file: the files are too large together; {_LIMIT}")
        parts.append(_part(found, number))
    return parts


def _linked(address: str) -> dict[str, Any]:
    ending = Path(unquote(urlsplit(address).path)).suffix.lower()
    if ending in (".png", ".jpg", ".jpeg", ".webp", ".gif"):
        return {"type": "input_image", "image_url": address, "detail": "auto"}
    return {"type": "input_file", "file_url": address}


def _read(value: Any, left: int) -> _File:
    if isinstance(value, str | os.PathLike):
        return _from_disk(os.fspath(value), left)
    if isinstance(value, bytes | bytearray | memoryview):
        return _File(bytes(value))
    if isinstance(value, io.BytesIO):
        return _File(value.getvalue())
    drawn = _drawn(value)
    if drawn is None:
        raise BadInput(f"--file takes {_KINDS}, not {type(value).__name__}")
    return _File(drawn)


def _from_disk(path: Any, left: int) -> _File:
    shown = one_line(str(path), 200)
    if not str(path).strip():
        raise BadInput("--file needs the path of a file")
    try:
        place = Path(path).expanduser()
        unfit = _unfit(place.stat(), left)
        data = b"" if unfit else place.read_bytes()
    except FileNotFoundError:
        where = "" if Path(shown).is_absolute() else f" in {Path.cwd()}"
        raise BadInput(f"--file: there is no file {shown}{where}{_hint(path)}") from None
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadInput(f"--file {shown} can't be read: {one_line(str(why))}") from None
    if unfit:
        raise BadInput(f"--file {shown} {unfit}")
    return _File(data, place.name)


def _unfit(found: os.stat_result, left: int) -> str:
    """Say why a file of the disk can't be attached, or ""."""
    if stat.S_ISDIR(found.st_mode):
        return "is a folder: name the files in it"
    if not stat.S_ISREG(found.st_mode):
        return "is no file"
    size = f"{found.st_size / 2**20:.0f} MB"
    return f"has {size}, too much: {_LIMIT}" if found.st_size > left else ""


def _hint(path: Any) -> str:
    if isinstance(path, UnescapedText):
        written = one_line(path.written, 200)
        return f"; the backslashes outside quotes were taken away, write '{written}' in quotes"
    path = str(path)
    return f"; for what is in a variable write ${path}" if path.isidentifier() else ""


def _drawn(value: Any) -> bytes | None:
    """Draw ``value`` as an image if it is one of PIL's or matplotlib's, else return None."""
    # Looked up, not imported: a user with such a value has imported its library.
    image, figure = _loaded("PIL.Image", "Image"), _loaded("matplotlib.figure", "Figure")
    axes = _loaded("matplotlib.axes", "Axes")
    out = io.BytesIO()
    try:
        if axes is not None and isinstance(value, axes):
            value = value.get_figure()
        if figure is not None and isinstance(value, figure):
            value.savefig(out, format="png", bbox_inches="tight")
        elif image is not None and isinstance(value, image):
            plain = value if value.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else None
            drawn = plain or _of_eight_bits(value)
            # Quickly rather than small: the cell waits for it. Photos would take a second as PNG.
            if getattr(value, "format", None) == "JPEG" and drawn.mode in ("L", "RGB"):
                drawn.save(out, format="JPEG", quality=95)
            else:
                drawn.save(out, format="PNG", compress_level=1)
        else:
            return None
    except Exception as error:
        kind = type(value).__name__
        raise BadInput(f"--file: the {kind} can't be drawn: {one_line(str(error))}") from None
    return out.getvalue()


def _of_eight_bits(image: Any) -> Any:
    """A PIL image with 8 bits a channel. PIL cuts what is above off: a picture of 12 or 16 bits, as
    of a microscope, would be white."""
    if image.mode[0] not in "IF":
        return image.convert("RGB")
    grey = image.convert("L")
    if grey.convert(image.mode).tobytes() != image.tobytes():
        raise ValueError(
            f"its values, of mode {image.mode}, are not whole ones from 0 to 255; scale them "
            'first, as in image.point(lambda value: value / 256).convert("L")'
        )
    return grey


def _loaded(module: str, name: str) -> type[Any] | None:
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def _part(found: _File, number: int) -> dict[str, Any]:
    if not found.data:
        raise BadInput(f"--file {found.name or 'the value'} is empty".replace("  ", " "))
    image = None if _decodes(found.data) else _image_kind(found.data)
    if image is not None:
        address = _data_url(f"image/{image}", found.data)
        return {"type": "input_image", "image_url": address, "detail": "auto"}
    kind, ending = _document_kind(found)
    name = found.name or f"attachment-{number}{ending}"
    return {"type": "input_file", "filename": name, "file_data": _data_url(kind, found.data)}


def _image_kind(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for opening, kind in _IMAGES if data.startswith(opening)), None)


def _document_kind(found: _File) -> tuple[str, str]:
    """Find the MIME type of a file that is no image, and the ending of its name."""
    ending = Path(found.name).suffix.lower()
    if _is_pdf(found, ending):
        return "application/pdf", ".pdf"
    opening, kind = _DOCUMENTS.get(ending, (b"", ""))
    if kind and found.data.startswith(opening):
        return kind, ending
    if _is_text(found.data):
        guessed = mimetypes.guess_type(found.name)[0] or ""
        known = guessed.startswith("text/") or guessed in ("application/json", "application/rtf")
        return (guessed if known else "text/plain"), ".txt"
    what = found.name or "what is in the variable"
    if ending in _OTHER_IMAGES or found.data.startswith(b"BM"):
        raise BadInput(f"--file: {what} is an image that the API does not take; save it as PNG")
    unnamed = "" if found.name else "; a document of Office needs a path with its ending"
    raise BadInput(f"--file: {what} is of a kind that the API does not take; {_TAKEN}{unnamed}")


def _is_pdf(found: _File, ending: str) -> bool:
    if b"%PDF-" not in found.data[:1024]:  # where readers look for it
        return False
    # A text may speak of it.
    begins = not found.name and found.data.startswith(b"%PDF-")
    return ending == ".pdf" or begins or not _decodes(found.data)


def _decodes(data: bytes) -> bool:
    """Whether every byte is UTF-8 and no byte is zero, as it is in text alone."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


def _is_text(data: bytes) -> bool:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True  # UTF-16 says so itself
    if b"\0" in data:
        return False
    # Latin-1 and its like have text in every byte, but hardly any control characters.
    controls = sum(data[:4096].count(code) for code in range(32) if code not in b"\t\n\r\f\x1b")
    return controls == 0 or _decodes(data)


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


# Fields that are added to a mere type (OpenAPI: Tool).
_WITH: Mapping[str, Mapping[str, Any]] = {
    "code_interpreter": {"container": {"type": "auto"}},
    "shell": {"environment": {"type": "container_auto"}},
}

# Types that need more fields of the user, with an example of each.
_NEEDS = {
    "file_search": '{"type": "file_search", "vector_store_ids": ["vs_…"]}',
    "mcp": '{"type": "mcp", "server_label": "…", "server_url": "https://…", '
    '"require_approval": "never"}',
}

_CALLS_BACK = frozenset(
    {
        "function", "custom", "namespace", "computer", "computer_use_preview", "local_shell",
        "apply_patch", "tool_search", "programmatic_tool_calling",
    }
)  # fmt: skip


def tool_entries(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Make the entries of ``tools``, in this order.

    A type that is not known here is passed on: servers have others, and refuse what they don't
    know before anything is paid for.

    Args:
        tools: types, the API's own dicts or such a dict as JSON text, and lists of these.

    Raises:
        BadInput: one of them is no tool, lacks something, or would have to be answered here.
    """
    return [_entry(tool) for tool in flat(tools, "--tool")]


def _entry(tool: Any) -> dict[str, Any]:
    if isinstance(tool, str) and tool.lstrip().startswith("{"):
        try:
            tool = json.loads(tool)
        except ValueError as error:
            raise BadInput(f"--tool: this is not JSON ({error}): {one_line(tool, 100)}") from None
    if isinstance(tool, str):
        return _of_type(tool.strip())
    if isinstance(tool, Mapping):
        tool = plain_json(tool, "--tool")
    if not isinstance(tool, Mapping) or not isinstance(tool.get("type"), str):
        raise BadInput(
            '--tool takes a type such as web_search, a dict such as {"type": "web_search"}, or '
            "a function of yours, as $NAME"
        )
    kind = tool["type"]
    _check_hosted(kind)
    environment = tool.get("environment")
    place = environment.get("type") if isinstance(environment, Mapping) else None
    if kind == "shell" and place in (None, "local"):
        raise BadInput(
            '--tool: only a shell at the server runs; give it "environment": '
            '{"type": "container_auto"}'
        )
    if kind == "file_search" and not tool.get("vector_store_ids"):
        raise BadInput(f"--tool: file_search needs a vector store: {_NEEDS['file_search']}")
    if kind == "mcp" and tool.get("require_approval", "always") in ("always", None):
        raise BadInput(
            "--tool: nobody can approve the calls of mcp in the background; with "
            '"require_approval": "never" it calls without asking'
        )
    return dict(tool)


def _of_type(kind: str) -> dict[str, Any]:
    _check_hosted(kind)
    if kind in _NEEDS:
        raise BadInput(
            f"--tool: {kind} needs more than its type: --tool $NAME, NAME holding {_NEEDS[kind]}"
        )
    dated = any(kind.startswith(f"{known}_") for known in TOOLS)
    near = "" if kind in TOOLS or dated else did_you_mean(kind, [*TOOLS, *_NEEDS])
    if near or not re.fullmatch(r"[\w.:-]+", kind):
        known = ", ".join([*TOOLS, *_NEEDS])
        raise BadInput(
            f"--tool {one_line(kind, 100)!r} is not one of {known}{near}; each has a --tool of "
            "its own, a function of yours goes as $NAME, and another one of your server's as a "
            'dict, {"type": "…"}'
        )
    return {"type": kind, **_WITH.get(kind, {})}


def _check_hosted(kind: str) -> None:
    if kind in _CALLS_BACK:
        raise BadInput(
            f"--tool: {kind} needs somebody here who answers its calls: give a function of yours "
            f"as --tool $NAME; tools that the server runs are {', '.join([*TOOLS, *_NEEDS])}"
        )


def flat(values: Sequence[Any], label: str, deep: int = 20) -> Iterator[Any]:
    """The values, and those in lists and tuples among them, in their order.

    Raises:
        BadInput: there are more lists within each other than ``deep``: one may hold itself.
    """
    if not deep:
        raise BadInput(f"{label}: too many lists within each other")
    with reading(label, values):
        for value in values:
            if issubclass(type(value), list | tuple):  # what only says that it is has no items
                yield from flat(value, label, deep - 1)
            else:
                yield value
