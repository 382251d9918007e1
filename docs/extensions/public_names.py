"""The directive ``public``: the public names of some modules, as modeq itself lists them, with a page for each.

``{public} methods.momentum methods.descent`` stands for all names that ``modeq`` takes from these modules, and
``{public} modeq.problems`` for all of a public module. A name that becomes public needs no change here.
"""

import re
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.autosummary.generate import generate_autosummary_docs
from sphinx.util.docutils import SphinxDirective

import modeq

PAGES = "generated"  # beside the file that has the directive


def public_names(argument: str) -> list[str]:
    """Return the full names that a list of modules stands for."""
    names = []
    for module in argument.split():
        if module.startswith("modeq."):
            names += [f"{module}.{name}" for name in _functions(import_module(module))]
        else:
            names += [f"modeq.{name}" for name in modeq._PUBLIC[module]]
    return names


def _functions(module: Any) -> list[str]:
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if callable(getattr(module, name))]
    own = (name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__)
    return [name for name in own if not name.startswith("_")]


class Public(SphinxDirective):
    """A table of public names, with the first lines of their docstrings."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Make the table that autosummary makes of a written list."""
        names = "\n".join(f"   ~{name}" for name in public_names(self.arguments[0]))
        return self.parse_text_to_nodes(f"```{{eval-rst}}\n.. autosummary::\n   :toctree: {PAGES}\n\n{names}\n```")


def write_pages(app: Sphinx) -> None:
    """Write the pages of all names on all pages, which autosummary does for written lists only."""
    for page in Path(app.srcdir).rglob("*.md"):
        arguments = re.findall(r"^```\{public\} (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        names = [name for argument in arguments for name in public_names(argument)]
        if names:
            with tempfile.TemporaryDirectory() as folder:
                listed = Path(folder, "names.rst")
                lines = [f".. autosummary::\n   :toctree: {page.parent / PAGES}\n", *(f"   {name}" for name in names)]
                listed.write_text("\n".join(lines), encoding="utf-8")
                generate_autosummary_docs([str(listed)], suffix=".rst", app=app)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive, and write the pages before sources are read."""
    app.add_directive("public", Public)
    app.connect("builder-inited", write_pages, priority=400)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
