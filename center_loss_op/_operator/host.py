"""The arithmetic of a step on the CPU: NumPy on MXNet's own memory.

In a callback of a custom operator the inputs are ready and the outputs are the
operator's own, so nothing is copied and no NDArray operator is needed.
"""
import ctypes
import math
from functools import lru_cache

import numpy as np
from mxnet.base import _LIB, check_call

from .scratch import Scratch

__all__ = ['Host', 'reaches']

# The getter returns at once. Called through CDLL it would give up Python's lock, which another
# thread may take, and wait to get it back.
_get_data = ctypes.PyDLL(_LIB._name).MXNDArrayGetData

# Up to this many numbers, reduceat's ~3 ns a number are less than the fixed cost of folding
# (about 10 us a step); above it, folding runs at memory speed (0.6 ns a number).
_FEW = 1 << 14

# Features whose squares are finite cannot overflow a center in one update, unless by alpha.
_LARGE = 1e12


def reaches(context):
    """Whether NumPy can work on the memory of arrays on `context`."""
    return context.device_type.startswith('cpu')


class _View:
    """MXNet's memory of an array of known shape and dtype, as a NumPy array.

    Called with a CPU NDArray that is ready. The view is kept for as long as MXNet keeps
    handing over the same memory, as a bound executor does.
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
    """A C-ordered (n, d) array as n opaque items: NumPy then moves a row with one memcpy."""
    return array.view(_opaque(array.shape[1] * array.itemsize))[:, 0]


class Host:
    """NumPy arrays."""

    @staticmethod
    def viewer(shape, dtype):
        """A function from an NDArray of this shape and dtype to an array of the backend."""
        return _View(shape, dtype)

    @staticmethod
    def labels(label):
        """Labels as a NumPy array."""
        return label

    @staticmethod
    def difference(data, centers, batch, reuse=None):
        """x_i - c_{y_i}, 0 where a sample does not count: a Scratch of (N, d)."""
        scratch = reuse or Scratch(data.shape, centers.dtype)
        difference = scratch.array
        # The labels are checked: 'clip' only spares the copy that 'raise' makes of `out`.
        centers.take(batch.classes, 0, difference, 'clip')
        np.subtract(data, difference, out=difference)
        if batch.ignored is not None:
            difference[batch.ignored] = 0
        return scratch

    @staticmethod
    def half_squares(difference):
        """½ ‖row‖², (N,). Not a BLAS dot: its bits depend on the number of threads."""
        rows = difference.array
        losses = np.einsum('ij,ij->i', rows, rows)
        losses *= 0.5
        return losses

    @staticmethod
    def total(losses):
        """Sum of (N,)."""
        return np.add.reduce(losses)

    @staticmethod
    def store(out, req, value, factor):
        """out ← factor · value or out ← out + factor · value, as `req` says."""
        if req == 'add':
            out += factor * value
        elif req != 'null':
            out[...] = factor * value

    @staticmethod
    def store_scaled(grad, req, difference, factor, head):
        """grad ← factor · head_i · difference_i, or added to it, in the dtype of grad."""
        difference = difference.array
        factor = difference.dtype.type(factor)
        if head is not None:
            factor = (head.astype(difference.dtype) * factor)[:, None]
        if req == 'add':
            np.add(grad, difference * factor, out=grad, casting='same_kind')
        else:
            np.multiply(difference, factor, out=grad, casting='same_kind')

    @staticmethod
    def finite(data, total):
        """Which samples hold finite features: bool (N,), or None where all do."""
        # The sum of the losses is finite only where each one is; a batch that fails this
        # cheap test, if only by overflow, pays for a pass over N * d.
        if math.isfinite(total):
            return None
        return np.isfinite(data).all(axis=1)

    @staticmethod
    def samples(data, batch, dtype):
        """A copy of the samples that count: features (M, d) in `dtype`, and classes (M,)."""
        if batch.ignored is None:
            return data.astype(dtype), batch.classes
        return data[~batch.ignored].astype(dtype), batch.classes[~batch.ignored]

    def update(self, centers, buffer, rows, batch, alpha):
        """Equation 4 on an NDArray of centers that nobody else touches: see `move`.

        The features are the leading numbers of some rows of `buffer`, an NDArray.
        """
        buffer.wait_to_read()
        buffer, centers = (_View(array.shape, array.dtype)(array) for array in (buffer, centers))
        size = centers.shape[1]
        data = buffer.reshape(-1, buffer.shape[-1]).take(rows, 0)[:, :size]
        with np.errstate(all='ignore'):
            difference = self.difference(data, centers, batch)
            finite = self.finite(data, self.total(self.half_squares(difference)))
            self.move(centers, difference, batch, finite, alpha)

    def move(self, centers, difference, batch, finite, alpha):
        """Equation 4: c_j ← c_j + α Σ_{y_i=j} (x_i - c_j) / (1 + n_j)."""
        groups = batch.groups(None if finite is None else ~finite)
        classes = groups.classes
        if not classes.size:
            return
        scratch = Scratch((2, classes.size, centers.shape[1]), centers.dtype)
        delta, rows = scratch.array
        difference = difference.array
        self._deltas(difference, groups, alpha, delta)
        centers.take(classes, 0, rows, 'clip')
        np.add(rows, delta, out=rows)
        if finite is not None or alpha > _LARGE:
            # What is finite can still overflow in a sum. Such a class keeps its center.
            good = np.isfinite(rows).all(axis=1)
            classes, rows = classes[good], rows[good]
        _rows(centers)[classes] = _rows(rows)
        scratch.release()

    @staticmethod
    def _deltas(rows, groups, alpha, out):
        """α Σ / (1 + n_j) of the rows of each class, (U, d)."""
        dtype = rows.dtype.type
        if rows.size <= _FEW:
            np.add.reduceat(rows.take(groups.order, 0), groups.starts, axis=0, out=out)
            np.multiply(out, (alpha / (1.0 + groups.counts)).astype(dtype)[:, None], out=out)
            return
        # A class that occurs once needs no sum, and all of those have one weight.
        rows.take(groups.heads(), 0, out, 'clip')
        np.multiply(out, dtype(alpha / 2), out=out)
        if groups.unique:
            return
        which, members, starts = groups.repeated()
        part = rows.take(members, 0)
        if part.size <= _FEW:
            sums = np.add.reduceat(part, starts, axis=0)
        else:
            for into, source in groups.folds():
                sums = part.take(into, 0)
                sums += part.take(source, 0)
                _rows(part)[into] = _rows(sums)
            sums = part.take(starts, 0)
        out[which] = sums * (alpha / (1.0 + groups.counts[which])).astype(dtype)[:, None]
