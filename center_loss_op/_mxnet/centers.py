"""Reads of the centers come after updates that were queued before, and before later ones.

The engine takes the backward pass of a custom operator for a reader of the auxiliary state,
although this operator's backward pass moves the centers. So it may run a read that was queued after
the backward pass before the update, and a read that was queued before it at the same time as the
update. A :func:`fence` keeps them in order. Each backward pass has fences around it, that of an
executor and that of autograd, and in Gluon each read of the centers is a fence.

In Gluon the centers are two views of one parameter: Gluon's to compute with, the user's to read.
:func:`install` gives such parameters to each `SymbolBlock` with a center loss, too.
"""
import ctypes
import traceback
import weakref
from functools import wraps
from operator import attrgetter
from typing import Any, MutableMapping

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call
from mxnet.executor import Executor

from .graph import center_losses, without_keys
from .interrupts import defer_sigint

__all__ = ['Centers', 'blocks_being_traced', 'fence', 'install', 'install_around_backward',
           'install_in_executors', 'install_in_export']

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
        if _centers_of[self]:
            defer_sigint()
        for centers in _centers_of[self]:
            fence(centers)
        backward(self, *args, **kwargs)
        for centers in _centers_of[self]:
            fence(centers)
    fenced_backward.is_fenced = True  # type: ignore[attr-defined]
    return fenced_backward


def install_in_executors():
    """Replace `Executor.backward`."""
    if not hasattr(Executor.backward, 'is_fenced'):
        Executor.backward = _fenced(Executor.backward)
    return 'replaced'


# Centers that were read, by the identity of the state that both views share.
_read: 'weakref.WeakValueDictionary[int, Any]' = weakref.WeakValueDictionary()


class Centers(mx.gluon.Parameter):
    """The centers as Gluon computes with them.

    `data()` returns a new handle of the same memory each time, because recording writes a note
    into each input array that has no gradient, without a lock, and a backward pass clears it:
    threads that shared one handle crashed, and of two backward passes the second one failed. Each
    call is also a fence: an operation on the handle comes after the steps that were queued before.

    The centers of float16 features stay float32, whichever way they are cast or loaded. Users of an
    imported network, which has no :class:`CenterLoss`, read these, too.
    """
    _views: Any = None

    @property
    def as_read(self):
        """The same parameter for users: a :class:`CentersAsRead` that shares the whole state."""
        if self._views is None:
            view = object.__new__(CentersAsRead)
            view.__dict__ = self.__dict__
            self._views = self, view
        return self._views[1]

    def __getstate__(self):
        """A copy gets views of its own."""
        self._fence()
        return {name: value for name, value in self.__dict__.items() if name != '_views'}

    def data(self, ctx=None):
        _read[id(self.__dict__)] = self
        return self._handed_out(super().data(ctx))

    def list_data(self):
        return [self._handed_out(array) for array in super().list_data()]

    def cast(self, dtype):
        self._fence()
        super().cast('float32' if np.dtype(dtype) == np.float16 else dtype)

    def _init_impl(self, data, ctx_list):
        """Parameter's own, for every way in which arrays are made or loaded."""
        super()._init_impl(data.astype('float32') if data.dtype == np.float16 else data, ctx_list)

    def _fence(self):
        for array in self._data or ():
            fence(array)

    @staticmethod
    def _handed_out(array):
        defer_sigint()
        fence(array)
        return array.detach()


class CentersAsRead(Centers):
    """The centers as users read them, which `CenterLoss.centers` returns.

    `data()` returns the array itself; while recording, a copy, because the backward pass of center
    loss moves the centers before that of another term has read them.
    """

    def __reduce__(self):
        """A copy belongs to the copy of the parameter that Gluon computes with."""
        return attrgetter('as_read'), (self._views[0],)

    @staticmethod
    def _handed_out(array):
        fence(array)
        if not mx.autograd.is_recording():
            return array
        with mx.autograd.pause():
            return array.copy()


def _fence_all():
    for reference in _read.valuerefs():     # a list: another thread may read centers meanwhile
        centers = reference()
        if centers is not None:
            centers._fence()


def install_around_backward():
    """Replace `MXAutogradBackwardEx`, which all of autograd's backward passes call.

    The fence in front holds the update back until earlier reads are done, and puts the centers into
    the plain layout if something between the passes has put them into another. The fence behind
    holds later reads back until the update is done.
    """
    backward = _LIB.MXAutogradBackwardEx
    if hasattr(backward, 'is_fenced'):
        return 'replaced'

    def fenced_backward(*args):
        _fence_all()
        status = backward(*args)
        _fence_all()
        return status
    fenced_backward.is_fenced = True  # type: ignore[attr-defined]
    _LIB.MXAutogradBackwardEx = fenced_backward
    return 'replaced'


def blocks_being_traced():
    """The blocks whose graphs are being made by the calls that led here: a list of HybridBlock.

    MXNet keeps no record of them: a child that is called with symbols is not told by whom, and
    the stack of name scopes leaves out blocks with an empty prefix.
    """
    return [frame.f_locals['self'] for frame, _ in traceback.walk_stack(None)
            if frame.f_code is mx.gluon.HybridBlock._get_graph.__code__]


def _with_centers(init):
    """`SymbolBlock.__init__`, which then turns the parameters of center losses into `Centers`.

    A key in a file is that of another network's CenterTrainer. So losses whose centers are not
    parameters that another block has already lose it, and move their own centers.
    """
    @wraps(init)
    def init_with_centers(self, outputs, *args, **kwargs):
        init(self, outputs, *args, **kwargs)
        inputs, graph = self._cached_graph
        own = set()
        for loss in center_losses(graph):
            if loss.centers in self.params:     # else they are an input of the block
                parameter = self.params[loss.centers]
                if not isinstance(parameter, Centers):
                    parameter.__class__ = Centers
                    parameter._differentiable = False   # so grad_req stays 'null' when all are set
                    own.add(loss.centers)
        self._cached_graph = inputs, without_keys(graph, own)
    init_with_centers.knows_centers = True  # type: ignore[attr-defined]
    return init_with_centers


def _without_keys(export):
    """`HybridBlock.export`, which leaves the keys of CenterTrainers out of the file."""
    @wraps(export)
    def export_without_keys(self, *args, **kwargs):
        graph = self._cached_graph
        if graph:
            self._cached_graph = graph[0], without_keys(graph[1])
        try:
            return export(self, *args, **kwargs)
        finally:
            self._cached_graph = graph
    export_without_keys.knows_centers = True  # type: ignore[attr-defined]
    return export_without_keys


def install():
    """Replace `SymbolBlock.__init__`."""
    block = mx.gluon.SymbolBlock
    if not hasattr(block.__init__, 'knows_centers'):
        block.__init__ = _with_centers(block.__init__)
    return 'replaced'


def install_in_export():
    """Replace `HybridBlock.export`."""
    block = mx.gluon.HybridBlock
    if not hasattr(block.export, 'knows_centers'):
        block.export = _without_keys(block.export)
    return 'replaced'
