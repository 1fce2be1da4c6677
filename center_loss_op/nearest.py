"""Classifying by centers: which one is nearest, and how far away it is."""
import math
import numbers
from typing import Tuple, Union

import mxnet as mx
import numpy as np

__all__ = ['nearest_center']

# Numbers of a temporary array: a block of centers, or the scores of a block of samples in it.
_CHUNK = 1 << 22

Array = Union[mx.nd.NDArray, mx.sym.Symbol]
# What MXNet makes after npx.set_np(). Subclasses of the others, which take no operator of theirs.
_NUMPY = (mx.np.ndarray, mx.sym.numpy._Symbol)


def nearest_center(embedding: Array, centers: Array,
                   threshold: float = math.inf) -> Tuple[Array, Array]:
    r"""The nearest center of each feature, and its Euclidean distance.

    .. math::

        j_i = \arg\min_j \| x_i - c_j \|, \quad d_i = \| x_i - c_{j_i} \|

    In an open set, where a feature may belong to none of the classes, `threshold` is the
    distance from which on it counts as unknown.

    Parameters
    ----------
    embedding : NDArray or Symbol
        The features, (N, d), of any floating type; N may be 0. Of `mx.nd` or `mx.np`.
    centers : NDArray or Symbol
        (C, d), of any floating type; an NDArray on the context of the features. Of two that
        are equally near the first is taken.
    threshold : float, default infinity
        A feature at this distance or farther is labelled −1, and so is one with a NaN.

    Returns
    -------
    label : NDArray or Symbol
        (N,), int32, from 0 to C − 1 or −1; of `mx.np` where the embedding is.
    distance : NDArray or Symbol
        (N,), to the nearest center, whatever the threshold: in the dtype of the centers, or
        float32 for shorter ones.

    Raises
    ------
    TypeError
        Not two NDArrays or two Symbols, integers, or a threshold that is no number.
    ValueError
        Shapes that do not fit, or a threshold that is negative or NaN.

    Notes
    -----
    With NDArrays the work is done in blocks, so that extra memory grows with N and not with
    N · C. With Symbols (in a hybridized or exported graph) it is one product of N · C, the two
    must have one dtype, float32 or float64, and C must be at most 2²⁴, the largest index that
    MXNet's argmax can return.

    Examples
    --------
    >>> label, distance = nearest_center(net(images), center_loss.centers.data(), threshold=2.5)
    """
    if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real):
        raise TypeError('threshold must be a number >= 0, got %r' % (threshold,))
    if not threshold >= 0:
        raise ValueError('threshold must be a number >= 0, got %r' % (threshold,))
    both = embedding, centers
    if not any(all(isinstance(array, kind) for array in both)
               for kind in (mx.nd.NDArray, mx.sym.Symbol)):
        raise TypeError('embedding and centers must both be NDArrays or both Symbols, got %s and %s'
                        % (type(embedding).__name__, type(centers).__name__))
    nearest = _of_symbols if isinstance(embedding, mx.sym.Symbol) else _of_arrays
    found = nearest(*(array.as_nd_ndarray() for array in both), threshold)
    if isinstance(embedding, _NUMPY):
        found = tuple(array.as_np_ndarray() for array in found)
    return found


def _of_symbols(embedding, centers, threshold):
    mean = mx.sym.mean(centers, axis=0, keepdims=True)
    _, label = _best(mx.sym, embedding, centers, mean)
    return _known(mx.sym, embedding, centers, label, threshold)


def _of_arrays(embedding, centers, threshold):
    if (embedding.ndim != 2 or centers.ndim != 2 or embedding.shape[1] != centers.shape[1]
            or 0 in centers.shape):
        raise ValueError('embedding must have shape (N, d) and centers (C, d), C and d from 1 on, '
                         'got %s and %s' % (embedding.shape, centers.shape))
    for name, array in ('embedding', embedding), ('centers', centers):
        dtype = np.dtype(array.dtype)
        if dtype.kind in 'biu':
            raise TypeError('%s must hold floating-point numbers, got %s' % (name, dtype))
    # MXNet has no product of shorter ones on the CPU, and squares would overflow.
    dtype = np.float64 if centers.dtype == np.float64 else np.float32
    if not len(embedding):  # no operator takes it, outside of npx.set_np()
        return tuple(mx.nd.empty((0,), embedding.context, kind) for kind in (np.int32, dtype))
    return _in_blocks(*(array.astype(dtype, copy=False) for array in (embedding, centers)),
                      threshold)


def _best(F, embedding, centers, mean):
    """(score, label) of the nearest among the `centers`: the higher the score, the nearer.

    ‖x − c‖² = ‖x‖² − 2 (x·c − ½‖c‖²). Measured from the mean of the centers, x and c are as
    small as they can be, and little is lost in the difference.
    """
    centers = F.broadcast_sub(centers, mean)
    scores = F.broadcast_sub(
        F.dot(F.broadcast_sub(embedding, mean), centers, transpose_b=True),
        F.expand_dims(0.5 * F.sum(F.square(centers), axis=1), axis=0))
    return F.max(scores, axis=1), F.cast(F.argmax(scores, axis=1), 'int32')


def _known(F, embedding, centers, label, threshold):
    """The label, or −1 beyond the threshold, and the distance to its center."""
    difference = embedding - F.take(centers, label, axis=0, mode='clip')
    distance = F.sqrt(F.sum(F.square(difference), axis=1))
    known = F.cast(distance < threshold, 'int32')
    return known * (label + 1) - 1, distance


def _in_blocks(embedding, centers, threshold):
    samples, size = embedding.shape
    mean = centers.mean(axis=0, keepdims=True)
    classes_at_once = max(1, min(centers.shape[0], _CHUNK // size))
    samples_at_once = max(1, _CHUNK // max(classes_at_once, size))
    blocks = [embedding[begin:begin + samples_at_once]
              for begin in range(0, samples, samples_at_once)]
    best = [None] * len(blocks)
    for begin in range(0, centers.shape[0], classes_at_once):
        some = centers[begin:begin + classes_at_once]
        for number, block in enumerate(blocks):
            score, label = _best(mx.nd, block, some, mean)
            label = label + begin
            if best[number] is not None:
                before, label_before = best[number]
                nearer = score > before
                label = mx.nd.where(nearer, label, label_before)
                score = mx.nd.where(nearer, score, before)
            # Queued one behind the other, all blocks would hold their temporary arrays at once.
            label.wait_to_read()
            best[number] = score, label
    parts = [_known(mx.nd, block, centers, label, threshold)
             for block, (_, label) in zip(blocks, best)]
    label, distance = (mx.nd.concat(*part, dim=0) for part in zip(*parts))
    return label, distance
