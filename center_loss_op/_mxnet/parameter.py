"""The centers in Gluon, as two views of one parameter: Gluon's to compute with, the user's to read.

:func:`install` gives such parameters to each `SymbolBlock` with a center loss, too.
"""
import traceback
from functools import wraps
from operator import attrgetter

import mxnet as mx
import numpy as np

from .fence import fence
from .graph import center_losses, without_keys
from .interrupts import defer_sigint

__all__ = ['Centers', 'blocks_being_traced', 'install']


class Centers(mx.gluon.Parameter):
    """The centers as Gluon computes with them.

    `data()` returns a new handle of the same memory each time, because recording writes a note
    into each input array that has no gradient, without a lock, and a backward pass clears it:
    threads that shared one handle crashed, and of two backward passes the second one failed. Each
    call is also a fence: an operation on the handle comes after the steps that were queued before.

    The centers of float16 features stay float32, whichever way they are cast or loaded. Users of an
    imported network, which has no :class:`CenterLoss`, read these, too.
    """
    _views = None

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
    loss moves the centers before that of another term has read them. The fence behind the copy
    keeps the update from overtaking it.
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
            copy = array.copy()
        fence(array)
        return copy


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
    init_with_centers.knows_centers = True
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
    export_without_keys.knows_centers = True
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
