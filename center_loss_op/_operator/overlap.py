"""Training forward passes that wait for their backward pass, and which of them overlap.

Two of them overlap if both use the same centers, and both come before the first of their backward
passes: the loss was called twice before one backward pass. csrc/step.c does the same for its steps.
"""
import ctypes
import threading
import weakref
from typing import Any, MutableMapping

import numpy as np
from mxnet.base import _LIB, check_call

__all__ = ['forget', 'moves', 'waits']

_lock = threading.Lock()
# Maps a step to the memory of its centers, and whether another step has moved them since.
_waiting: MutableMapping[Any, Any] = weakref.WeakKeyDictionary()


def _memory(centers):
    """The address of an array of a backend."""
    if isinstance(centers, np.ndarray):
        return centers.__array_interface__['data'][0]
    pointer = ctypes.c_void_p()
    check_call(_LIB.MXNDArrayGetData(centers.handle, ctypes.byref(pointer)))
    return pointer.value


def waits(step, centers):
    """Note that the backward pass of `step` is going to move `centers`."""
    with _lock:
        _waiting[step] = [_memory(centers), False]


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
        memory, overtaken = _waiting.pop(step)
        others = [note for note in _waiting.values() if note[0] == memory]
        for note in others:
            note[1] = True
    return overtaken, bool(others)
