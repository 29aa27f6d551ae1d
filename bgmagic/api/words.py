"""The API's own words: what the fields of a request may be, as far as options name them."""

from __future__ import annotations

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

VERBOSITIES = ("low", "medium", "high")

SUMMARIES = ("auto", "concise", "detailed")  # OpenAPI: Reasoning.summary

MODES = ("standard", "pro")  # OpenAPI: ReasoningModeEnum

ENCRYPTED = "reasoning.encrypted_content"  # the one that polls of a background response can't have

# What a response can have beside what it always has (SDK 3.57: ResponseIncludable).
INCLUDABLE = (
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url",
    "code_interpreter_call.outputs", "message.output_text.logprobs",
)  # fmt: skip

TIERS = ("flex", "default", "priority")  # the SDK (3.57) has more, for --param service_tier=

# How soon a background response has to be there: seconds of the windows that cost less, which go
# with the standard tier and without a stream only.
WINDOW_SECONDS = {"2h": 7200.0, "8h": 28800.0}

WINDOWS = ("soonest", *WINDOW_SECONDS)

# Hosted tools that the user names by their type alone.
TOOLS = ("web_search", "code_interpreter", "image_generation", "shell", "web_search_preview")
