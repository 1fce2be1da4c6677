"""Center loss (Wen et al., ECCV 2016) for Apache MXNet.

Importing this package registers the operator ``centerloss``. With NumPy 1.24 or newer, import it
before ``mxnet``, which cannot be imported without it (see :mod:`center_loss_op._mxnet`). All that
an import changes in the process is listed there, too.
"""
from ._mxnet import compat, install

compat.check()
install()  # imports MXNet

from . import gluon, legacy, module, symbol
from ._operator.labels import LabelError
from .gluon import CenterLoss, DecorrelationLoss
from .nearest import nearest_center
from .symbol import center_loss, decorrelation_loss

# What `from center_loss_op import *` may bring: `gluon`, `module` and `symbol` are MXNet's, too.
__all__ = ['CenterLoss', 'DecorrelationLoss', 'center_loss', 'decorrelation_loss', 'legacy',
           'nearest_center', '__version__']

__version__ = '3.0.0'
