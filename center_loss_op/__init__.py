"""Center loss (Wen et al., ECCV 2016) for Apache MXNet.

Importing this package registers the operator ``centerloss``. On Python 3.12 import it before
``mxnet``, which cannot be imported there without it (see :mod:`center_loss_op._compat`).
"""
from . import _compat  # before anything imports MXNet
from . import gluon, legacy, lifecycle, module, operator, symbol
from .labels import LabelError
from .nearest import nearest_center

__all__ = ['LabelError', 'gluon', 'legacy', 'module', 'nearest_center', 'symbol',
           '__version__']

__version__ = '1.0.0'
