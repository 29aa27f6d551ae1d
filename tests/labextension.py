"""Writes what JupyterLab's extension knows of the options, by the declarations of the magics.

``python -m tests.labextension`` after an option was added or changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bgmagic
from bgmagic.notebook.completion import MAGICS
from bgmagic.submission.options import Option, options

PATH = Path(bgmagic.__file__).parent / "labextension" / "static" / "options.js"

COMMAND = "python -m tests.labextension"


def options_module() -> str:
    """The ES module that holds the options of the cell magics."""
    told = {
        magic: [_told(option) for option in options(settings)]
        for magic, settings in MAGICS.items()
        if magic.startswith("%%")
    }
    lines = [
        f"  {json.dumps(magic)}: [\n"
        + "".join(
            f"    {json.dumps(option, ensure_ascii=False, separators=(',', ':'))},\n"
            for option in listed
        )
        + "  ],\n"
        for magic, listed in told.items()
    ]
    return f"// Written by `{COMMAND}` from the declarations in Python.\nexport default {{\n{''.join(lines)}}};\n"


def _told(option: Option) -> dict[str, Any]:
    """An option without what is as in most; ``names`` is whether its value is a variable's name.

    Its help is Shift+Tab's: JupyterLab loads this with each page.
    """
    told = {
        "flags": option.flags,
        "takes": bool(option.metavar),
        "choices": option.choices,
        "names": option.takes_variable,
    }
    return {name: value for name, value in told.items() if value}


if __name__ == "__main__":
    PATH.write_text(options_module())
