"""How the documentation is built: ``python -m sphinx -W --keep-going -b html docs build/docs``."""

import sys
from pathlib import Path

import modeq

sys.path.insert(0, str(Path(__file__).parent / "extensions"))
# The zoo is documented under the name by which it is public, not by the file it lives in.
sys.modules["modeq.problems"] = modeq.problems

project = "modeq"
author = "The modeq developers"
copyright = author
version = release = modeq.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "mathml",
    "plain_text",
    "public_names",
]
exclude_patterns = ["_templates"]
templates_path = ["_templates"]
nitpicky = False

# Markdown: formulas in dollars, and headings that a link can reach by their text.
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

# The reference: a page for each public name, from its docstring, with the members that have docstrings.
autosummary_generate = False  # public_names does
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_use_plots = False

html_theme = "pydata_sphinx_theme"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["modeq.css"]
html_title = "modeq"
html_copy_source = False
html_show_sourcelink = False
html_sidebars = {page: [] for page in ("index", "tour", "coming_from", "contributing")}
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "search_bar_text": "Search modeq",
}

# Examples are copied without prompts and without what they print.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
