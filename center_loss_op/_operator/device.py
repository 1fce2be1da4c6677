"""The arithmetic of a step on any context: NDArray operators, queued on the device.

Only the labels (N numbers) are read back. The centers never leave the device, and no array of
their size is made.
"""
import numpy as np
from mxnet import nd

from .backend import Backend
from .labels import BFLOAT16
from .memory import Tracked

__all__ = ['Device']


def _indices(rows, like):
    return nd.array(rows, ctx=like.context, dtype=np.int64)


def _take(array, rows):
    return nd.take(array, _indices(rows, array), axis=0, mode='clip')


def _scalar(number):
    """`number`, or 0 for a subnormal, which MXNet's operators refuse."""
    return number if abs(number) >= np.finfo(np.float64).tiny else 0.0


def _times(array, number):
    """`array` times `number`, by two factors if that is subnormal: 0 times infinity is NaN."""
    if 0 < abs(number) < np.finfo(np.float64).tiny:
        return array * (number * 2. ** 60) * 2. ** -60
    return array * number


def _finite_rows(array):
    """1 for each row of finite numbers, 0 for others: (n, 1) in the dtype of `array`."""
    return nd.contrib.isfinite(array).min(axis=1, keepdims=True).astype(array.dtype)


class Device(Backend):
    """On NDArrays."""

    def memory_view(self, shape, dtype):
        return lambda array: array

    def labels(self, label):
        if label.dtype == BFLOAT16:
            label = label.astype(np.float32)
        return label.asnumpy()

    def difference(self, data, centers, batch, reuse=None):
        difference = data.astype(centers.dtype) - _take(centers, batch.classes)
        if batch.ignored is not None:
            ignored = nd.array(batch.ignored, ctx=data.context, dtype=centers.dtype)
            difference = nd.where(ignored, nd.zeros_like(difference), difference)
        return Tracked(difference, difference.size * np.dtype(centers.dtype).itemsize)

    def half_squares(self, difference):
        return nd.sum(nd.square(difference.array), axis=1) * 0.5

    def total(self, losses):
        return nd.sum(losses)

    def store(self, out, req, value, factor=1):
        value = _times(value, factor).astype(out.dtype)
        if req == 'add':
            out[:] += value
        elif req != 'null':
            out[:] = value

    def store_gradient(self, grad, req, difference, scale, head_gradient):
        value = _times(difference.array, scale)
        if head_gradient is not None:
            value = nd.broadcast_mul(value, head_gradient.astype(value.dtype).reshape((-1, 1)))
        self.store(grad, req, value)

    def surely_finite(self, total):
        # Reading `total` would wait for the device.
        return False

    def finite_rows(self, data, dtype):
        return _finite_rows(data.astype(dtype))

    def samples(self, data, batch, dtype):
        data = data.astype(dtype)
        if batch.ignored is None:
            return data, batch.classes
        rows = (~batch.ignored).nonzero()[0]
        return _take(data, rows), batch.classes[rows]

    def update(self, centers, buffer, rows, batch, alpha):
        if not len(rows):
            return
        data = _take(buffer.reshape((-1, buffer.shape[-1])), rows)
        data = nd.slice_axis(data, axis=1, begin=0, end=-1)
        difference = self.difference(data, centers, batch)
        self.move(centers, difference, batch, self.finite_rows(data, data.dtype), alpha)

    def move(self, centers, difference, batch, finite, alpha):
        groups = batch.groups()
        if not groups.classes.size:
            return
        rows = nd.where(finite.reshape(-1), difference.array, nd.zeros_like(difference.array))
        # The sums of one more column, of ones, are the n_j of the finite samples.
        rows = nd.concat(rows, finite, dim=1)
        sums = _take(rows, groups.first_rows())
        if not groups.unique:
            which, members, starts = groups.repeated()
            part = _take(rows, members)
            for into, source in groups.pairwise_sums():
                part[_indices(into, part)] = _take(part, into) + _take(part, source)
            sums[_indices(which, sums)] = _take(part, starts)
        counts = nd.slice_axis(sums, axis=1, begin=-1, end=None)
        sums = nd.slice_axis(sums, axis=1, begin=0, end=-1)
        old = _take(centers, groups.classes)
        new = old + nd.broadcast_mul(sums, _scalar(alpha) / (counts + 1))
        # A class without a finite sample, or whose sum overflows, keeps its center.
        moved = _finite_rows(new) * (counts > 0)
        centers[_indices(groups.classes, centers)] = nd.where(moved.reshape(-1), new, old)
