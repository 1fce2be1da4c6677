"""Center loss (Wen et al., ECCV 2016) for Apache MXNet.

In Gluon: :class:`CenterLoss`, :class:`DecorrelationLoss`, :class:`gluon.CenterTrainer`. In a
symbol graph: :func:`center_loss`, :func:`decorrelation_loss`, :class:`module.CenterTrainer`. In
both: :func:`nearest_center`, :class:`horovod.Horovod`, and :mod:`legacy` for files of the ported
implementation.

An import registers the operator ``centerloss``; :mod:`center_loss_op._mxnet` lists what else it
changes. With NumPy 1.24 or newer, import this package before ``mxnet``.
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
