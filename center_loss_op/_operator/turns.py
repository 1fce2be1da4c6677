"""Who moves the centers now, and who waits; csrc/step.c has the same rules for its steps.

Steps take turns: the centers are an input of MXNet's backward operator, not an output, so nothing
else keeps two backward passes over the same centers from running at once.

Two training forward passes overlap if both use the same centers and both come before the first of
their backward passes: the loss was called twice before one backward pass.
"""
import ctypes
import threading
import weakref
from typing import Any, MutableMapping

from . import native

__all__ = ['forget', 'moves', 'one_at_a_time', 'waits']

# Stays when this module is executed again.
_ONE_AT_A_TIME = globals().get('_ONE_AT_A_TIME') or threading.Lock()
# Maps a step to the memory of its centers, and whether another step has moved them since.
_waiting: MutableMapping[Any, Any] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class _Claim:
    """A claim on the centers as the steps in C make it, which may update the same centers.

    It waits without Python's lock.
    """
    __slots__ = ('_address', '_node')

    def __init__(self, address):
        self._address = ctypes.c_void_p(address)
        self._node = (ctypes.c_void_p * 2)()

    def __enter__(self):
        native.library().center_loss_claim(self._node, self._address)

    def __exit__(self, *_):
        native.library().center_loss_release(self._node)


def one_at_a_time(address):
    """A context in which no other step reads or moves the centers at this address."""
    return _ONE_AT_A_TIME if native.library() is None else _Claim(address)


def waits(step, address):
    """Note that the backward pass of `step` is going to move the centers at this address."""
    with _lock:
        _waiting[step] = [address, False]


def forget(step):
    """Note that no backward pass of `step` is going to move centers."""
    with _lock:
        _waiting.pop(step, None)


def moves(step):
    """Note that `step` moves its centers now.

    Returns
    -------
    overtaken : bool
        Another step has moved them since the forward pass of this one.
    overtakes : bool
        Another step, whose forward pass saw them as they are now, is still to move them.
    """
    with _lock:
        address, overtaken = _waiting.pop(step)
        others = [note for note in _waiting.values() if note[0] == address]
        for note in others:
            note[1] = True
    return overtaken, bool(others)
