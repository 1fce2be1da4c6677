"""The arithmetic of a step on any context: NDArray operators, queued on the device.

Only the labels (N numbers) are read back. The centers never leave the device, and
nothing of their size is made.
"""
import numpy as np
from mxnet import nd

from .labels import BFLOAT16
from .scratch import Held

__all__ = ['Device']


def _indices(rows, like):
    return nd.array(rows, ctx=like.context, dtype=np.int64)


def _take(array, rows):
    return nd.take(array, _indices(rows, array), axis=0, mode='clip')


def _scalar(number):
    """`number` as MXNet's operators take one: they refuse a subnormal."""
    return number if abs(number) >= np.finfo(np.float64).tiny else 0.0


def _finite_rows(array):
    """1 for a row of finite numbers, 0 for another: (n, 1) in the dtype of `array`."""
    return nd.contrib.isfinite(array).min(axis=1, keepdims=True).astype(array.dtype)


class Device:
    """NDArrays."""

    @staticmethod
    def viewer(shape, dtype):  # pylint: disable=unused-argument
        """A function from an NDArray to an array of the backend: the NDArray itself."""
        return lambda array: array

    @staticmethod
    def labels(label):
        """Labels as a NumPy array; the one thing that is read back."""
        if label.dtype == BFLOAT16:
            label = label.astype(np.float32)
        return label.asnumpy()

    @staticmethod
    def difference(data, centers, batch, reuse=None):  # pylint: disable=unused-argument
        """x_i - c_{y_i}, 0 where a sample does not count: Held, (N, d)."""
        difference = data.astype(centers.dtype) - _take(centers, batch.classes)
        if batch.ignored is not None:
            ignored = nd.array(batch.ignored, ctx=data.context, dtype=centers.dtype)
            difference = nd.where(ignored, nd.zeros_like(difference), difference)
        return Held(difference, difference.size * np.dtype(centers.dtype).itemsize)

    @staticmethod
    def half_squares(difference):
        """½ ‖row‖², (N,)."""
        return nd.sum(nd.square(difference.array), axis=1) * 0.5

    @staticmethod
    def total(losses):
        """Sum of (N,), as (1,)."""
        return nd.sum(losses)

    @staticmethod
    def store(out, req, value, factor=1):
        """out ← factor · value or out ← out + factor · value, as `req` says, in the dtype of out."""
        value = (value * _scalar(factor)).astype(out.dtype)
        if req == 'add':
            out[:] += value
        elif req != 'null':
            out[:] = value

    def store_scaled(self, grad, req, difference, factor, head):
        """grad ← factor · head_i · difference_i, or added to it, in the dtype of grad."""
        value = difference.array * _scalar(factor)
        if head is not None:
            value = nd.broadcast_mul(value, head.astype(value.dtype).reshape((-1, 1)))
        self.store(grad, req, value)

    @staticmethod
    def finite(data, total):  # pylint: disable=unused-argument
        """Which samples hold finite features: (N, 1). Reading it back would cost a wait."""
        return _finite_rows(data.astype(total.dtype))

    @staticmethod
    def samples(data, batch, dtype):
        """A copy of the samples that count: features (M, d) in `dtype`, and classes (M,)."""
        data = data.astype(dtype)
        if batch.ignored is None:
            return data, batch.classes
        rows = (~batch.ignored).nonzero()[0]
        return _take(data, rows), batch.classes[rows]

    def update(self, centers, buffer, rows, batch, alpha):
        """Equation 4 on an NDArray of centers that nobody else touches: see `move`.

        The features are the leading numbers of some rows of `buffer`, an NDArray.
        """
        if not len(rows):
            return
        data = _take(buffer.reshape((-1, buffer.shape[-1])), rows)
        data = nd.slice_axis(data, axis=1, begin=0, end=-1)
        difference = self.difference(data, centers, batch)
        self.move(centers, difference, batch, self.finite(data, data), alpha)

    @staticmethod
    def move(centers, difference, batch, finite, alpha):
        """Equation 4: c_j ← c_j + α Σ_{y_i=j} (x_i - c_j) / (1 + n_j)."""
        groups = batch.groups()
        if not groups.classes.size:
            return
        rows = nd.where(finite.reshape(-1), difference.array, nd.zeros_like(difference.array))
        # A column of ones beside the features: its sums are the n_j of the finite samples.
        rows = nd.concat(rows, finite, dim=1)
        sums = _take(rows, groups.heads())
        if not groups.unique:
            which, members, starts = groups.repeated()
            part = _take(rows, members)
            for into, source in groups.folds():
                part[_indices(into, part)] = _take(part, into) + _take(part, source)
            sums[_indices(which, sums)] = _take(part, starts)
        counts = nd.slice_axis(sums, axis=1, begin=-1, end=None)
        sums = nd.slice_axis(sums, axis=1, begin=0, end=-1)
        old = _take(centers, groups.classes)
        new = old + nd.broadcast_mul(sums, _scalar(alpha) / (counts + 1))
        # A class without a finite sample, or whose sum overflows, keeps its center.
        moved = _finite_rows(new) * (counts > 0)
        centers[_indices(groups.classes, centers)] = nd.where(moved.reshape(-1), new, old)
