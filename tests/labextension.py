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
    """The ES module that holds the options of the cell magics: those that take the same as one line.

    A line is flags, and what they take: a list of choices, a variable's name, any value, nothing.
    Their help is Shift+Tab's: JupyterLab loads this with each page.
    """
    lines = [f"// Written by `{COMMAND}` from the declarations in Python.", "export default {"]
    for magic, settings in MAGICS.items():
        if magic.startswith("%%"):
            groups: dict[str, list[str]] = {}
            for option in options(settings):
                groups.setdefault(_taken(option), []).extend(option.flags)
            lines += [f"  {json.dumps(magic)}: ["]
            lines += [f'    ["{" ".join(flags)}", {takes}],' for takes, flags in groups.items()]
            lines += ["  ],"]
    return "\n".join([*lines, "};", ""])


def _taken(option: Option) -> str:
    takes = "name" if option.takes_variable else "value" if option.metavar else ""
    return json.dumps(option.choices or takes, ensure_ascii=False)


if __name__ == "__main__":
    PATH.write_text(options_module())
