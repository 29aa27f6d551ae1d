"""What tools made, as HTML: images as data of our own, code and its output as text.

An image is written out only if its first bytes are those of a PNG, JPEG or WebP: nothing else that
a server sends as one reaches the page, above all no SVG, which could have script in it.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bgmagic.rendering.escaping import code_text
from bgmagic.rendering.highlight import highlighted

# What a notebook can bear: bytes of an image that is kept as it is, and of all images of an answer.
MOST_IMAGE, MOST_IMAGES = 300_000, 2_000_000
SIDE = 1024  # pixels of a larger one's longer side, once it was made smaller
MOST_PIXELS = 50_000_000  # of an image that is decoded here

# Pixels of an image that is kept as it is, and of all those of an answer: a page takes four bytes
# for each, and some hundred bytes of an image can have very many. The API's have 8 million at most.
PIXELS, ALL_PIXELS = 25_000_000, 100_000_000

MOST_TEXT = 20_000  # characters of a program or of its output

_MUTED = "color: var(--jp-ui-font-color2, #757575); font-size: 0.9em"
_PRE = 'tabindex="0" style="overflow-x: auto; max-height: 30em; margin: 0.4em 0"'


@dataclass(frozen=True)
class Run:
    """A program that a tool ran, and what it wrote."""

    code: str
    logs: str


def image_type(data: bytes) -> str:
    """The type that the first bytes of an image tell: "png", "jpeg" or "webp"; "" for all else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def image_pixels(data: bytes) -> int:
    """Width times height, as the header of a PNG, JPEG or WebP says; 0 where it says nothing."""
    kind = image_type(data)
    if kind == "png":
        return _area(data[16:20], data[20:24]) if data[12:16] == b"IHDR" else 0
    return _jpeg_pixels(data) if kind == "jpeg" else _webp_pixels(data)


def _area(*sides: bytes) -> int:
    return math.prod(int.from_bytes(side, "big") for side in sides)


def _jpeg_pixels(data: bytes) -> int:
    at = 2
    while data[at : at + 1] == b"\xff" and at + 9 <= len(data):
        marker = data[at + 1]
        if marker in _FRAMES:
            return _area(data[at + 5 : at + 7], data[at + 7 : at + 9])
        if marker == 0xFF:  # a byte that fills up
            at += 1
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


# Of a JPEG's markers those that begin a frame (ITU T.81, table B.1).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _webp_pixels(data: bytes) -> int:
    kind, head = data[12:16], data[20:30]
    if len(head) < 10:
        return 0
    if kind == b"VP8X":  # RFC 9649, and below
        return _plus_one(head[4:7]) * _plus_one(head[7:10])
    bits = int.from_bytes(head[1:5] if kind == b"VP8L" else head[6:10], "little")
    if kind == b"VP8L":
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    return (bits & 0x3FFF) * (bits >> 16 & 0x3FFF) if kind == b"VP8 " else 0


def _plus_one(side: bytes) -> int:
    return int.from_bytes(side, "little") + 1


def artifacts_html(images: Sequence[bytes], runs: Sequence[Run]) -> str:
    """The images below each other, and folded the programs that were run, with their output."""
    parts, room, pixels = [], MOST_IMAGES, ALL_PIXELS
    for number, data in enumerate(images, 1):
        shown = _small(data)
        if shown is None or len(shown) > room or image_pixels(shown) > pixels:
            parts.append(_too_large(data, number))
            continue
        room, pixels = room - len(shown), pixels - image_pixels(shown)
        parts.append(_image(shown, number))
    for run in runs:
        code = highlighted(run.code[:MOST_TEXT], "python")
        logs = f"<pre {_PRE}>{_cut(run.logs)}</pre>" if run.logs.strip() else ""
        more = _more(run.code)
        parts.append(
            f'<details style="{_MUTED}"><summary>Code that was run</summary>'
            f'<pre dir="ltr" {_PRE}><code>{code}{more}</code></pre>{logs}</details>'
        )
    return "".join(parts)


def _image(data: bytes, number: int) -> str:
    source = f"data:image/{image_type(data)};base64,{base64.b64encode(data).decode()}"
    return (
        f'<div style="margin: 0.6em 0"><img alt="Image {number} that the model made" '
        f'style="max-width: 100%; max-height: 40em" src="{source}"></div>\n'
    )


def _too_large(data: bytes, number: int) -> str:
    size = f"{len(data) / 1e6:.1f} MB, {image_pixels(data) / 1e6:.1f} megapixels"
    return (
        f'<div style="{_MUTED}">Image {number} ({size}) is too large to be kept in a notebook: '
        f".images[{number - 1}].save(&quot;image.{image_type(data)}&quot;) has it whole, and with "
        "pillow installed a smaller one stands here.</div>\n"
    )


def _small(data: bytes) -> bytes | None:
    """An image that a notebook can bear: itself or, by pillow, a smaller one; None without."""
    if len(data) <= MOST_IMAGE and 0 < image_pixels(data) <= PIXELS:
        return data
    try:
        from PIL import Image

        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            image.thumbnail((SIDE, SIDE))
            small = io.BytesIO()
            mode = "RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB"
            image.convert(mode).save(small, "WEBP", quality=85)
    except Exception:  # no pillow, or bytes that are no image after all
        return None
    return small.getvalue() if small.tell() <= MOST_IMAGES else None


def _cut(text: str) -> str:
    return code_text(text[:MOST_TEXT]) + _more(text)


def _more(text: str) -> str:
    left = len(text) - MOST_TEXT
    return f"\n… {left:,} more characters are in .response" if left > 0 else ""
