"""A function of the notebook that the model may call, and how it is called."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import re
import typing
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard

from bgmagic.api.request import check_text
from bgmagic.api.strict_schema import StrictSchema
from bgmagic.api.structured_output import validation_line
from bgmagic.concurrency import LoopThread, on_own_thread
from bgmagic.errors import BadInput
from bgmagic.jobs.steps import ASK_MARK
from bgmagic.prompts.to_text import to_text
from bgmagic.text import kind_of, one_line
from bgmagic.values import dataclass

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

OnMain = Callable[[Callable[[], Any]], Future[Any]]  # calls a function on the kernel's main thread

# Characters of what a function gives; a model's context holds no more, the API takes 10,485,760
# (OpenAPI: FunctionCallOutputItemParam).
LONGEST_OUTPUT = 1_000_000

LONGEST_ERROR = 2_000  # characters of an error's text

_LOOP = LoopThread("bgmagic-tools")  # async functions of all jobs are awaited there


@dataclass(frozen=True)
class CallOutput:
    """What a call gave.

    Attributes:
        text: what the model gets.
        failed: whether it is about an error.
    """

    text: str
    failed: bool = False


@dataclass(frozen=True)
class FunctionTool:
    """A function that the model may call.

    Attributes:
        function: the user's own, sync or async.
        entry: the tool, as the API takes it.
        asks: whether each call needs somebody's word.
        can_ask: whether there is anybody who could give it.
        on_main: calls it on the kernel's main thread, between cells; None calls it on a thread.
    """

    function: Callable[..., Any]
    entry: dict[str, Any]
    asks: bool = False
    on_main: OnMain | None = field(default=None, repr=False)
    can_ask: bool = True

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        *,
        asks: bool = False,
        on_main: OnMain | None = None,
        can_ask: bool = True,
    ) -> FunctionTool:
        """Make the tool of ``function``; one that is marked asks in any case.

        Raises:
            BadInput: it has no signature that can be said in strict mode.
        """
        asks = asks or bool(getattr(function, ASK_MARK, False))
        return cls(function, function_entry(function), asks, on_main, can_ask)

    @property
    def name(self) -> str:
        """The name by which the model calls it."""
        return str(self.entry["name"])

    def call(self, arguments: str) -> Future[CallOutput]:
        """Call it with the JSON text ``arguments``, on its own thread; the future never raises."""
        return on_own_thread(lambda: self._output(arguments), f"bgmagic-{self.name}")

    def _output(self, arguments: str) -> CallOutput:
        try:
            positional, named = read_arguments(self.function, arguments)
        except ValueError as error:
            return failure(f"the arguments do not fit: {error}")
        except BaseException as error:  # validators are the user's code
            return failure(f"the arguments could not be read: {_error_text(error)}")
        try:
            run = functools.partial(self.function, *positional, **named)
            given = run() if self.on_main is None else self.on_main(run).result()
            if inspect.isasyncgen(given):
                given = _LOOP.run(_listed(given)).result()
            elif inspect.isawaitable(given):
                given = _LOOP.run(_awaited(given)).result()
        except BaseException as error:  # whatever it raises is the model's to read
            return failure(_error_text(error))
        return output_of(given)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _listed(generator: AsyncIterable[Any]) -> list[Any]:
    return [item async for item in generator]


def _error_text(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "CancelledError"
    try:
        text = str(error)
    except BaseException:  # of the user's own class, which may do anything as well
        text = ""
    return f"{type(error).__name__}: {one_line(text, LONGEST_ERROR)}".rstrip(": ")


def failure(why: str) -> CallOutput:
    """The output of a call that gave nothing, as a line that the model reads."""
    return CallOutput(f"Error: {why}", failed=True)


def output_of(given: Any) -> CallOutput:
    """What a function gave, as the text that the model gets: as `to_text` writes it."""
    try:
        text = "null" if given is None else to_text(given)
        # Of no text the model could not tell whether there is nothing, or nothing was said.
        text = text or ("" if isinstance(given, str) else "[]")
        check_text(text)
    except BadInput as error:
        return failure(f"it gave {kind_of(given)}, which is no text: {one_line(str(error), 500)}")
    except BaseException as error:  # an object of the user's that breaks, or exits, as it is read
        return failure(f"what it gave can't be read: {_error_text(error)}")
    if len(text) > LONGEST_OUTPUT:
        return failure(
            f"it gave {len(text):,} characters, and {LONGEST_OUTPUT:,} can be sent at most: ask "
            "for a smaller part"
        )
    return CallOutput(text)


def is_function(value: object) -> bool:
    """Whether ``value`` is meant to be called, and no class."""
    return callable(value) and not isinstance(value, type)


def same_signature(entry: dict[str, Any], others: Sequence[Any]) -> bool:
    """Whether the model was given this very tool, by name and parameters, among ``others``."""
    what = ("type", "name", "parameters")
    asked = [{key: other.get(key) for key in what} for other in others if isinstance(other, dict)]
    return {key: entry.get(key) for key in what} in asked


# Its schema, by Pydantic, which is imported when used.

# OpenAPI: FunctionTool's name.
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def function_entry(function: Callable[..., Any]) -> dict[str, Any]:
    """Make the tool's entry, as the API takes it, of a function's name, docstring and signature.

    Every parameter is required, as strict mode wants it; one with a default may be null, which
    means the default.

    Raises:
        BadInput: a parameter has no type, or strict mode has no word for it.
    """
    name = getattr(function, "__name__", "")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadInput(
            f"--tool: a function needs a name of up to 64 letters, digits, _ and -, not {name!r}; "
            "write it with def"
        )
    where = f"--tool {name}"
    try:
        schema = _arguments_of(function).model_json_schema(by_alias=True)
    except BadInput:
        raise
    except Exception as error:  # annotations are the user's, and may be anything
        why = one_line(str(error).partition("\n")[0], 200)
        raise BadInput(f"{where}: Pydantic makes no schema of its parameters: {why}") from None
    schema.pop("title", None)
    about = inspect.getdoc(function)
    parameters = StrictSchema(schema, where, lenient=True).root()
    described = {"description": about} if about else {}
    return {"type": "function", "name": name, **described, "parameters": parameters, "strict": True}


def read_arguments(function: Callable[..., Any], text: str) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the keyword arguments that the JSON ``text`` of a call gives.

    Raises:
        ValueError: they do not fit the signature; the one line names the parameter.
    """
    import pydantic

    try:
        given = json.loads(text or "{}")
        given = {} if given is None else given  # as some servers write that there are none
    except (ValueError, RecursionError) as error:
        raise ValueError(f"they are not JSON: {error}") from None
    if not isinstance(given, dict):
        raise ValueError("they must be a JSON object")  # noqa: TRY004 - of a text, not of a type
    parameters = _parameters(function)
    kept = {
        key: value
        for key, value in given.items()
        if value is not None or key not in parameters or _required(parameters[key])
    }
    try:
        read = _arguments_of(function).model_validate_json(json.dumps(kept))
    except pydantic.ValidationError as error:
        raise ValueError(validation_line(error)) from None
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for number, (name, parameter) in enumerate(parameters.items()):
        by_place = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        if name in kept:
            value = getattr(read, f"p{number}")
        elif _is_field(parameter.default):
            value = parameter.default.get_default(call_default_factory=True)
        elif by_place:  # what comes after it must not take its place
            value = parameter.default
        else:
            continue
        if by_place:
            positional.append(value)
        else:
            named[name] = value
    return positional, named


def _required(parameter: inspect.Parameter) -> bool:
    default = parameter.default
    return default.is_required() if _is_field(default) else default is inspect.Parameter.empty


def _is_field(default: object) -> TypeGuard[FieldInfo]:
    """Whether it describes the parameter, as in ``city: str = Field(description="its name")``."""
    from pydantic.fields import FieldInfo

    return isinstance(default, FieldInfo)


def _described(hint: Any, default: object) -> Any:
    """The type of a parameter with what is said of it: by a `Field` in place of its default, or by
    text in its `Annotated`."""
    import pydantic

    bounds = default.metadata if _is_field(default) else ()
    texts = [one for one in getattr(hint, "__metadata__", ()) if isinstance(one, str)]
    if _is_field(default) and default.description:
        texts = [default.description]
    about = [pydantic.Field(description=texts[0])] if texts else []
    said = (hint, *bounds, *about)
    return Annotated.__class_getitem__(said) if len(said) > 1 else hint  # type: ignore[attr-defined]


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


@functools.lru_cache(maxsize=256)
def _arguments_of(function: Callable[..., Any]) -> Any:
    """A Pydantic model with a field for each parameter, by the parameter's name as its alias."""
    import pydantic

    name = getattr(function, "__name__", "the function")
    try:
        parameters = _parameters(function)
        hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except Exception as error:  # no signature, or a name in it that is not known
        raise BadInput(
            f"--tool {name}: its signature can't be read: {one_line(str(error))}"
        ) from None
    fields: dict[str, Any] = {}
    for number, (key, parameter) in enumerate(parameters.items()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise BadInput(
                f"--tool {name}: a model can't fill *{key}; give it a parameter for each argument"
            )
        if key not in hints:
            raise BadInput(f"--tool {name}: its parameter {key} needs a type, as in {key}: str")
        hint = _described(hints[key], parameter.default)
        if _required(parameter):
            fields[f"p{number}"] = (hint, pydantic.Field(alias=key))
        else:
            optional: Any = typing.Union.__getitem__((hint, None))  # any type
            fields[f"p{number}"] = (optional, pydantic.Field(default=None, alias=key))
    config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=False)
    return pydantic.create_model(name, __config__=config, **fields)
