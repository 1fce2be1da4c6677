"""One update of a set of centers at a time, whichever arithmetic computes it."""
import ctypes
import threading

import numpy as np

from . import native

__all__ = ['one_update_at_a_time']

# Stays when this module is executed again.
_ONE_UPDATE_AT_A_TIME = globals().get('_ONE_UPDATE_AT_A_TIME') or threading.Lock()


class _Claim:
    """A claim on the centers as the steps in C make it, which may update the same centers.

    It waits without Python's lock.
    """
    __slots__ = ('_centers', '_node')

    def __init__(self, centers):
        self._centers = centers.__array_interface__['data'][0]
        self._node = (ctypes.c_void_p * 2)()

    def __enter__(self):
        native.library().center_loss_claim(self._node, ctypes.c_void_p(self._centers))

    def __exit__(self, *_):
        native.library().center_loss_release(self._node)


def one_update_at_a_time(centers):
    """A context in which no other step reads or moves `centers`, an array of a backend.

    The centers are an input of MXNet's backward operator, not an output, so nothing else
    keeps two backward passes over the same centers from running at once.
    """
    if native.library() is not None and isinstance(centers, np.ndarray):
        return _Claim(centers)
    return _ONE_UPDATE_AT_A_TIME
