"""Docstrings are plain text with formulas such as |g|² in it; here they become valid reStructuredText."""

import re
from typing import Any

from sphinx.application import Sphinx

CODE = re.compile(r"(``.*?``|`.*?`)")


def escape_bars(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape the bars of absolute values and norms, which would be references, outside of code and examples."""
    example = False
    for number, line in enumerate(lines):
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        if not example and "|" in line:
            parts = CODE.split(line)
            parts[::2] = [text.replace("|", r"\|") for text in parts[::2]]
            lines[number] = "".join(parts)


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before numpydoc reads the docstring."""
    app.connect("autodoc-process-docstring", escape_bars, priority=100)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
