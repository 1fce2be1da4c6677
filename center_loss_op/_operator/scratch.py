"""Working memory of the steps, reused from one to the next."""
import gc
import math
import threading

import numpy as np

__all__ = ['Held', 'Scratch']


class _Ledger:
    """Bytes held by steps, and the buffers that came back from finished ones.

    MXNet's Python layer ties every operator it makes into a reference cycle, so what an
    operator holds is freed by Python's cyclic collector, which counts objects and knows
    nothing of their size. Imperative training makes an operator a step: without this
    account, hundreds of dead ones, each with N * d numbers, can wait for a collection.
    """

    def __init__(self, limit):
        self.lock = threading.RLock()  # re-entrant: a collection may run a finalizer here
        self.limit = limit
        self.held = 0
        self.free = []

    def count(self, nbytes):
        with self.lock:
            self.held += nbytes
            overdue = self.held > self.limit
        if overdue:
            gc.collect()
            with self.lock:  # what is left is in use: leave room before the next collection
                self.limit = max(self.limit, 2 * self.held)

    def discount(self, nbytes):
        with self.lock:
            self.held -= nbytes

    def take(self, nbytes):
        self.count(nbytes)
        try:
            buffer = self.free.pop()
        except IndexError:
            buffer = None
        # A buffer that is too small is dropped here: batches have grown.
        if buffer is None or buffer.nbytes < nbytes:
            buffer = np.empty(nbytes, np.uint8)
        return buffer

    def give_back(self, buffer, nbytes):
        self.discount(nbytes)
        self.free.append(buffer)


_LEDGER = _Ledger(limit=64 << 20)


class Held:
    """An array of any library that a step holds on to, accounted for.

    Attributes
    ----------
    array : array
    """
    __slots__ = ('array', '_nbytes')

    def __init__(self, array, nbytes):
        self.array = array
        self._nbytes = nbytes
        _LEDGER.count(nbytes)

    def __del__(self):
        _LEDGER.discount(self._nbytes)


class Scratch:
    """An uninitialized array of (shape, dtype) whose memory goes back for reuse.

    Attributes
    ----------
    array : numpy.ndarray
        Valid until :meth:`release`, or until this object is freed.
    """
    __slots__ = ('array', '_buffer', '_nbytes')

    def __init__(self, shape, dtype):
        self._nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        self._buffer = _LEDGER.take(self._nbytes)
        self.array = self._buffer[:self._nbytes].view(dtype).reshape(shape)

    def release(self):
        """Give the memory back now."""
        if self._buffer is not None:
            self.array = None
            buffer, self._buffer = self._buffer, None
            _LEDGER.give_back(buffer, self._nbytes)

    def __del__(self):
        self.release()
