"""The documentation as a site: Sphinx with MyST, as JAX's and Flax's own docs are made.

    pip install -e '.[docs]'
    sphinx-build -W --keep-going -c docs . build/docs

MyST is Markdown, so that a page reads as well on GitHub, and its notebooks are text that diffs
show. Sphinx takes functions out of the source by name, and a warning is an error: a page that
names a function, a link or an option that is no longer there does not build. The sources start at
the root of the repository, where the README is, so that relative links are the same in both places.

Equations are drawn by MathJax in the browser: a copy in the site after `npm install --prefix docs`,
otherwise the one of a public server.
"""

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))
# The pages are made on a CPU, by the package beside them and this Python, also where it is not
# activated; notebooks and commands inherit all three.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["PYTHONPATH"] = str(HERE.parent)
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
sys.path.insert(0, str(HERE.parent))

project = "ddpm_jax"
author = copyright = "The ddpm_jax authors"
release = version = installed_version("ddpm-jax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "api_reference",
    "command_reference",
    "config_reference",
]

# What there is
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**"]
exclude_patterns = [".*", "build", "runs", "**/node_modules", "**/.ipynb_checkpoints"]
nitpicky = True
# Names of other packages, and of types that have no entry of their own: shown, but no links.
nitpick_ignore_regex = [("py:.*", r"(?!ddpm_jax\.).*"), ("py:.*", r"ddpm_jax\.errors\..*")]

# Pages in Markdown
myst_enable_extensions = ["dollarmath", "colon_fence", "fieldlist"]
myst_heading_anchors = 4  # as GitHub makes them
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds, of a cell
nb_merge_streams = True

# The API
autodoc_mock_imports = ["gradio"]  # of the studio, an extra
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
default_role = "code"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
python_maximum_signature_line_length = 80

# How it looks
html_theme = "furo"
html_title = "ddpm_jax"
html_static_path = ["static"]
html_css_files = ["site.css"]
templates_path = ["templates"]
html_additional_pages = {"index": "redirect.html"}  # from the root of the site to docs/index
html_show_sourcelink = False
html_copy_source = False
pygments_style, pygments_dark_style = "friendly", "monokai"

_MATHJAX = HERE / "node_modules" / "mathjax" / "es5" / "tex-svg.js"
if _MATHJAX.is_file():
    html_static_path.append(str(_MATHJAX))
    mathjax_path = _MATHJAX.name
