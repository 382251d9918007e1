"""Docstrings and pages are written to be read as plain text; here they become what Sphinx expects."""

import re
from typing import Any

from sphinx.application import Sphinx

CODE = re.compile(r"(``.*?``|`.*?`)")


def escape_bars(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape the bars of absolute values such as |g|², which would be references, outside of code and examples."""
    example = False
    for number, line in enumerate(lines):
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        if not example and "|" in line:
            parts = CODE.split(line)
            parts[::2] = [text.replace("|", r"\|") for text in parts[::2]]
            lines[number] = "".join(parts)


def close_examples(app: Sphinx, name: str, source: list[str]) -> None:
    """Leave out the empty line by which doctest knows that an example ends before the fence."""
    source[0] = source[0].replace("\n\n```\n", "\n```\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Read each docstring before numpydoc does, and each page before it is parsed."""
    app.connect("autodoc-process-docstring", escape_bars, priority=100)
    app.connect("source-read", close_examples)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
