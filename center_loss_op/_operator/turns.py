"""Who moves the centers now, and who waits; csrc/step.c has the same rules for its steps.

Steps take turns: the centers are an input of MXNet's backward operator, not an output, so nothing
else keeps two backward passes over the same centers from running at once.

Two training forward passes overlap if both use the same centers and both come before the first of
their backward passes: the loss was called twice before one backward pass.
"""
import contextlib
import ctypes
import threading
import weakref
from typing import Any, MutableMapping

from . import native

# Stays when this module is executed again.
_ONE_AT_A_TIME = globals().get('_ONE_AT_A_TIME') or threading.Lock()
# Maps a step to the memory of its centers, and whether another step has moved them since.
_waiting: MutableMapping[Any, Any] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


@contextlib.contextmanager
def one_at_a_time(address):
    """A context in which no other step, in Python or in C, moves the centers at this address."""
    library = native.library()
    if library is None:
        with _ONE_AT_A_TIME:
            yield
        return
    # It waits without Python's lock.
    claim = (ctypes.c_void_p * 2)()
    library.center_loss_claim(claim, ctypes.c_void_p(address))
    try:
        yield
    finally:
        library.center_loss_release(claim)


def waits(step, address):
    """Note that `step` is still to move the centers at this address."""
    with _lock:
        _waiting[step] = [address, False]


def forget(step):
    with _lock:
        _waiting.pop(step, None)


def moves(step):
    """Note that `step` moves its centers now.

    Returns whether another step has moved them since its forward pass, and whether another one,
    whose forward pass saw them as they are now, is still to move them.
    """
    with _lock:
        address, overtaken = _waiting.pop(step)
        others = [note for note in _waiting.values() if note[0] == address]
        for note in others:
            note[1] = True
    return overtaken, bool(others)
