"""Classify features by the nearest center.

On the CPU, a matrix product with a bound of its rounding error finds the few centers that can be
the nearest. Their distances then decide. The result is right for every finite input, and takes
about as long as the product. In a graph, and on other devices, one product in float64 decides.
"""
import math
import numbers
from typing import Sequence, Tuple, Union

import mxnet as mx
import numpy as np

from ._operator.arguments import more_than_two_axes
from ._operator.arrays import is_host_memory, opened

__all__ = ['nearest_center']

# The most numbers of a temporary array: of a block of centers, which fits a processor's cache; and
# of the differences of candidates, or the scores of a block of samples.
_BLOCK, _CHUNK = 1 << 17, 1 << 22
# The number of samples from which on distances are measured from the mean of the samples. That
# costs little, and leaves far fewer candidates if all features are far from the origin.
_MANY = 16

Array = Union[mx.nd.NDArray, mx.sym.Symbol]
# The types that MXNet makes after npx.set_np(): subclasses of the others, with other operators.
_NUMPY = (mx.np.ndarray, mx.sym.numpy._Symbol)


def nearest_center(embedding: Array, centers: Array, threshold: float = math.inf,
                   exclude: Union[int, Sequence[int], None] = None) -> Tuple[Array, Array]:
    r"""The nearest center of each feature, and its Euclidean distance.

    .. math::

        j_i = \arg\min_j \| x_i - c_j \|, \quad d_i = \| x_i - c_{j_i} \|

    A feature may belong to none of the classes: at a distance of `threshold` or more, it counts as
    unknown.

    Parameters
    ----------
    embedding : NDArray or Symbol
        The features, (N, d), of any floating type; N may be 0. An array of `mx.nd` or `mx.np`.
    centers : NDArray or Symbol
        (C, d), of any floating type; an NDArray on the context of the features. If two centers
        are equally near, the first is taken. A center that is not finite is never the nearest.
    threshold : float, default infinity
        A feature at this distance or farther is labelled −1, and so is a feature with a NaN.
    exclude : int, or sequence or array of int, or of C bool, optional
        Classes that are never the nearest, for example classes that are not in the training set,
        whose centers stay at 0. In a graph, give numbers, not bools.

    Returns
    -------
    label : NDArray or Symbol
        (N,), int32, from 0 to C − 1, or −1; an array of `mx.np` if the embedding is one.
    distance : NDArray or Symbol
        (N,), to the nearest center, whatever the threshold. float64 for float64 centers outside
        of a graph, and float32 otherwise. Infinity if there is no valid center.

    Raises
    ------
    TypeError
        The inputs are not two NDArrays or two Symbols, they hold integers, or the threshold is not
        a number.
    ValueError
        The shapes do not fit, the threshold is negative or NaN, or `exclude` holds a class that
        does not exist.

    Notes
    -----
    With arrays, the work is done in blocks, so that extra memory grows with N and not with N · C.
    With Symbols (in a hybridized or exported graph), it is one product of N · C in float64, and C
    must be at most 2²⁴, the largest index that MXNet's argmax can return. Excluded classes add the
    same few nodes to the graph, however many they are; MXNet knows only when it binds the graph
    whether a class exists.

    Examples
    --------
    >>> centers = center_loss.centers.data()
    >>> label, distance = nearest_center(embedding, centers, threshold=2.5)
    >>> never_seen = (centers.asnumpy() == 0).all(axis=1)
    >>> label, distance = nearest_center(embedding, centers, exclude=never_seen)
    """
    if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real):
        raise TypeError('threshold must be a number >= 0, got %r' % (threshold,))
    if not threshold >= 0:
        raise ValueError('threshold must be a number >= 0, got %r' % (threshold,))
    both = embedding, centers
    if not any(all(isinstance(array, kind) for array in both)
               for kind in (mx.nd.NDArray, mx.sym.Symbol)):
        hint = ': give .data() of the parameter' if isinstance(centers, mx.gluon.Parameter) else ''
        raise TypeError('embedding and centers must both be NDArrays or both Symbols, got '
                        f'{type(embedding).__name__} and {type(centers).__name__}{hint}')
    nearest = _of_symbols if isinstance(embedding, mx.sym.Symbol) else _of_arrays
    found = nearest(*(array.as_nd_ndarray() for array in both), threshold, exclude)
    if isinstance(embedding, _NUMPY):
        found = tuple(array.as_np_ndarray() for array in found)
    return found


def _numbers(exclude, classes=None):
    """The classes to exclude as numbers; in a graph, `classes` is not known yet, and None."""
    if exclude is None:
        exclude = ()
    elif isinstance(exclude, mx.nd.NDArray):
        exclude = exclude.asnumpy()
    given = np.atleast_1d(np.asarray(exclude))
    if given.dtype.kind == 'f' and (given == np.floor(given)).all():  # labels are often floats
        given = given.astype(np.intp)
    if given.dtype == bool and classes is not None and given.shape == (classes,):
        return given.nonzero()[0]
    limit = math.inf if classes is None else classes
    if given.size and (given.ndim != 1 or given.dtype.kind not in 'iu'
                       or given.min() < 0 or given.max() >= limit):
        raise ValueError('exclude must hold classes, whole numbers from 0 to %s, or one bool per '
                         'class, got %r' % ('C - 1' if classes is None else classes - 1, exclude))
    return given.astype(np.intp)


def _of_symbols(embedding, centers, threshold, exclude):
    return _by_product(mx.sym, embedding, centers, threshold, _numbers(exclude), 'float32')


def _of_arrays(embedding, centers, threshold, exclude):
    if (embedding.ndim != 2 or centers.ndim != 2 or embedding.shape[1] != centers.shape[1]
            or 0 in centers.shape):
        raise ValueError('embedding must have shape (N, d) and centers (C, d), with C and d >= 1, '
                         'got %s and %s%s' % (embedding.shape, centers.shape, more_than_two_axes(
                             'embedding', embedding.shape)))
    for name, array in ('embedding', embedding), ('centers', centers):
        dtype = np.dtype(array.dtype)
        if dtype.kind in 'biu':
            raise TypeError('%s must hold floating-point numbers, got %s' % (name, dtype))
    exclude = _numbers(exclude, len(centers))
    context = embedding.context
    dtype = np.float64 if centers.dtype == np.float64 else np.float32
    if not len(embedding):  # MXNet's operators take an empty array only after npx.set_np()
        return tuple(mx.nd.empty((0,), context, kind) for kind in (np.int32, dtype))
    embedding, centers = (array.astype(dtype, copy=False) for array in (embedding, centers))
    if not is_host_memory(context):
        at_once = max(1, _CHUNK // len(centers))
        parts = [_by_product(mx.nd, embedding[begin:begin + at_once], centers, threshold, exclude,
                             dtype) for begin in range(0, len(embedding), at_once)]
        return tuple(mx.nd.concat(*part, dim=0) for part in zip(*parts))
    with np.errstate(all='ignore'):     # if a score overflows, the distances decide
        label, distance = _by_candidates(opened(embedding).read(), opened(centers).read(), exclude)
    label[~(distance < threshold)] = -1
    return (mx.nd.array(label, context, np.int32), mx.nd.array(distance, context, dtype))


def _by_product(F, embedding, centers, threshold, exclude, dtype):
    """By ‖x − c‖² = ‖x‖² − 2 (x·c − ½‖c‖²) in float64, with operators that ONNX also has."""
    embedding, centers = F.cast(embedding, 'float64'), F.cast(centers, 'float64')
    number = F.contrib.arange_like(centers, axis=0)
    counts = F.min((centers - centers) == 0, axis=1)  # 0 for a row with a NaN or infinity
    if len(exclude):
        counts = _set_to_zero(F, counts, exclude)
    # Replace excluded and non-finite centers by the first valid one.
    row = counts * number + F.broadcast_mul(1 - counts, F.argmax(counts, axis=0))
    centers = F.take(centers, row, axis=0)
    scores = F.broadcast_sub(
        F.dot(embedding, centers, transpose_b=True),
        F.expand_dims(0.5 * F.sum(F.square(centers), axis=1), axis=0))
    best = F.argmax(scores, axis=1)
    difference = embedding - F.take(centers, best, axis=0)
    distance = F.sqrt(F.sum(F.square(difference), axis=1))
    known = F.cast(distance < threshold, 'int32') * F.cast(F.take(counts, F.take(row, best)),
                                                           'int32')
    return known * (F.cast(F.take(row, best), 'int32') + 1) - 1, F.cast(distance, dtype)


def _set_to_zero(F, counts, exclude):
    """`counts` with zeros at the places `exclude`, by the same few operators for any places.

    Cuts `counts` and zeros into runs of kept and of excluded classes, and joins the right ones.
    A number after the last class keeps the last run from being empty, which MXNet does not allow.
    """
    excluded = np.zeros(max(exclude) + 2, bool)
    excluded[exclude] = True
    cuts = tuple((np.flatnonzero(excluded[1:] != excluded[:-1]) + 1).tolist())
    longer = F.concat(counts, F.slice_axis(counts, axis=0, begin=0, end=1), dim=0)
    kept, zeros = (F.split_v2(numbers, cuts) for numbers in (longer, F.zeros_like(longer)))
    first = int(excluded[0])
    runs = [(zeros if (first + run) % 2 else kept)[run] for run in range(len(cuts) + 1)]
    return F.slice_axis(F.concat(*runs, dim=0), axis=0, begin=0, end=-1)


def _by_candidates(embedding, centers, exclude):
    """The label and the distance of each sample, from NumPy arrays of one dtype."""
    samples, size = embedding.shape
    label, distance = np.full(samples, -1), np.full(samples, np.inf)
    finite = np.isfinite(embedding).all(axis=1)
    distance[np.isnan(embedding).any(axis=1)] = np.nan
    rows = finite.nonzero()[0]
    excluded = np.zeros(len(centers), bool)
    excluded[exclude] = True
    at_once = max(1, _BLOCK // size)
    samples_at_once = max(1, _CHUNK // max(at_once, size))
    for first in range(0, len(rows), samples_at_once):
        some = rows[first:first + samples_at_once]
        search = _Search(embedding[some])
        for begin in range(0, len(centers), at_once):
            end = begin + at_once
            search.look_through(centers[begin:end], excluded[begin:end], begin)
        label[some], distance[some] = search.label, search.distance
    return label, distance.astype(centers.dtype)


class _Search:
    """The nearest of the centers that were looked through so far, for some finite samples.

    Attributes
    ----------
    label : numpy.ndarray of intp, (n,)
        -1 if no center is valid so far.
    distance : numpy.ndarray of float64, (n,)
    """

    def __init__(self, samples):
        self.samples = samples
        self.label = np.full(len(samples), -1)
        self.distance = np.full(len(samples), np.inf)
        self.origin = samples.mean(axis=0) if len(samples) >= _MANY else None
        self.moved = samples if self.origin is None else samples - self.origin
        self.squares = np.einsum('ij,ij->i', self.moved, self.moved)    # ‖x‖²
        self.longest = np.sqrt(self.squares.max())

    def look_through(self, centers, excluded, begin):
        """Go on with centers whose classes are numbered from `begin`."""
        moved = centers if self.origin is None else centers - self.origin
        half = 0.5 * np.einsum('ij,ij->i', moved, moved)
        out = excluded
        if not np.isfinite(half).all():
            out = excluded | ~np.isfinite(centers).all(axis=1)
        # The scores: ½‖c‖² − x·c, which is ½‖x − c‖² − ½‖x‖². `slack` bounds their error: a sum
        # of d products may be off by d roundings of the products' absolute values.
        scores = self.moved @ moved.T
        np.subtract(half, scores, out=scores)
        limits = np.finfo(moved.dtype)
        rounding = (self.samples.shape[1] + 16) * limits.eps
        slack = rounding * (half + self.longest * np.sqrt(2 * half)) + rounding * limits.tiny
        scores[:, out] = np.inf
        # The upper bound of a nearest center: the nearest so far, or the nearest of these.
        upper = np.minimum((scores + slack).min(axis=1),
                           0.5 * (self.distance ** 2 * (1 + rounding)
                                  - self.squares * (1 - rounding)))
        lower = np.subtract(scores, slack, out=scores)
        candidate = ~(lower > upper[:, None])    # a NaN may be any number
        candidate[:, out] = False
        self._compare(centers, *candidate.nonzero(), begin)

    def _compare(self, centers, sample, center, begin):
        """Decide between candidates, which are pairs of a sample and a center, by distance."""
        at_once = max(1, _CHUNK // self.samples.shape[1])
        for first in range(0, len(sample), at_once):
            i, j = sample[first:first + at_once], center[first:first + at_once]
            distance = _distances(self.samples[i], centers[j])
            # The nearest center of each sample comes first, and the lowest number among equals.
            order = np.lexsort((j, distance, i))
            heads = order[np.diff(i[order], prepend=-1) > 0]
            heads = heads[distance[heads] < self.distance[i[heads]]]
            self.label[i[heads]] = j[heads] + begin
            self.distance[i[heads]] = distance[heads]


def _distances(a, b):
    """‖a_i − b_i‖ in float64; no square overflows."""
    difference = a.astype(np.float64) - b
    exponent = np.frexp(np.abs(difference).max(axis=1))[1]
    difference = np.ldexp(difference, -exponent[:, None])
    return np.ldexp(np.sqrt(np.einsum('ij,ij->i', difference, difference)), exponent)
