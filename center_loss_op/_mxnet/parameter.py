"""The parameter that holds the centers in Gluon, right whenever it is read.

:func:`install_in_symbol_blocks` makes the centers of every imported block such a parameter.
"""
import contextlib
import threading
import weakref
from functools import wraps

import mxnet as mx

from .fence import fence
from .graph import center_losses

__all__ = ['Centers', 'calling', 'install_in_calls', 'install_in_symbol_blocks']


class _Calling(threading.local):
    """The block that Gluon is calling in this thread, which reads parameters to compute with."""
    block = None

    @contextlib.contextmanager
    def __call__(self, block):
        before, self.block = self.block, block
        try:
            yield
        finally:
            self.block = before


calling = globals().get('calling') or _Calling()  # stays when this module is executed again


class Centers(mx.gluon.Parameter):
    """Centers that are right whenever they are read.

    After a backward pass whoever reads them gets them moved: see :mod:`center_loss_op._mxnet.fence`.
    Who reads them while recording, for another term of the loss, gets a copy, for the backward
    pass of center loss moves them before that of the other term has read them.

    Gluon itself gets a handle of its own each time, on the same memory. Recording writes a note
    into every array that an operator reads and that has no gradient, without a lock, and a
    backward pass clears it: threads that shared one crashed, and of two backward passes the
    second failed.

    Attributes
    ----------
    readers : collection of Block
        Blocks that were called with these centers; their graphs hold the operator's arguments.
    """
    readers = ()

    def __getstate__(self):
        """For a copy, which no block has read yet."""
        self._fence()
        return {name: value for name, value in self.__dict__.items() if name != 'readers'}

    def data(self, ctx=None):
        return self._read([super().data(ctx)])[0]

    def list_data(self):
        return self._read(super().list_data())

    def cast(self, dtype):
        self._fence()
        super().cast(dtype)

    def _fence(self):
        for array in self._data or ():
            fence(array)

    def _read(self, arrays):
        for array in arrays:
            fence(array)
        if calling.block is not None:
            self.readers = self.readers or weakref.WeakSet()
            self.readers.add(calling.block)
            return [array.detach() for array in arrays]
        if mx.autograd.is_recording():
            with mx.autograd.pause():
                return [array.copy() for array in arrays]
        return arrays


def _with_centers(call_cached_op):
    """`HybridBlock._call_cached_op`, which tells centers who reads them."""
    @wraps(call_cached_op)
    def called(self, *args):
        with calling(self):
            return call_cached_op(self, *args)
    called.knows_centers = True
    return called


def _with_known_centers(init):
    """`SymbolBlock.__init__`, whose centers become such as know when they are read."""
    @wraps(init)
    def known(self, outputs, *args, **kwargs):
        init(self, outputs, *args, **kwargs)
        for loss in center_losses(self._cached_graph[1]):
            centers = self.params.get(loss.centers)
            if not isinstance(centers, Centers):
                centers.__class__ = Centers
    known.knows_centers = True
    return known


def install_in_calls():
    """Replace `HybridBlock._call_cached_op`."""
    block = mx.gluon.HybridBlock
    if not hasattr(block._call_cached_op, 'knows_centers'):
        block._call_cached_op = _with_centers(block._call_cached_op)
    return 'replaced'


def install_in_symbol_blocks():
    """Replace `SymbolBlock.__init__`."""
    block = mx.gluon.SymbolBlock
    if not hasattr(block.__init__, 'knows_centers'):
        block.__init__ = _with_known_centers(block.__init__)
    return 'replaced'
