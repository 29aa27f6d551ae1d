"""What --dry-run tells: the exact request, what was put into it, and what it waits for.

Nothing is sent for it and nothing looked up in the network.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bgmagic.api.pricing import (
    BATCH,
    BYTES,
    Billing,
    price_of_tokens,
    prices_installed,
)
from bgmagic.api.redaction import without_secrets
from bgmagic.api.request import Request
from bgmagic.api.response import TokenCounts
from bgmagic.prompts.template import PartialPrompt
from bgmagic.submission.submit import PreparedRequest
from bgmagic.text import dollars

_UNBOUNDED = "what comes out is bounded by the model's context only (--max-output-tokens)"

_NO_BOUND = "what comes out has no bound without --max-output-tokens, and so no price"

SHOWN = 200  # characters of an attached file; nobody reads more of it

# Where tiktoken 0.14 has its vocabularies from, by which it names them in its cache.
_VOCABULARY = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"


def describe_request(
    prepared: PreparedRequest, secrets: Iterable[str], server: str | None = None
) -> str:
    """The request and what is worth knowing about it, as text.

    Args:
        secrets: what must not be shown, the configured key and the like.
        server: where it would go, whose prices hold; None tells no price.
    """
    request = prepared.request
    body, hidden = without_secrets(json.loads(request.sent_text), tuple(secrets))
    text = json.dumps(_shortened(body), ensure_ascii=False, indent=2)
    batched = "background" not in request.body
    to = "The file of a batch would get a line with" if batched else "POST /responses would get"
    lines = [f"Nothing is sent. {to}:", text]
    if hidden:
        lines.append('Where "[secret]" stands, the request holds a secret.')
    for inserted in prepared.substitutions:
        count = len(inserted.text)
        characters = "1 character" if count == 1 else f"{count:,} characters"
        lines.append(f"{inserted.expression.place}: {characters} put in")
    if prepared.needs:
        names = ", ".join(prepared.waits_for)
        lines.append(f"It would wait for {names}, and be sent with what comes of that.")
    if prepared.partial is not None and PartialPrompt(prepared.partial).continues is not None:
        lines.append("Before these messages come those of the conversation that it goes on with.")
    if request.previous is not None:
        lines.append(
            f"The server has the turns before as {request.previous.response_id}; if no longer, all "
            f"{len(request.body['input'])} items are sent."
        )
    tokens = estimated_tokens(request.body)
    if tokens is not None:
        lines.append(f"About {tokens:,} tokens of text go in, by tiktoken.")
    if server is not None:
        lines.append(quote(prepared.request, server))
        if prepared.rounds is not None:
            lines.append(
                f"That is for one request: its functions may be called in up to "
                f"{prepared.rounds.limit} rounds (--max-rounds), each of which is one more."
            )
    return "\n".join(lines)


def quote(request: Request, server: str) -> str:
    """What a request can cost at most: as it is, in a window, in a batch."""
    billing = Billing.of(request)
    asked = billing.terms
    ways = {
        "as it is": asked,
        "in 2h": replace(asked, tier="", window="2h"),
        "in 8h": replace(asked, tier="", window="8h"),
        "in a batch": replace(asked, tier=BATCH, window=""),
    }
    if request.functions:  # which no batch can call
        del ways["in a batch"]
    told = {way: replace(billing, terms=terms).most(server) for way, terms in ways.items()}
    known = [f"{dollars(most)} {way}" for way, most in told.items() if most is not None]
    about = f"About {billing.size // BYTES + 1:,} tokens go in"
    if not known:
        inside = TokenCounts(billing.size // BYTES + 1, 0)
        price = price_of_tokens(asked, server, inside)
        if price is not None:
            return f"{about}, for {dollars(price)}; {_NO_BOUND}."
        how = "" if prices_installed() else ": pip install 'bgmagic[prices]'"
        return f"{about}; no price known for {asked.model} at this server{how}."
    most = billing.most_output
    bound = f"at most {most:,} come out" if most is not None else _UNBOUNDED
    unknown = [way for way, most in told.items() if most is None]
    rest = f"; no price known {', '.join(unknown)}" if unknown else ""
    return f"{about}, {bound}: it can cost {', '.join(known)}{rest}."


def _shortened(value: Any) -> Any:
    """``value`` without the bulk of attached files."""
    if isinstance(value, str) and value.startswith("data:") and len(value) > SHOWN:
        return f"{value[:SHOWN]}… ({len(value):,} characters)"
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    return [_shortened(item) for item in value] if isinstance(value, list) else value


def estimated_tokens(body: dict[str, Any]) -> int | None:
    """How many tokens the texts of a request have; None where no tokenizer for its model is here.

    Roles and files are not counted.
    """
    if "tiktoken" not in sys.modules and find_spec("tiktoken") is None:
        return None
    import tiktoken

    try:
        name = tiktoken.encoding_name_for_model(str(body.get("model")))
    except KeyError:
        return None
    if not _is_here(name, tiktoken.registry.ENCODINGS):
        return None
    encoding = tiktoken.get_encoding(name)
    return sum(len(encoding.encode(text, disallowed_special=())) for text in _texts(body))


def _is_here(name: str, loaded: Iterable[str]) -> bool:
    # tiktoken would fetch a vocabulary that it does not have, while the cell waits.
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    place = Path(folder) if folder else Path(tempfile.gettempdir()) / "data-gym-cache"
    url = _VOCABULARY.format(name)
    key = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()  # as tiktoken does
    return name in loaded or (place / key).exists()


def _texts(body: dict[str, Any]) -> list[str]:
    texts = [body.get("instructions")]
    for message in body.get("input", []):
        content = message.get("content")
        parts = content if isinstance(content, list | tuple) else [{"text": content}]
        texts += [part.get("text") for part in parts if isinstance(part, dict)]
    return [text for text in texts if isinstance(text, str)]
