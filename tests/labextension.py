"""Writes what JupyterLab's extension knows of the options, by the declarations of the magics.

``python -m tests.labextension`` after an option was added or changed.
"""

from __future__ import annotations

import json
from pathlib import Path

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
        f"  {json.dumps(magic)}: {{\n" + "".join(f"    {line},\n" for line in listed) + "  },\n"
        for magic, listed in told.items()
    ]
    return f"// Written by `{COMMAND}` from the declarations in Python.\nexport default {{\n{''.join(lines)}}};\n"


def _told(option: Option) -> str:
    """An option's flags, and what it takes: a list of choices, a variable's name, any value, nothing.

    Its help is Shift+Tab's: JupyterLab loads this with each page.
    """
    takes = "name" if option.takes_variable else "value" if option.metavar else ""
    return f"{json.dumps(' '.join(option.flags))}: {json.dumps(option.choices or takes, ensure_ascii=False)}"


if __name__ == "__main__":
    PATH.write_text(options_module())
