"""Formulas as MathML, written when the pages are built: readers need no script, no font server, no network.

The font STIX Two Math (SIL Open Font License) comes with the package ziamath, and is copied into the site.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.math import get_node_equation_number

BAR = re.compile(r'<mo( stretchy="false")?>&#x0007C;</mo>')


def mathml(formula: str, display: str = "inline") -> str:
    """Return a formula as MathML, without the space of a relation around the bars of absolute values."""
    return BAR.sub('<mo stretchy="false" lspace="0" rspace="0">|</mo>', convert(formula, display=display))


def inline(writer: Any, node: nodes.math) -> None:
    """Write a formula in a line of text."""
    writer.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def displayed(writer: Any, node: nodes.math_block) -> None:
    """Write a formula on a line of its own, with its number if it has one."""
    writer.body.append(writer.starttag(node, "div", CLASS="math"))
    if node["number"]:
        number = get_node_equation_number(writer, node)
        writer.body.append(f'<span class="eqno">({number})</span>')
    writer.body.append(mathml(node.astext(), display="block"))
    writer.body.append("</div>")
    raise nodes.SkipNode


def bring_font(app: Sphinx, config: Config) -> None:
    """Put the folder of the font, which holds nothing else, among those that are copied."""
    config.html_static_path.append(str(Path(find_spec("ziamath").origin).parent / "fonts"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer under the name that ``html_math_renderer`` uses."""
    app.connect("config-inited", bring_font)
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
