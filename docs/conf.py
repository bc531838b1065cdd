"""The site's configuration: `make docs` builds it, and any warning is an error.

The source directory is the repository's root, not this folder (`sphinx-build -c docs . build/docs`). A relative link
such as `../benchmarks/results/speed.md` then leads to a page of the site and to a file on a code host alike, and Sphinx
checks its file and its anchor. A link to a file that is no page, such as `../LICENSE`, becomes a download.
"""

import inspect
from importlib.metadata import version as version_of

from pydantic import BaseModel

project = "pruneonce"
author = "the contributors of pruneonce"
copyright = author
release = version = version_of("pruneonce")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "runtime/README.md",
    "examples/serving/README.md",
    "docs/**",
    "benchmarks/README.md",
    "benchmarks/results/*.md",
    "src/pruneonce/methods/*/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
]
# Folders that Sphinx need not walk through.
exclude_patterns = [".*", "build", "dist", "quickstart", "runs", "tests"]

highlight_language = "text"

myst_heading_anchors = 4  # anchors as code hosts make them: `page.md#some-heading`

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_use_type_comments = False
napoleon_numpy_docstring = False
nitpick_ignore_regex = [("py:class", ".*")]  # annotations name other packages' classes, and there is no network
default_role = "code"  # docstrings are written with single backticks

html_theme = "furo"
html_title = f"pruneonce {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_extra"]  # an index.html that leads to docs/index.html
html_copy_source = False
html_show_sphinx = False


def keys_of_section(app, what, name, thing, options, signature, returned):
    """The signature of a recipe's section: its keys with their defaults, without pydantic's annotations."""
    if what != "class" or not issubclass(thing, BaseModel):
        return None
    keys = [each.replace(annotation=inspect.Parameter.empty) for each in inspect.signature(thing).parameters.values()]
    return str(inspect.Signature(keys)), None


def setup(app):
    app.connect("autodoc-process-signature", keys_of_section)
