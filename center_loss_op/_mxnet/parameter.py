"""The centers in Gluon, as two views of one parameter: Gluon's to compute with, the user's to read.

:func:`install` gives such parameters to each `SymbolBlock` with a center loss, too.
"""
import traceback
import weakref
from functools import wraps
from operator import attrgetter
from typing import Any, MutableMapping

import mxnet as mx
import numpy as np
from mxnet.base import _LIB

from .fence import fence
from .graph import center_losses

__all__ = ['Centers', 'blocks_being_traced', 'install', 'install_around_backward']

# Centers that were read, by the identity of the state that both views share.
_read: MutableMapping[int, Any] = weakref.WeakValueDictionary()


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
    fenced_backward.is_fenced = True
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
    """`SymbolBlock.__init__`, which then turns the parameters of center losses into `Centers`."""
    @wraps(init)
    def init_with_centers(self, outputs, *args, **kwargs):
        init(self, outputs, *args, **kwargs)
        for loss in center_losses(self._cached_graph[1]):
            if loss.centers in self.params:     # else they are an input of the block
                parameter = self.params[loss.centers]
                if not isinstance(parameter, Centers):
                    parameter.__class__ = Centers
    init_with_centers.knows_centers = True
    return init_with_centers


def install():
    """Replace `SymbolBlock.__init__`."""
    block = mx.gluon.SymbolBlock
    if not hasattr(block.__init__, 'knows_centers'):
        block.__init__ = _with_centers(block.__init__)
    return 'replaced'
