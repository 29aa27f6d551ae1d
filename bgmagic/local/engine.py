"""The model: chat messages in, text piece by piece out (the only importer of xllamacpp).

A generation runs on its caller's thread, as many at a time as `EngineSettings.parallel` says. The
weights' own chat template turns messages into the prompt. One at a time, the same prompt gives the
same text, whatever came before it: sampling is greedy unless asked otherwise, and no prompt cache
is used, since with one the same question was seen to get another answer later on. llama.cpp takes
over SIGINT and SIGTERM while it loads: install handlers after that.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bgmagic.local import LocalServerError, require

Message = Mapping[str, str]
Stopped = Literal["stop", "length", "asked"]

# Tokens of prompt and answer together, by default. The small model was trained for twice as many,
# but each 1,000 tokens cost 45 MB, and a notebook's prompts are shorter.
CONTEXT = 4096
# What --context and --parallel may be. With fewer tokens not even a chat template fits.
MIN_CONTEXT, MAX_CONTEXT = 256, 1_048_576
MAX_PARALLEL = 64
# Prompt tokens between two chances to stop. No slower than 2,048 on one thread, where a stop had
# to wait for the whole prompt; 64 tokens take 0.1 to 0.7 s.
BATCH = 64
# By default: with two threads, beside a busy kernel, it fell from 150 to 2 tokens a second.
THREADS = 1
# With the greedy choice, this read best.
REPEAT_PENALTY = 1.05
# Bytes: a Unix socket's path has room for 104 (macOS), of which our own names take 25.
LONGEST_FOLDER = 75


def setting_ranges() -> dict[str, tuple[int, int]]:
    """The least and the most that each number of `EngineSettings` may be."""
    return {
        "threads": (1, os.cpu_count() or 1),
        "parallel": (1, MAX_PARALLEL),
        "context": (MIN_CONTEXT, MAX_CONTEXT),
    }


@dataclass(frozen=True)
class EngineSettings:
    """Which model runs, and how much of the machine it may take.

    Attributes:
        model: the GGUF file; None for what the environment names, or else the small model.
        threads: CPU threads of all generations together.
        parallel: generations at a time.
        context: tokens of prompt and answer together, of each generation.
    """

    model: Path | None = None
    threads: int = THREADS
    parallel: int = 1
    context: int = CONTEXT

    def __post_init__(self) -> None:
        """Raises a LocalServerError that names the setting that is out of range."""
        for name, (least, most) in setting_ranges().items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise LocalServerError(
                    f"--{name} {value}: it must be a whole number from {least} to {most}."
                )


@dataclass(frozen=True)
class Generation:
    """How a generation ended.

    Attributes:
        stopped: `stop` (the model was done), `length` (the limit or the context was reached), or
            `asked` (the callback stopped it).
        input_tokens: tokens of the prompt, the template's own included.
        output_tokens: tokens generated.
    """

    stopped: Stopped
    input_tokens: int
    output_tokens: int


class PromptTooLong(Exception):
    """The prompt has more tokens than the model takes.

    Attributes:
        tokens: how many it has.
    """

    def __init__(self, tokens: int, most: int) -> None:
        super().__init__(f"it has {tokens} tokens, and {most} fit")
        self.tokens = tokens


class SchemaRefused(Exception):
    """llama.cpp can't follow this JSON schema; the message is its own."""


class GenerationFailed(Exception):
    """llama.cpp refused or broke off; the message is its own."""


class Engine:
    """The loaded model.

    Args:
        path: the GGUF file.
        settings: threads, generations at a time and context.

    Raises:
        LocalServerError: xllamacpp or a library it needs is missing, or the file is no model.
    """

    def __init__(self, path: Path, settings: EngineSettings) -> None:
        self._context = settings.context
        xllamacpp = _import()
        with _closed_listener() as address:
            try:
                params = _params(xllamacpp.CommonParams(), path, settings, address)
            except AttributeError as error:
                raise LocalServerError(
                    f"This xllamacpp is too old ({error}): pip install --upgrade xllamacpp"
                ) from error
            try:
                self._server = xllamacpp.Server(params)
            except RuntimeError as error:
                raise LocalServerError(
                    f"llama.cpp can't load {path}: choose another GGUF file with --model or"
                    " BGMAGIC_LOCAL_MODEL; the small model's own is fetched again once deleted."
                ) from error

    def generate(
        self,
        messages: Sequence[Message],
        *,
        on_text: Callable[[str], bool],
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        schema: Mapping[str, Any] | None = None,
    ) -> Generation:
        """Generates one answer; returns when it is complete or stopped.

        Args:
            on_text: gets each piece of text, and "" now and then while the prompt is read;
                returning True stops the generation.
            max_tokens: at most this many tokens; None for as many as the context holds.
            schema: a JSON schema that every answer fits which is not cut off: only tokens that go
                on with such JSON are considered.

        Raises:
            PromptTooLong: the messages don't fit.
            SchemaRefused: the schema can't be followed.
            GenerationFailed: anything else that llama.cpp reports.
        """
        watch = _Watch(on_text)
        request: dict[str, Any] = {
            "messages": [dict(message) for message in messages],
            "max_tokens": -1 if max_tokens is None else min(max_tokens, self._context),
            "temperature": temperature,
            "top_p": top_p,
            "repeat_penalty": REPEAT_PENALTY,
            "cache_prompt": False,
            "stream": True,
            "timings_per_token": True,
            "return_progress": True,
        }
        if schema is not None:
            shape = {"name": "answer", "schema": dict(schema), "strict": True}
            request["response_format"] = {"type": "json_schema", "json_schema": shape}
        try:
            self._server.handle_chat_completions(request, watch)
        except ValueError as error:
            raise SchemaRefused(str(error).rpartition("failed: ")[2]) from error
        except RuntimeError as error:
            raise GenerationFailed(str(error)) from error
        return watch.result()

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """The number of tokens of the prompt, the template's own included.

        llama.cpp counts when it begins to read a prompt, so this waits while as many generations
        run as may at a time.

        Raises:
            GenerationFailed: llama.cpp can't read the messages.
        """
        try:
            return self.generate(messages, on_text=lambda piece: True).input_tokens
        except PromptTooLong as error:
            return error.tokens


class _Watch:
    """Listens to llama.cpp's stream and adds it up."""

    def __init__(self, on_text: Callable[[str], bool]) -> None:
        self._on_text = on_text
        self._stopped: Stopped | None = None
        self._input_tokens = 0
        self._output_tokens = 0
        self._error: Exception | None = None

    def __call__(self, chunk: dict[str, Any]) -> bool:
        """Takes one event of the stream; True ends it."""
        try:
            return self._take(chunk)
        except Exception as error:  # xllamacpp would swallow it and go on generating
            self._error = error
            return True

    def _take(self, chunk: dict[str, Any]) -> bool:
        if "error" in chunk:
            problem = chunk["error"]
            if "n_ctx" in problem:
                self._error = PromptTooLong(problem["n_prompt_tokens"], problem["n_ctx"])
            else:
                self._error = GenerationFailed(str(problem.get("message", problem)))
            return True
        if progress := chunk.get("prompt_progress"):
            self._input_tokens = progress["total"]
        if timings := chunk.get("timings"):
            self._output_tokens = timings["predicted_n"]
        choice = chunk["choices"][0] if chunk.get("choices") else {"delta": {}}
        if reason := choice.get("finish_reason"):
            self._stopped = "length" if reason == "length" else "stop"
        asked = self._on_text(choice["delta"].get("content") or "")
        if asked and self._stopped is None:
            self._stopped = "asked"
        return asked

    def result(self) -> Generation:
        if self._error is not None:
            raise self._error
        if self._stopped is None:
            raise GenerationFailed("the generation ended without saying why")
        return Generation(self._stopped, self._input_tokens, self._output_tokens)


def _import() -> Any:
    require("xllamacpp")
    try:
        import xllamacpp
    except (ImportError, OSError) as error:
        if "libgomp.so.1" in str(error):
            raise LocalServerError(
                "The local model needs the system library libgomp.so.1: apt-get install"
                " libgomp1, or your distribution's package of that library."
            ) from error
        raise LocalServerError(
            f"xllamacpp can't be loaded ({error}): pip install --upgrade xllamacpp"
        ) from error
    return xllamacpp


def _params(params: Any, path: Path, settings: EngineSettings, address: str) -> Any:
    """llama.cpp's settings: one small, quiet, closed server; AttributeError if it lacks one."""
    params.model.path = str(path)
    params.n_ctx = settings.context * settings.parallel  # shared out evenly
    params.kv_unified = False
    params.n_parallel = settings.parallel
    params.n_batch = params.n_ubatch = BATCH
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
    params.cache_ram_mib = 0
    params.prefill_assistant = False
    params.warmup = False
    params.offline = True
    params.verbosity = 1  # errors only: no prompt gets into the log
    params.hostnames = [address]
    params.api_keys = [secrets.token_urlsafe(32)]
    params.ui = params.endpoint_slots = params.endpoint_props = False
    params.n_threads_http = 1
    return params


@contextmanager
def _closed_listener() -> Iterator[str]:
    """An address for the HTTP listener that xllamacpp insists on, which nobody can reach.

    A Unix socket whose name is removed once it is bound: from then on there is no way to connect
    to it. Elsewhere a free port, guarded by the random API key.
    """
    if os.name != "posix" or len(tempfile.gettempdir()) > LONGEST_FOLDER:
        yield "127.0.0.1"
        return
    folder = tempfile.mkdtemp(prefix="bgmagic-")  # mkdtemp makes it 0700
    try:
        yield str(Path(folder) / "llama.sock")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
