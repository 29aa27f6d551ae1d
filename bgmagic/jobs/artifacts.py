"""What an answer has beside its text: code in it, images that tools made, files that it cites."""

from __future__ import annotations

import base64
import binascii
import functools
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bgmagic.api.response import Citation, objects_in, sources_text, text_in
from bgmagic.errors import BgmagicError
from bgmagic.text import user_path, without_controls
from bgmagic.values import dataclass

if TYPE_CHECKING:
    from bgmagic.rendering.artifacts import Run
    from bgmagic.rendering.parser import CodeBlock

MOST_FILE = 100_000_000  # bytes of a file that is fetched, unless it is said otherwise

MOST_BASE64 = 100_000_000  # characters of an image; the API's are of some MB

_MADE = ("image_generation_call", "code_interpreter_call")

_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\:]")


class AnswerImage(bytes):
    """An image that a tool made: its bytes, a PNG, JPEG or WebP; shows itself in a notebook."""

    @property
    def format(self) -> str:
        """What it is: "png", "jpeg" or "webp"."""
        from bgmagic.rendering.artifacts import image_type

        return image_type(self)

    def save(self, path: str | Path) -> Path:
        """Write it to ``path``, or into the folder that it names; gives the file.

        Raises:
            OSError: that can't be written.
        """
        to = user_path(path)
        to = to / f"image.{self.format}" if to.is_dir() else to
        to.write_bytes(self)
        return to

    def pil(self) -> Any:
        """The image as pillow has it.

        Raises:
            BgmagicError: pillow is not installed.
        """
        try:
            from PIL import Image
        except ImportError:
            raise BgmagicError("pil() needs pillow: pip install pillow") from None
        return Image.open(io.BytesIO(self), formats=("PNG", "JPEG", "WEBP"))

    def __repr__(self) -> str:
        return f"<AnswerImage {self.format}, {len(self):,} bytes>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        from bgmagic.rendering.artifacts import artifacts_html

        return {"text/plain": repr(self), "text/html": artifacts_html([self], [])}


@dataclass(frozen=True)
class AnswerFile:
    """A file that an answer cites; its content stays at the server until it is asked for.

    Attributes:
        name: as the server names it; without folders, or "".
        file_id: the server's id.
        container_id: of the code interpreter's container that it is in, or None.
    """

    name: str
    file_id: str
    container_id: str | None = None
    _fetch: Callable[[str, str | None, int], bytes] | None = field(
        default=None, repr=False, compare=False
    )

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the job that fetches it, which has the key of its server.
        return AnswerFile, (self.name, self.file_id, self.container_id)

    def read(self, limit: int = MOST_FILE) -> bytes:
        """Fetch its content from the server.

        Args:
            limit: bytes it may have at most.

        Raises:
            BgmagicError: it has expired, is larger, or the server does not give it.
        """
        if self._fetch is None:
            raise BgmagicError(
                f"{self.name or self.file_id} can't be fetched by an answer that was pickled: "
                "%bgattach gives one that knows its server"
            )
        return self._fetch(self.file_id, self.container_id, limit)

    def save(self, path: str | Path = ".", limit: int = MOST_FILE) -> Path:
        """Fetch it into the file ``path``, or under its own name into that folder; gives the file.

        Raises:
            BgmagicError: as `read`; or the folder has a file of that name already.
            OSError: that can't be written.
        """
        to = user_path(path)
        if to.is_dir():
            to = to / (self.name or _file_name(self.file_id) or "file")
            if to.exists():
                raise BgmagicError(f"{to} is there already: give save() the path of a file")
        to.write_bytes(self.read(limit))
        return to


class Artifacts:
    """The part of an `Answer` that is worked out when it is asked for; itself a ``str``."""

    job: Any
    citations: tuple[Citation, ...]
    _made: bool  # whether there is an image or a program's run

    def _whole(self) -> Mapping[str, Any]:
        """The response as plain JSON."""
        raise NotImplementedError

    def _fetcher(self) -> Callable[[str, str | None, int], bytes] | None:
        job = self.job
        return None if job is None else functools.partial(job._control.fetch_file, job)

    def _plain(self) -> str:
        return without_controls(str(self)) + sources_text(self.citations) + self.made_text()

    @property
    def code(self) -> tuple[CodeBlock, ...]:
        """The blocks of code in the text, in order, each with ``.text`` and ``.language``."""
        from bgmagic.rendering.parser import code_blocks  # most answers are only read

        return code_blocks(str(self))

    @property
    def images(self) -> tuple[AnswerImage, ...]:
        """The images that the model made: ``bytes``, each with ``.save(path)`` and ``.pil()``."""
        return images_in(self._whole())

    @property
    def files(self) -> tuple[AnswerFile, ...]:
        """The files that the text cites, each once, with ``.read()`` and ``.save(path)``: those of
        the code interpreter's container, which expire soon, and others by their id."""
        return files_in(self._whole(), self._fetcher())

    def made_html(self) -> str:
        """What tools made, as HTML that does nothing; "" where that is nothing."""
        return made_html(self._whole()) if self._made else ""

    def made_text(self) -> str:
        """How to get at the images, for a place that shows text alone, or ""."""
        count = len(self.images) if self._made else 0
        what = "1 image: .images[0]" if count == 1 else f"{count} images: .images[0] and so on"
        return f'\n\n{what}, .images[0].save("image.png")' if count else ""


def has_made(response: Mapping[str, Any]) -> bool:
    """Whether a tool has made what is shown: an image, or a program's run."""
    return any(item.get("type") in _MADE for item in objects_in(response.get("output")))


def images_in(response: Mapping[str, Any]) -> tuple[AnswerImage, ...]:
    """The images of a response, of any shape; what is no PNG, JPEG or WebP is left out."""
    found = []
    for item in objects_in(response.get("output")):
        text = text_in(item.get("result")) if item.get("type") == "image_generation_call" else ""
        if text and len(text) <= MOST_BASE64:
            data = _decoded(text)
            if data is not None:
                found.append(AnswerImage(data))
    return tuple(found)


def _decoded(text: str) -> bytes | None:
    from bgmagic.rendering.artifacts import image_type  # most answers have none

    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if image_type(data) and _is_image(data) else None


def _is_image(data: bytes) -> bool:
    """Whether pillow reads it, where that is installed."""
    try:
        from PIL import Image
    except ImportError:
        return True
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            image.verify()
    except Exception:  # whatever it makes of what a server sent
        return False
    return True


def runs_in(response: Mapping[str, Any]) -> tuple[Run, ...]:
    """The programs that the code interpreter ran, with what they wrote."""
    from bgmagic.rendering.artifacts import Run

    found = []
    for item in objects_in(response.get("output")):
        if item.get("type") == "code_interpreter_call":
            logs = (text_in(part.get("logs")) for part in objects_in(item.get("outputs")))
            run = Run(text_in(item.get("code")), "\n".join(text for text in logs if text))
            if run.code or run.logs:
                found.append(run)
    return tuple(found)


def files_in(
    response: Mapping[str, Any], fetch: Callable[[str, str | None, int], bytes] | None
) -> tuple[AnswerFile, ...]:
    """The files that a response of any shape cites, each once, in order."""
    found: dict[tuple[str, str | None], AnswerFile] = {}
    for item in objects_in(response.get("output")):
        for part in objects_in(item.get("content")):
            for cited in objects_in(part.get("annotations")):
                file_id = text_in(cited.get("file_id"))
                container = text_in(cited.get("container_id")) or None
                name = _file_name(PurePosixPath(text_in(cited.get("filename"))).name)
                if file_id:
                    one = AnswerFile(name, file_id, container, fetch)
                    found.setdefault((file_id, container), one)
    return tuple(found.values())


def _file_name(told: str) -> str:
    """What a server calls a file or its id, as the name of one that is not hidden and in no other
    folder; maybe ""."""
    return _UNSAFE.sub("_", told).lstrip(".")


def made_html(response: Mapping[str, Any]) -> str:
    """What tools made, as HTML that does nothing; "" where that is nothing."""
    if not has_made(response):
        return ""
    from bgmagic.rendering.artifacts import artifacts_html

    return artifacts_html(images_in(response), runs_in(response))
