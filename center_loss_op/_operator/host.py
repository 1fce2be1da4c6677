"""The arithmetic of a step on the CPU: NumPy on MXNet's own memory.

In a callback of a custom operator, the inputs are ready, and no other operator uses the outputs. So
nothing is copied, and no NDArray operator is needed.
"""
import ctypes
import math
from functools import lru_cache

import numpy as np
from mxnet.base import _LIB, check_call

from .backend import Backend
from .memory import WorkingMemory

__all__ = ['Host', 'is_host_memory']

# PyDLL keeps Python's lock during the call, which returns at once. CDLL would release the lock, and
# then wait for it if another thread takes it.
_get_data = ctypes.PyDLL(_LIB._name).MXNDArrayGetData

# Up to this many numbers, np.add.reduceat (3 ns per number) is faster than sums by pairs (10 µs per
# step, and 0.6 ns per number).
_FEW = 1 << 14

# If the squares of all differences are finite, an update overflows only with an alpha above this.
_LARGE = 1e12


def is_host_memory(context):
    """Whether NumPy can read and write arrays on `context`."""
    return context.device_type.startswith('cpu')


class _MemoryView:
    """Turns NDArrays of one shape and dtype into NumPy arrays on the same memory.

    Call it with an NDArray on the CPU whose value is ready. It returns the same NumPy array as long
    as MXNet hands over the same memory, as it does for a bound executor.
    """
    __slots__ = ('_shape', '_dtype', '_bytes', '_pointer', '_address', '_array')

    def __init__(self, shape, dtype):
        self._shape = tuple(shape)
        self._dtype = np.dtype(dtype)
        self._bytes = ctypes.c_char * (math.prod(self._shape) * self._dtype.itemsize)
        self._pointer = ctypes.c_void_p()
        self._address = None
        self._array = np.empty(self._shape, self._dtype) if 0 in self._shape else None

    def __call__(self, array):
        check_call(_get_data(array.handle, ctypes.byref(self._pointer)))
        address = self._pointer.value
        if address != self._address:
            self._array = np.ndarray(self._shape, self._dtype, self._bytes.from_address(address))
            self._address = address
        return self._array


@lru_cache(maxsize=64)
def _opaque(nbytes):
    return np.dtype((np.void, nbytes))


def _rows(array):
    """A C-ordered (n, d) array as n opaque items, so that NumPy copies a row with one memcpy."""
    return array.view(_opaque(array.shape[1] * array.itemsize))[:, 0]


class Host(Backend):
    """On NumPy arrays."""

    def memory_view(self, shape, dtype):
        return _MemoryView(shape, dtype)

    def labels(self, label):
        return label

    def difference(self, data, centers, batch, reuse=None):
        memory = reuse or WorkingMemory(data.shape, centers.dtype)
        difference = memory.array
        # 'clip' never clips, because the labels are checked. 'raise' would copy `out`.
        centers.take(batch.classes, 0, difference, 'clip')
        np.subtract(data, difference, out=difference)
        if batch.ignored is not None:
            difference[batch.ignored] = 0
        return memory

    def half_squares(self, difference):
        rows = difference.array
        # Must not be finite where a feature is not: see Backend. Not by BLAS, whose bits depend on
        # the number of threads.
        losses = np.einsum('ij,ij->i', rows, rows)
        losses *= 0.5
        return losses

    def total(self, losses):
        return np.add.reduce(losses)

    def store(self, out, req, value, factor=1):
        if req == 'add':
            out += factor * value
        elif req != 'null':
            out[...] = factor * value

    def store_gradient(self, grad, req, difference, scale, head_gradient):
        difference = difference.array
        weight = difference.dtype.type(scale)
        if head_gradient is not None:
            weight = (head_gradient.astype(difference.dtype) * weight)[:, None]
        if req == 'add':
            np.add(grad, difference * weight, out=grad, casting='same_kind')
        else:
            np.multiply(difference, weight, out=grad, casting='same_kind')

    def surely_finite(self, total):
        return math.isfinite(total)

    def finite_rows(self, data, dtype):
        return np.isfinite(data).all(axis=1)

    def samples(self, data, batch, dtype):
        if batch.ignored is None:
            return data.astype(dtype), batch.classes
        return data[~batch.ignored].astype(dtype), batch.classes[~batch.ignored]

    def update(self, centers, buffer, rows, batch, alpha):
        buffer.wait_to_read()
        buffer, centers = (_MemoryView(array.shape, array.dtype)(array)
                           for array in (buffer, centers))
        data = buffer.reshape(-1, buffer.shape[-1]).take(rows, 0)[:, :centers.shape[1]]
        with np.errstate(all='ignore'):
            difference = self.difference(data, centers, batch)
            total = self.total(self.half_squares(difference))
            finite = None if self.surely_finite(total) else self.finite_rows(data, centers.dtype)
            self.move(centers, difference, batch, finite, alpha)

    def move(self, centers, difference, batch, finite, alpha):
        groups = batch.groups(None if finite is None else ~finite)
        classes = groups.classes
        if not classes.size:
            return
        memory = WorkingMemory((2, classes.size, centers.shape[1]), centers.dtype)
        delta, rows = memory.array
        difference = difference.array
        self._deltas(difference, groups, alpha, delta)
        centers.take(classes, 0, rows, 'clip')
        np.add(rows, delta, out=rows)
        if finite is not None or alpha > _LARGE:
            # A sum of finite features can overflow. Such a class keeps its center.
            good = np.isfinite(rows).all(axis=1)
            classes, rows = classes[good], rows[good]
        _rows(centers)[classes] = _rows(rows)
        memory.release()

    def _deltas(self, rows, groups, alpha, out):
        """out ← α Σ / (1 + n_j) over the rows of each class, (U, d)."""
        dtype = rows.dtype.type
        if rows.size <= _FEW:
            np.add.reduceat(rows.take(groups.order, 0), groups.starts, axis=0, out=out)
            np.multiply(out, (alpha / (1.0 + groups.counts)).astype(dtype)[:, None], out=out)
            return
        # A class that occurs once needs no sum, and its weight is α / 2.
        rows.take(groups.first_rows(), 0, out, 'clip')
        np.multiply(out, dtype(alpha / 2), out=out)
        if groups.unique:
            return
        which, members, starts = groups.repeated()
        part = rows.take(members, 0)
        if part.size <= _FEW:
            sums = np.add.reduceat(part, starts, axis=0)
        else:
            for into, source in groups.pairwise_sums():
                sums = part.take(into, 0)
                sums += part.take(source, 0)
                _rows(part)[into] = _rows(sums)
            sums = part.take(starts, 0)
        out[which] = sums * (alpha / (1.0 + groups.counts[which])).astype(dtype)[:, None]
