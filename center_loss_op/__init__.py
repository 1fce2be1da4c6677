"""Center loss (Wen et al., ECCV 2016) for Apache MXNet.

Importing this package registers the operator ``centerloss``. With NumPy 1.24 or newer, import it
before ``mxnet``, which cannot be imported without it (see :mod:`center_loss_op._mxnet`). All that
an import changes in the process is listed there, too.

In Gluon:

- ``CenterLoss`` pulls the embedding of each sample towards the center of its class.
- ``DecorrelationLoss`` keeps the features from becoming redundant.
- ``gluon.CenterTrainer`` keeps the centers of several devices or workers identical.

In a symbol graph:

- ``center_loss`` and ``decorrelation_loss`` are the same losses as nodes.
- ``module.CenterTrainer`` is the same trainer, for a Module.

In both:

- ``nearest_center`` assigns samples to classes, and can reject strangers.
- ``horovod.Horovod`` is a store for workers that Horovod has started.
- ``legacy.load_checkpoint`` and ``legacy.load_symbol`` load files of pangyupo's operator.
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
