"""Sphinx's settings: `make docs` builds out/docs from the pages and the docstrings."""
import os

os.environ['MXNET_SUBGRAPH_VERBOSE'] = '0'
import center_loss_op

project = 'center_loss_op'
author = 'the center_loss_op developers'
release = version = center_loss_op.__version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.autosummary', 'numpydoc']
root_doc = 'index'
exclude_patterns = ['description.md']
html_theme = 'furo'                     # light and dark
html_title = f'center_loss_op {release}'
html_show_sourcelink = False
myst_heading_anchors = 4
# Pages link to files of the repository as GitHub shows them; tests/project checks these links.
suppress_warnings = ['myst.xref_missing']
autosummary_generate = True
autodoc_typehints = 'none'              # the docstrings name the types
autodoc_member_order = 'bysource'
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
