"""Center loss (Wen et al., ECCV 2016) for Apache MXNet.

Importing this package registers the operator ``centerloss``.
"""
from . import gluon, operator, symbol
from .labels import LabelError

__all__ = ['LabelError', 'gluon', 'symbol', '__version__']

__version__ = '1.0.0'
