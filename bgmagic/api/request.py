"""The exact JSON body of one POST /responses, frozen: `Request`, and what is read off it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import field, replace
from types import MappingProxyType
from typing import Any, TypeVar

from bgmagic.api.redaction import PROMPT, secrets_of, without_secrets
from bgmagic.api.server import ServerConfig
from bgmagic.api.words import ENCRYPTED
from bgmagic.errors import BadInput
from bgmagic.text import SharedText, TextSharer
from bgmagic.values import dataclass

T = TypeVar("T")


_STREAMING = frozenset({"stream", "stream_options"})

OutputType = type[Any] | None  # the class that structured output is read into, if there is one


@dataclass(frozen=True)
class Previous:
    """What the server has already of a request's input.

    Attributes:
        response_id: of the response that the request goes on from.
        items: how many of the first input items are that response's input and output.
    """

    response_id: str
    items: int

    @property
    def text(self) -> str:
        """Both as JSON text."""
        return json.dumps([self.response_id, self.items])

    @classmethod
    def read(cls, text: str | None) -> Previous | None:
        """Read the JSON text that the journal has; None if it is anything else."""
        try:
            response_id, items = json.loads(text or "null")
            return cls(str(response_id), int(items))
        except (ValueError, TypeError):
            return None


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What is asked of a request again and again. One for all requests of a sweep that have the
    same, with the beginning and the end that their texts have in common.

    Attributes:
        sharer: makes their texts share those.
    """

    streams: bool
    model: str
    text_format: dict[str, Any] | None
    effort: str | None
    window: str
    tier: str
    max_output_tokens: int | None
    include: tuple[str, ...]
    in_batch: bool
    sharer: TextSharer = field(default_factory=TextSharer, compare=False, repr=False)


_NO_FUNCTIONS: Mapping[str, Any] = MappingProxyType({})


class Request:
    """One request body; a frozen value, which equals those with the same text.

    What is asked of a body again and again is read once: as the request is made, when the body is
    at hand, else when it is first asked for. The body itself is not kept beside its text: with
    files in it, it is large, and of a sweep there are thousands, whose texts share what they can.

    Attributes:
        output_type: the user's class that the answer is to be an object of; no part of the body,
            and not in the journal.
        previous: what the server has already of the input, which is not sent again then; None sends
            it all. The body has it all in any case: by that a request is known again.
        functions: the user's functions that the model may call, by name, as `tools` has them; no
            part of the body, and not in the journal.
    """

    __slots__ = (
        "_head", "_print", "_printed_for", "_searched", "_text",
        "functions", "output_type", "previous",
    )  # fmt: skip

    def __init__(
        self,
        text: str | SharedText,
        output_type: OutputType = None,
        previous: Previous | None = None,
        functions: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the request of this body, as JSON text exactly as it is sent."""
        self._text = SharedText(text) if isinstance(text, str) else text
        self.output_type = output_type
        self.previous = previous
        self.functions = functions or _NO_FUNCTIONS
        self._head: RequestHead | None = None
        self._print = b""
        self._printed_for: tuple[str, str] | None = None
        self._searched: tuple[tuple[str, ...], bool] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Request(text={self.text!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Without what it shares with others, and what was read off it.
        return Request, (self.text, self.output_type, self.previous, dict(self.functions))

    @property
    def text(self) -> str:
        """The body as JSON text, exactly as it is sent; put together anew."""
        return str(self._text)

    @property
    def shared_text(self) -> SharedText:
        """The same as it is kept: what other requests have as well is there once."""
        return self._text

    @property
    def size(self) -> int:
        """Bytes of the text as it is sent."""
        return self._text.size

    @classmethod
    def of(
        cls,
        body: Mapping[str, Any],
        output_type: OutputType = None,
        *,
        previous: Previous | None = None,
        functions: Mapping[str, Any] | None = None,
        server: ServerConfig | None = None,
        partial: str = "",
    ) -> Request:
        """The request with this body.

        Args:
            previous: what the server has already of its input.
            functions: the user's functions that the model may call.
            server: where it is going to be sent. What sending it needs is worked out now, so that
                the text is not parsed for that.
            partial: what is still to go into the request, as `fingerprint` takes it.

        Raises:
            BadInput: JSON can't hold the body.
        """
        made = cls(_dump(body), output_type, previous, functions)
        try:
            made._learn(body if _is_plain(body) else made.body, server, partial)
        except RecursionError as error:
            raise BadInput(f"the request is nested too deep: {error}") from None
        return made

    def _learn(self, body: Mapping[str, Any], server: ServerConfig | None, partial: str) -> None:
        self._head = head = _shared_head(_header(body))
        if server is not None:
            self._printed_for = _same((server.name, partial))
            self._print = _hash(fingerprinted(body, server.name, partial))
            self._searched = _same((server.secrets, self._search(body, server.secrets)))
        self._text = head.sharer.share(self.text)

    def learn_as(
        self, like: Request, printed: bytes, searched: tuple[tuple[str, ...], bool] | None
    ) -> None:
        """Take what is asked of it from a request that differs in the text of its prompt alone.

        Args:
            printed: its own fingerprint, for where that one goes.
            searched: whether these secrets are in it, if known.
        """
        self._head, self._printed_for = like._asked, like._printed_for
        self._print = printed
        self._searched = None if searched is None else _same(searched)
        self._text = like._asked.sharer.share(self.text)

    def _search(self, body: Mapping[str, Any], secrets: tuple[str, ...]) -> bool:
        """Whether something has to be taken out of the body, which is that of the text."""
        if secrets_of(secrets).within_json(self.text):
            return without_secrets(body, secrets)[1]
        # Of a prompt only they would be; the rest is mostly the same for thousands of requests.
        rest = {key: value for key, value in body.items() if key not in PROMPT}
        return _holds_secret(json.dumps(rest), secrets)

    @property
    def body(self) -> dict[str, Any]:
        """The body as a new dict, parsed; changing it changes nothing here."""
        body: dict[str, Any] = json.loads(self.text)
        return body

    @property
    def is_empty(self) -> bool:
        """Whether it is not known what was asked: the job was attached by its response id."""
        return self.size == 2 and self.text == "{}"

    def fingerprint(self, server: str, partial: str = "") -> str:
        """Hash of the server and the body (32 hex digits), equal for requests that ask the same.

        Neither streaming nor a batch makes a difference to it.

        Args:
            partial: JSON text of what is still to go into the request, or "".
        """
        if self._printed_for != (server, partial):
            self._print = _hash(fingerprinted(self.body, server, partial))
            self._printed_for = _same((server, partial))
        return self._print.hex()

    def unstreamed(self) -> Request:
        """The same request, but the response is not sent as it is written."""
        body = {key: value for key, value in self.body.items() if key not in _STREAMING}
        return self.with_body(body, self.previous)

    def with_body(
        self,
        body: Mapping[str, Any],
        previous: Previous | None = None,
        server: ServerConfig | None = None,
    ) -> Request:
        """The request with another body, for the same class and functions of the user's.

        Args:
            previous: what the server has already of its input.
            server: where it is going to be sent, if that is known.
        """
        return Request.of(
            body, self.output_type, previous=previous, functions=self.functions, server=server
        )

    def whole(self) -> Request:
        """The same request, to be sent with all of its input."""
        if self.previous is None:
            return self
        return Request(self._text, self.output_type, None, self.functions)

    @property
    def sent_text(self) -> str:
        """The JSON text that is POSTed: without the input that the server has already."""
        if self.previous is None:
            return self.text
        body = self.body
        body["input"] = body["input"][self.previous.items :]
        return _dump(body | {"previous_response_id": self.previous.response_id})

    def holds_secret(self, secrets: tuple[str, ...]) -> bool:
        """Whether something has to be taken out of the body before it is written down.

        Args:
            secrets: the configured key and the like.
        """
        known = self._searched
        if known is None or known[0] != secrets:
            known = self._searched = _same((secrets, without_secrets(self.body, secrets)[1]))
        return known[1]

    @property
    def _asked(self) -> RequestHead:
        if self._head is None:
            self._head = _shared_head(_header(self.body))
        return self._head

    @property
    def streams(self) -> bool:
        """Whether the server is asked to send the response as it is written."""
        return self._asked.streams

    @property
    def model(self) -> str:
        """The model that was asked for."""
        return self._asked.model

    @property
    def text_format(self) -> dict[str, Any] | None:
        """The JSON schema that was asked for, as ``text.format`` holds it, or None for text."""
        return self._asked.text_format

    @property
    def include(self) -> tuple[str, ...]:
        """What polls ask for beside the response, as ``include`` asked for it.

        Without the encrypted reasoning: large, of no use here, and the create's own reply has it.
        """
        return self._asked.include

    @property
    def effort(self) -> str | None:
        """The reasoning effort that was asked for, or None for the server's default."""
        return self._asked.effort

    @property
    def window(self) -> str:
        """The completion window that was asked for, or ""."""
        return self._asked.window

    @property
    def tier(self) -> str:
        """The service tier that was asked for, or ""."""
        return self._asked.tier

    @property
    def in_batch(self) -> bool:
        """Whether it is a line of a batch: every other request asks for background mode."""
        return self._asked.in_batch

    @property
    def max_output_tokens(self) -> int | None:
        """The most tokens that the response may have, or None where it is not bounded."""
        return self._asked.max_output_tokens


# The heads of the newest requests, by their models and efforts, and how many are kept.
_HEADS: OrderedDict[tuple[str, str | None], RequestHead] = OrderedDict()
_MOST_HEADS = 32


def _shared_head(head: RequestHead) -> RequestHead:
    """The same as others have it, if they do."""
    which = head.model, head.effort
    known = _HEADS.get(which)
    if known == head:
        return known
    if head.text_format is not None:  # the caller's own, who may change it
        head = replace(head, text_format=json.loads(json.dumps(head.text_format)))
    _HEADS[which] = head
    if len(_HEADS) > _MOST_HEADS:
        with contextlib.suppress(KeyError):  # another thread was quicker
            _HEADS.popitem(last=False)
    return head


@functools.lru_cache(16)
def _same(value: T) -> T:
    """One object for all values that are equal."""
    return value


@functools.lru_cache(64)
def _holds_secret(body: str, secrets: tuple[str, ...]) -> bool:
    return without_secrets(json.loads(body), secrets)[1]


def _header(body: Mapping[str, Any]) -> RequestHead:
    text_format = inner_field(body, "text", "format")
    effort = inner_field(body, "reasoning", "effort")
    window = inner_field(body, "background_options", "completion_window") or ""
    structured = isinstance(text_format, dict) and text_format.get("type") == "json_schema"
    most = body.get("max_output_tokens")
    return RequestHead(
        streams=body.get("stream") is True,
        model=sys.intern(str(body.get("model", ""))),
        text_format=text_format if structured else None,
        effort=None if effort is None else sys.intern(str(effort)),
        window=sys.intern(str(window)),
        tier=sys.intern(str(body.get("service_tier") or "")),
        max_output_tokens=most if isinstance(most, int) else None,
        include=_included(body.get("include")),
        in_batch="model" in body and "background" not in body,
    )


# What JSON gives back as it was; a key of a dict must be a `str` for that, too.
_LEAVES = frozenset({str, int, float, bool, type(None)})


def _is_plain(value: Any) -> bool:
    """Whether parsing the JSON text of ``value`` gives the very same; not so with a tuple in it."""
    kind = type(value)
    if kind in _LEAVES:
        return True
    if kind is dict:
        return all(type(key) is str and _is_plain(part) for key, part in value.items())
    return kind is list and all(map(_is_plain, value))


def _included(given: Any) -> tuple[str, ...]:
    named = given if isinstance(given, list) else ()
    return tuple(sys.intern(str(one)) for one in named if isinstance(one, str) and one != ENCRYPTED)


def inner_field(body: Mapping[str, Any], outer: str, inner: str) -> Any:
    """What stands at ``body[outer][inner]``, or None."""
    found = body.get(outer)
    return found.get(inner) if isinstance(found, dict) else None


def hash_of(value: object) -> str:
    """Hash of a JSON value (32 hex digits), the same in whichever order its keys are."""
    return _hash(_sorted(value)).hex()


def fingerprinted(body: Mapping[str, Any], server: str, partial: str = "") -> str:
    """What the fingerprint of a body is the hash of."""
    # In a batch, too, the same is asked.
    asked = {key: value for key, value in body.items() if key != "stream"} | {"background": True}
    return _sorted([server, asked, partial] if partial else [server, asked])


def _sorted(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def check_text(text: str) -> None:
    """Check that ``text`` can be sent and stored.

    Raises:
        BadInput: it has lone surrogates: halves of character pairs, mostly from text that was cut.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        broken = f"U+{ord(error.object[error.start]):04X}"
        raise BadInput(f"the text holds {broken}, half a character that can't be sent") from None


def _dump(body: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False)
        check_text(text)
    except BadInput:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"the request can't be written as JSON: {error}") from None
    return text
