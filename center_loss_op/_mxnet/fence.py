"""Reads of the centers that come after a step never see the values before it.

To the engine the backward pass of a custom operator only reads an auxiliary state, so a read that
is queued after it may come before the update: see :func:`fence`.
"""
import ctypes
import weakref
from functools import wraps

import mxnet as mx
from mxnet.base import _LIB, check_call
from mxnet.executor import Executor

from .graph import center_losses

__all__ = ['fence', 'install']

# What the engine is asked to run: any C function will do, and this one takes no arguments.
_nothing = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)
_cpu = (ctypes.c_int * 2)(mx.Context.devstr2type['cpu'], 0)


def fence(array):
    """Have reads of `array` that are queued from now on wait for the operators queued before.

    The engine runs a write after all reads that were queued before it, and before all that are
    queued later. This queues one that writes nothing: nobody waits here, and 3 us are all it costs.
    """
    written = (ctypes.c_void_p * 1)(array.handle)
    check_call(_LIB.MXEnginePushSyncND(_nothing, None, None, ctypes.byref(_cpu), None, 0, written,
                                       1, None, 0, b'center_loss_fence'))


_centers_of = weakref.WeakKeyDictionary()   # an executor's, found when it first runs backward


def _fenced(backward):
    """`Executor.backward`, and a fence behind it for the centers of each center loss."""
    @wraps(backward)
    def fenced_backward(self, *args, **kwargs):
        backward(self, *args, **kwargs)
        if self not in _centers_of:
            names = {loss.centers for loss in center_losses(self._symbol)}
            _centers_of[self] = [self.aux_dict[name] for name in names]
        for centers in _centers_of[self]:
            fence(centers)
    fenced_backward.is_fenced = True
    return fenced_backward


def install():
    """Replace `Executor.backward`."""
    if not hasattr(Executor.backward, 'is_fenced'):
        Executor.backward = _fenced(Executor.backward)
    return 'replaced'
