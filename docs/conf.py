"""The documents' site: Sphinx with MyST.  ``make docs`` builds it, warnings being errors."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, whatever is installed

from robusteval import __version__  # noqa: E402

project = "robusteval"
author = "robusteval contributors"
copyright = "robusteval contributors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nitpicky = True
smartquotes = False  # options keep both of their dashes
# Types that other projects document; their sites can't be reached where this one is built.
nitpick_ignore_regex = [(r"py:.*", r".*")]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80  # else each parameter stands in a line of its own
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = "robusteval"
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_theme_options = {
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#1d4e89", "color-brand-content": "#1d4e89"},
    "dark_css_variables": {"color-brand-primary": "#8ab4f8", "color-brand-content": "#8ab4f8"},
}

# NumPy's ArrayLike, as Sphinx spells it out.
_ARRAY_LIKE = re.compile(r"[\w.~]*Buffer \| .*?_NestedSequence\[complex \| bytes \| str\]")


def _shorten(*given: Any) -> tuple[str | None, str | None]:
    """A signature with ``ArrayLike`` by its name."""
    *_, signature, returned = given
    return (_ARRAY_LIKE.sub("ArrayLike", signature) if signature else signature), returned


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", _shorten)
