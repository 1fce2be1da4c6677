"""Reads of the centers come after updates that were queued before, and before later ones.

The engine takes the backward pass of a custom operator for a reader of the auxiliary state,
although this operator's backward pass moves the centers. So it may run a read that was queued after
the backward pass before the update, and a read that was queued before it at the same time as the
update. A :func:`fence` keeps them in order. Each backward pass has fences around it, that of an
executor and that of autograd, and in Gluon each read of the centers is a fence.
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

__all__ = ['Centers', 'blocks_being_traced', 'fence', 'install']

# A method of NDArray that queues a write of the array, which puts the memory that the array is a
# view of back into the plain layout. A build without oneDNN has neither layout nor method.
try:
    _to_plain_layout = _LIB['_ZNK5mxnet7NDArray20Reorder2DefaultAsyncEv']
    _to_plain_layout.restype = None
except AttributeError:
    _to_plain_layout = None


def fence(array):
    """Make operations on `array` that are queued from now on wait for those queued before, and see
    it in the plain layout.

    This queues an operation that counts as a write of the array and leaves its values. The calling
    thread does not wait; the call takes 3 us.
    """
    if _to_plain_layout:
        _to_plain_layout(array.handle)
    elif array.size:
        with mx.autograd.pause():
            array[:1] *= 1


# The centers of each executor that has run backward.
_centers_of: 'weakref.WeakKeyDictionary[Any, Any]' = weakref.WeakKeyDictionary()


def _executor_fenced(backward):
    """`Executor.backward` between two fences for the centers of each center loss.

    The one in front waits for earlier reads, among them forward passes of other nodes with the same
    centers: an executor does not declare that a forward pass writes its auxiliary states.
    """
    @wraps(backward)
    def fenced_backward(self, *args, **kwargs):
        if self not in _centers_of:
            names = {loss.centers for loss in center_losses(self._symbol)}
            _centers_of[self] = [self.aux_dict[name] for name in names]
        centers = _centers_of[self]
        if centers:
            defer_sigint()
        for array in centers:
            fence(array)
        backward(self, *args, **kwargs)
        for array in centers:
            fence(array)
    return fenced_backward


# Centers that were read, by the identity of the state that both views share.
_read: 'weakref.WeakValueDictionary[int, Any]' = weakref.WeakValueDictionary()


class Centers(mx.gluon.Parameter):
    """The centers as Gluon computes with them; `as_read` is the same parameter for users.

    `data()` returns a new handle of the same memory each time, because recording writes a note
    into each input array that has no gradient, without a lock, and a backward pass clears it:
    threads that shared one handle crashed, and of two backward passes the second one failed. Each
    call is also a fence: an operation on the handle comes after the steps that were queued before.

    The centers of float16 features stay float32, whichever way they are cast or loaded.
    """
    _views: Any = None

    @property
    def as_read(self):
        """A :class:`CentersAsRead` that shares the whole state."""
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


def _autograd_fenced(backward):
    """`MXAutogradBackwardEx`, which all of autograd's backward passes call, between two fences.

    The fence in front also puts the centers into the plain layout if something between the passes
    has put them into another.
    """
    def fenced_backward(*args):
        _fence_all()
        status = backward(*args)
        _fence_all()
        return status
    return fenced_backward


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
