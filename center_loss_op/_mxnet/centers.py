"""Reads of the centers come after updates that were queued before, and before later ones.

The engine takes the backward pass of a custom operator for a reader of the auxiliary state. So it
may run reads that were queued before or after the backward pass together with the update. A
:func:`fence` keeps them in order. Each backward pass has fences around it, that of an executor and
that of autograd, and in Gluon each read of the centers is a fence.
"""
import traceback
import weakref
from functools import wraps
from operator import attrgetter
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.base import _LIB
from mxnet.executor import Executor

from .graph import center_losses, without_keys
from .interrupts import defer_sigint

# A method of NDArray that queues a write of the array, which puts the memory that the array is a
# view of back into the plain layout. A build without oneDNN has neither layout nor method.
try:
    _to_plain_layout = _LIB['_ZNK5mxnet7NDArray20Reorder2DefaultAsyncEv']
    _to_plain_layout.restype = None
except AttributeError:
    _to_plain_layout = None


def fence(array):
    """Let operations on `array` that are queued from now on wait for those queued before, and see
    it in the plain layout: queue a write that leaves the values. Takes 3 us, without a wait.
    """
    if _to_plain_layout:
        _to_plain_layout(array.handle)
    elif array.size:
        with mx.autograd.pause():
            array[:1] *= 1


def _executor_fenced(backward):
    """`Executor.backward` between two fences for the centers of each center loss.

    The first one also waits for the forward passes of other nodes with the same centers.
    """
    @wraps(backward)
    def fenced_backward(self, *args, **kwargs):
        if not hasattr(self, '_fenced'):
            names = {loss.centers for loss in center_losses(self._symbol)}
            self._fenced = [self.aux_dict[name] for name in names]
        if self._fenced:
            defer_sigint()
        for array in self._fenced:
            fence(array)
        backward(self, *args, **kwargs)
        for array in self._fenced:
            fence(array)
    return fenced_backward


# Centers that were read, by the identity of the state that both views share.
_read: 'weakref.WeakValueDictionary[int, Any]' = weakref.WeakValueDictionary()


class Centers(mx.gluon.Parameter):
    """The centers as Gluon computes with them; `as_read` is the same parameter for users.

    `data()` is a fence, and returns a new handle of the same memory each time, because recording
    writes a note into each input array that has no gradient, without a lock, and a backward pass
    clears it: threads that shared one handle crashed, and the second of two backward passes failed.

    The centers of float16 features stay float32, whichever way they are cast or loaded.
    """
    _views: Any = None

    @property
    def as_read(self):
        if self._views is None:
            view = object.__new__(CentersAsRead)
            view.__dict__ = self.__dict__
            self._views = self, view
        return self._views[1]

    def __getstate__(self):
        """What a copy gets: the values that the queued steps leave."""
        self._fence()
        return self.__dict__

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
    """The centers as users read them, with the state of the `Centers`.

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


def _autograd_fenced(backward):
    """`MXAutogradBackwardEx`, which all of autograd's backward passes call, between two fences."""
    def fenced_backward(*args):
        _fence_all()
        status = backward(*args)
        _fence_all()
        return status
    return fenced_backward


def blocks_being_traced():
    """The blocks whose graphs are being made by the calls that led here; MXNet has no such list."""
    return [frame.f_locals['self'] for frame, _ in traceback.walk_stack(None)
            if frame.f_code is mx.gluon.HybridBlock._get_graph.__code__]


def _with_centers(init):
    """`SymbolBlock.__init__`, which then turns the parameters of center losses into `Centers`.

    Losses whose centers no other block has lose their key: it is that of another network.
    """
    @wraps(init)
    def init_with_centers(self, outputs, *args, **kwargs):
        init(self, outputs, *args, **kwargs)
        inputs, graph = self._cached_graph
        own = set()
        for name in {loss.centers for loss in center_losses(graph)}:
            if name in self.params:     # else they are an input of the block
                parameter = self.params[name]
                if not isinstance(parameter, Centers):
                    parameter.__class__ = Centers
                    parameter._differentiable = False   # so grad_req stays 'null' when all are set
                    own.add(name)
        self._cached_graph = inputs, without_keys(graph, own)
    return init_with_centers


def _without_keys(export):
    """`HybridBlock.export`, which leaves the keys of CenterTrainers out of the file."""
    @wraps(export)
    def export_without_keys(self, *args, **kwargs):
        graph = self._cached_graph
        if graph:
            inputs, symbol = graph
            self._cached_graph = inputs, without_keys(symbol, symbol.list_auxiliary_states())
        try:
            return export(self, *args, **kwargs)
        finally:
            self._cached_graph = graph
    return export_without_keys


def install():
    """Replace functions of MXNet."""
    block = mx.gluon.block
    Executor.backward = _executor_fenced(Executor.backward)
    _LIB.MXAutogradBackwardEx = _autograd_fenced(_LIB.MXAutogradBackwardEx)
    block.SymbolBlock.__init__ = _with_centers(block.SymbolBlock.__init__)
    block.HybridBlock.export = _without_keys(block.HybridBlock.export)
    return 'replaced'
