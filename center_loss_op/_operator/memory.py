"""The memory that steps hold: counted, and reused from one step to the next."""
import gc
import math
import threading

import numpy as np

__all__ = ['Tracked', 'WorkingMemory']


class _MemoryBudget:
    """Counts the bytes that steps hold, and keeps the buffers of finished steps.

    MXNet's Python layer ties each operator into a reference cycle, so only Python's cyclic
    collector frees what an operator holds, and that counts objects without knowing their size.
    Imperative training makes one operator per step. Without this count, hundreds of dead
    operators, each with N · d numbers, can wait for a collection.
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
            with self.lock:  # the rest is in use: leave room before the next collection
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


_BUDGET = _MemoryBudget(limit=64 << 20)


class Tracked:
    """An array of any library that a step holds, counted in the memory budget.

    Attributes
    ----------
    array : array
    """
    __slots__ = ('array', '_nbytes')

    def __init__(self, array, nbytes):
        self.array = array
        self._nbytes = nbytes
        _BUDGET.count(nbytes)

    def __del__(self):
        _BUDGET.discount(self._nbytes)


class WorkingMemory:
    """An uninitialized array of (shape, dtype) in memory that later steps reuse.

    Attributes
    ----------
    array : numpy.ndarray
        Valid until :meth:`release`, or until this object is freed.
    """
    __slots__ = ('array', '_buffer', '_nbytes')

    def __init__(self, shape, dtype):
        self._nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        self._buffer = _BUDGET.take(self._nbytes)
        self.array = self._buffer[:self._nbytes].view(dtype).reshape(shape)

    def release(self):
        """Give the memory back now."""
        if self._buffer is not None:
            self.array = None
            buffer, self._buffer = self._buffer, None
            _BUDGET.give_back(buffer, self._nbytes)

    def __del__(self):
        self.release()
