"""Fences order reads of the centers and the updates of them in MXNet's engine.

The engine takes the backward pass of a custom operator for a reader of the auxiliary state,
although this operator's backward pass moves the centers. So it may run a read that was queued after
the backward pass before the update, and a read that was queued before it at the same time as the
update: see :func:`fence`. Executors have fences around each backward pass, which this module
installs. In Gluon, each read of the centers is a fence, and so are both sides of a backward pass
(:mod:`.parameter`). A fence also puts the array into the plain layout: see :mod:`.layout`.
"""
import ctypes
import weakref
from functools import wraps
from typing import Any, MutableMapping

import mxnet as mx
from mxnet.base import _LIB, check_call
from mxnet.executor import Executor

from .graph import center_losses

__all__ = ['fence', 'install']

# A method of NDArray that queues a write of the array, which puts the memory that the array is a
# view of back into the plain layout. A build without oneDNN has neither layout nor method.
try:
    _to_plain_layout = _LIB['_ZNK5mxnet7NDArray20Reorder2DefaultAsyncEv']
    _to_plain_layout.restype = None
except AttributeError:
    _to_plain_layout = None
# The function that the engine is asked to run there. Any C function without arguments will do.
_nothing = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)
_cpu = (ctypes.c_int * 2)(mx.Context.devstr2type['cpu'], 0)


def fence(array):
    """Make operations on `array` that are queued from now on wait for those queued before, and see
    it in the plain layout.

    This queues an operation that counts as a write of the array and leaves its values. The engine
    runs a write after all reads that were queued before it, and before all reads that are queued
    later. The calling thread does not wait; the call takes 3 us.
    """
    if _to_plain_layout:
        _to_plain_layout(array.handle)
        return
    written = (ctypes.c_void_p * 1)(array.handle)
    check_call(_LIB.MXEnginePushSyncND(_nothing, None, None, ctypes.byref(_cpu), None, 0, written,
                                       1, None, 0, b'center_loss_fence'))


# The centers of each executor that has run backward.
_centers_of: MutableMapping[Any, Any] = weakref.WeakKeyDictionary()


def _fenced(backward):
    """`Executor.backward` between two fences for the centers of each center loss.

    The fence in front holds the update back until earlier reads are done, among them forward passes
    of other nodes with the same centers: an executor does not declare that a forward pass writes
    its auxiliary states. The fence behind holds later reads back until the update is done.
    """
    @wraps(backward)
    def fenced_backward(self, *args, **kwargs):
        if self not in _centers_of:
            names = {loss.centers for loss in center_losses(self._symbol)}
            _centers_of[self] = [self.aux_dict[name] for name in sorted(names)]
        for centers in _centers_of[self]:
            fence(centers)
        backward(self, *args, **kwargs)
        for centers in _centers_of[self]:
            fence(centers)
    fenced_backward.is_fenced = True
    return fenced_backward


def install():
    """Replace `Executor.backward`."""
    if not hasattr(Executor.backward, 'is_fenced'):
        Executor.backward = _fenced(Executor.backward)
    return 'replaced'
