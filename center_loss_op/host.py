"""The arithmetic of a step on the CPU: NumPy on MXNet's own memory.

In a callback of a custom operator the inputs are ready and the outputs are the
operator's own, so nothing is copied and no NDArray operator is needed.
"""
import ctypes

import numpy as np
from mxnet.base import _LIB, check_call

from .scratch import Scratch

__all__ = ['Host', 'view']

# Up to this many numbers, reduceat's ~3 ns a number are less than the fixed cost of folding
# (about 10 us a step); above it, folding runs at memory speed (0.6 ns a number).
_FEW = 1 << 14


# Features whose squares are finite cannot overflow a center in one update, unless by alpha.
_LARGE = 1e12


def view(array, shape, dtype):
    """MXNet's memory of a ready CPU array as a NumPy array of known shape and dtype."""
    address = ctypes.c_void_p()
    check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(address)))
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not size:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, (ctypes.c_char * size).from_address(address.value))


def _rows(array):
    """A C-ordered (n, d) array as n opaque items: NumPy then moves a row with one memcpy."""
    return array.view(np.dtype((np.void, array.shape[1] * array.itemsize))).reshape(-1)


class Host:
    """NumPy arrays."""

    @staticmethod
    def labels(label):
        """Labels as a NumPy array."""
        return label

    @staticmethod
    def difference(data, centers, batch):
        """x_i - c_{y_i}, 0 where a sample does not count: a Scratch of (N, d)."""
        scratch = Scratch(data.shape, centers.dtype)
        difference = scratch.array
        # The labels are checked: 'clip' only spares the copy that 'raise' makes of `out`.
        centers.take(batch.classes, axis=0, out=difference, mode='clip')
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
        return losses.sum()

    @staticmethod
    def store(out, req, value):
        """out ← value or out ← out + value, as `req` says."""
        if req == 'add':
            out += value
        elif req != 'null':
            out[...] = value

    @staticmethod
    def store_scaled(grad, req, difference, factor, head):
        """grad ← factor · head_i · difference_i, or added to it, in the dtype of grad."""
        difference = difference.array
        factor = difference.dtype.type(factor)
        if head is not None:
            factor = (head * factor)[:, None]
        if req == 'add':
            np.add(grad, difference * factor, out=grad, casting='same_kind')
        else:
            np.multiply(difference, factor, out=grad, casting='same_kind')

    @staticmethod
    def finite(data, losses):
        """Which samples hold finite features: bool (N,), or None where all do."""
        # One pass over N numbers; only a batch that fails it pays for one over N * d.
        if np.isfinite(losses).all():
            return None
        return np.isfinite(data).all(axis=1)

    def move(self, centers, difference, batch, finite, alpha):
        """Equation 4: c_j ← c_j + α Σ_{y_i=j} (x_i - c_j) / (1 + n_j)."""
        groups = batch.groups(None if finite is None else ~finite)
        classes = groups.classes
        if not classes.size:
            return
        scratch = Scratch((2 * classes.size, centers.shape[1]), centers.dtype)
        delta, rows = scratch.array[:classes.size], scratch.array[classes.size:]
        self._sums(difference.array, groups, delta)
        weights = alpha / (1.0 + groups.counts)
        delta *= weights.astype(centers.dtype)[:, None]
        centers.take(classes, axis=0, out=rows, mode='clip')
        rows += delta
        if finite is not None or alpha > _LARGE:
            # What is finite can still overflow in a sum. Such a class keeps its center.
            good = np.isfinite(rows).all(axis=1)
            classes, rows = classes[good], rows[good]
        _rows(centers)[classes] = _rows(rows)
        scratch.release()

    @staticmethod
    def _sums(rows, groups, out):
        """Sum of the rows of each class, (U, d)."""
        if groups.unique:
            rows.take(groups.order, axis=0, out=out, mode='clip')
        elif rows.size <= _FEW:
            np.add.reduceat(rows.take(groups.order, axis=0), groups.starts, axis=0, out=out)
        else:
            rows.take(groups.heads(), axis=0, out=out, mode='clip')
            which, members, starts = groups.repeated()
            part = rows.take(members, axis=0)
            for into, source in groups.folds():
                sums = part.take(into, axis=0)
                sums += part.take(source, axis=0)
                _rows(part)[into] = _rows(sums)
            out[which] = part.take(starts, axis=0)
