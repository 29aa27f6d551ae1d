"""The answer that a job becomes, a text, and what it has beside that: code in it, images that tools
made, files that it cites."""

from __future__ import annotations

import base64
import binascii
import functools
import io
import re
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from bgmagic.api.replay import Turns, conversation_of, previous_of
from bgmagic.api.request import Previous
from bgmagic.api.response import (
    Citation,
    CompressedResponse,
    decompressed,
    objects_in,
    read_citations,
    read_output,
    read_summary,
    sdk_response,
    sdk_usage,
    sources,
    sources_text,
    text_in,
)
from bgmagic.errors import AnswerGone, BgmagicError, public
from bgmagic.jobs.steps import Step
from bgmagic.text import user_path, without_controls
from bgmagic.values import dataclass

if TYPE_CHECKING:
    from bgmagic.api.response import Response, ResponseUsage
    from bgmagic.rendering.artifacts import Run
    from bgmagic.rendering.parser import CodeBlock

MOST_FILE = 100_000_000  # bytes that a fetched file may have, unless the caller says otherwise

MOST_BASE64 = 100_000_000  # characters of an image; the API's are of some MB

_NOTHING: Mapping[str, Any] = MappingProxyType({})

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
        """What tools made, as HTML that does nothing; "" if they made nothing."""
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

    # As some servers write it: a data URL, in lines, without the = at its end.
    bare = text.partition(",")[2] if text.startswith("data:image/") else text
    bare = "".join(bare.split()).rstrip("=")
    try:
        data = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
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


def _file_name(name: str) -> str:
    """What a server calls a file or its id, as the name of one that is not hidden and in no other
    folder; maybe ""."""
    return _UNSAFE.sub("_", name).lstrip(".")


def made_html(response: Mapping[str, Any]) -> str:
    """What tools made, as HTML that does nothing; "" where that is nothing."""
    if not has_made(response):
        return ""
    from bgmagic.rendering.artifacts import artifacts_html

    return artifacts_html(images_in(response), runs_in(response))


@public
class Answer(Artifacts, str):
    """The output text of a completed job: a ``str``, with where it came from.

    Attributes:
        job: the job that gave it; None in an answer that was unpickled.
        response_id: the server's id of the response, or None.
        model: the model's name as the server returned it, or None.
        commentary: what the model said on its way to the answer, or "".
        summary: what the model says of its reasoning, where ``--summary`` asked for that, or "".
        data: with ``--schema`` what the text says: an object of the Pydantic model, or what JSON
            gives where there was a JSON schema or the class is not known any more; else None.
        citations: what the text cites, in its order.
    """

    _asked: Mapping[str, Any]
    _response: Mapping[str, Any] | None
    job: Any  # the `Job`, whose file needs this one
    response_id: str | None
    model: str | None
    commentary: str
    summary: str
    data: Any
    citations: tuple[Citation, ...]

    def __new__(
        cls,
        text: str,
        response: Mapping[str, Any],
        job: Any = None,
        asked: Mapping[str, Any] | None = None,
        data: Any = None,
        commentary: str | None = None,
    ) -> Answer:
        """Make the answer of ``response``, whose output text is ``text``.

        Args:
            asked: of the request body, ``input`` and ``instructions``, where there is no job.
            data: what the text says, if it is structured.
            commentary: that of the response, if it is read already.
        """
        answer = super().__new__(cls, text)
        answer.job = job
        # What its job, or all of a model, have too is there once.
        told, known = text_in(response.get("id")), job.response_id if job else None
        answer.response_id = told if told and told != known else known
        answer.model = sys.intern(text_in(response.get("model"))) or None
        answer._asked = asked or _NOTHING
        answer._response = CompressedResponse(response) if job is None else None  # a job keeps it
        answer.data = data
        if commentary is None:
            commentary = read_output(response).commentary
        answer.commentary = commentary
        answer.summary = read_summary(response)
        answer.citations = read_citations(response)
        answer._made = has_made(response)
        return answer

    @property
    def response(self) -> Response:
        """The whole response as the SDK's own `Response`, a new one; ``.to_dict()`` is its JSON."""
        return sdk_response(self._whole())

    @property
    def usage(self) -> ResponseUsage | None:
        """Tokens as the server counted them, as the SDK's own `ResponseUsage`, or None."""
        return sdk_usage(self._kept())

    @property
    def conversation(self) -> Turns:
        """Every turn up to this answer, a new list that ``--messages`` and the API take."""
        return conversation_of(self._body(), str(self), self._known())

    @property
    def steps(self) -> tuple[Step, ...]:
        """The calls of the notebook's functions that led to this answer, in order."""
        held = objects_in(self._asked.get("steps"))
        return tuple(Step(**one) for one in held) if self.job is None else self.job.steps

    def _previous(self, server: str, now: float) -> Previous | None:
        """How a request to ``server`` goes on from this answer by its id; None if it can't."""
        record = None if self.job is None else self.job.record
        if record is None or record.server != server or record.is_expired(now):
            return None
        return previous_of(self._known(), len(self.conversation))

    @property
    def instructions(self) -> str | None:
        """The system text it was asked with, or None."""
        return text_in(self._body().get("instructions")) or None

    def _body(self) -> Mapping[str, Any]:
        return self._asked if self.job is None else self.job.record.whole_body

    def _whole(self) -> Mapping[str, Any]:
        """The response as plain JSON."""
        return decompressed(self._kept()) or {}

    def _known(self) -> Mapping[str, Any]:
        """The same, or what this process still has where the journal has lost it: the text."""
        try:
            return self._whole()
        except AnswerGone:
            part = {"type": "output_text", "text": str(self), "annotations": []}
            message = {"type": "message", "role": "assistant", "content": [part]}
            return {"id": self.response_id, "model": self.model, "output": [message]}

    def _kept(self) -> Mapping[str, Any]:
        kept = self._response if self.job is None else self.job.record.response
        return kept or {}

    def __await__(self) -> Generator[Any, None, Answer]:
        # `await name` works before and after the answer has replaced the job in the variable.
        yield from ()
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the job: it belongs to a kernel, the text and its origin do not.
        asked = {key: self._body().get(key) for key in ("input", "instructions")}
        if self.steps:
            asked["steps"] = [vars(step) for step in self.steps]
        from bgmagic.api.structured_output import pickled_data

        return Answer._restored, (str(self), self._known(), asked, pickled_data(self.data))

    @classmethod
    def _restored(cls, text: str, response: Any, asked: Any, pickled: bytes | None) -> Answer:
        """The answer in a pickle, which names no file of ours, so that files may move."""
        from bgmagic.api.structured_output import unpickled_data

        return cls(text, response, None, asked, unpickled_data(pickled, text))

    def bundle(self, formulas: Literal["mathjax", "mathml"] = "mathjax") -> dict[str, str]:
        """The text, and HTML with what it cites; ``formulas`` as `to_html` takes them."""
        # Imported when an answer is looked at: most are only used.
        from bgmagic.rendering.markdown import answer_html

        html = answer_html(
            str(self),
            structured=self.data is not None,
            commentary=self.commentary,
            summary=self.summary,
            links=sources(self.citations),
            formulas=formulas,
        )
        return {"text/plain": self._plain(), "text/html": html + self.made_html()}

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return self.bundle()

    def _mime_(self) -> tuple[str, str]:
        # marimo asks for this first; it typesets nothing in HTML.
        return "text/html", self.bundle("mathml")["text/html"]

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        # IPython prefers this: the text as it reads, in a list with its quotes.
        printer.text(self._plain() if len(printer.stack) <= 1 else repr(self))
