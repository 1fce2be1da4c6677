"""Classify features by the nearest center."""
import math
from typing import Any, Optional, Sequence, Tuple, Union

import mxnet as mx
import numpy as np
from mxnet import sym

from ._operator.arguments import more_than_two_axes, number

__all__ = ['nearest_center']

# The most numbers of a temporary array.
_BLOCK = 1 << 19

Array = Union[mx.nd.NDArray, sym.Symbol]
Two = Tuple[Any, Any]   # labels and distances
# The types that MXNet makes after npx.set_np(): subclasses of the others, with other operators.
_NUMPY = (mx.np.ndarray, sym.numpy._Symbol)


def nearest_center(embedding: Array, centers: Array, threshold: float = math.inf,
                   exclude: Union[int, Sequence[int], None] = None) -> Tuple[Array, Array]:
    """The nearest center of each feature, argmin_j ‖x_i − c_j‖, and its Euclidean distance.

    Parameters
    ----------
    embedding, centers : NDArray or Symbol
        (N, d) and (C, d), of any floating types, both of one kind and on one context. A center that
        is not finite is never the nearest.
    threshold : float, default infinity
        A feature at this distance or farther is labelled −1, and so is a feature with a NaN.
    exclude : int, or sequence or array of int, or of C bool, optional
        Classes that are never the nearest, for example those of no training sample, whose centers
        stay at 0. In a graph, give numbers.

    Returns
    -------
    label : NDArray or Symbol
        (N,), int32, from 0 to C − 1, the first of equally near ones, or −1.
    distance : NDArray or Symbol
        (N,), whatever the threshold; infinity if no center counts. float64 if an NDArray of the
        inputs is, else float32.

    Notes
    -----
    Arrays are searched on the CPU, in blocks, and the label is right for every finite input. A
    graph computes one product of N · C in float64, and holds at most 2²⁴ centers. A wrong type,
    shape or value raises TypeError or ValueError at once.

    Examples
    --------
    >>> embedding, scores = net(x)
    >>> label, distance = nearest_center(embedding, center_loss.centers.data(), threshold=2.5)
    """
    threshold = number('threshold', threshold, float, 'a number >= 0', lambda value: value >= 0)
    both = embedding, centers
    if not any(all(isinstance(array, kind) for array in both)
               for kind in (mx.nd.NDArray, sym.Symbol)):
        hint = ': give .data() of the parameter' if isinstance(centers, mx.gluon.Parameter) else ''
        raise TypeError('embedding and centers must both be NDArrays or both Symbols, got '
                        f'{type(embedding).__name__} and {type(centers).__name__}{hint}')
    x, c = embedding.as_nd_ndarray(), centers.as_nd_ndarray()
    if isinstance(embedding, sym.Symbol):
        found = _by_product(x, c, threshold, _numbers(exclude))
    else:
        found = _of_arrays(x, c, threshold, exclude)
    if isinstance(embedding, _NUMPY):
        found = tuple(array.as_np_ndarray() for array in found)
    return found


def _numbers(exclude: Any, classes: Optional[int] = None) -> np.ndarray:
    """The classes to exclude as numbers; `classes` is None in a graph, which does not know it."""
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
        last = 'C - 1' if classes is None else classes - 1
        raise ValueError(f'exclude must hold classes, whole numbers from 0 to {last}, or one bool '
                         f'per class, got {exclude!r}')
    return given.astype(np.intp)


def _of_arrays(embedding: Any, centers: Any, threshold: float, exclude: Any) -> Two:
    if (embedding.ndim != 2 or centers.ndim != 2 or embedding.shape[1] != centers.shape[1]
            or 0 in centers.shape):
        hint = more_than_two_axes('embedding', embedding.shape)
        raise ValueError('embedding must have shape (N, d) and centers (C, d), with C and d >= 1, '
                         f'got {embedding.shape} and {centers.shape}{hint}')
    for name, array in ('embedding', embedding), ('centers', centers):
        dtype = np.dtype(array.dtype)
        if dtype.kind in 'biu':
            raise TypeError(f'{name} must hold floating-point numbers, got {dtype}')
    exclude = _numbers(exclude, len(centers))
    context = embedding.context
    dtype = np.float64 if np.float64 in (embedding.dtype, centers.dtype) else np.float32
    if not len(embedding):  # MXNet's operators take an empty array only after npx.set_np()
        return tuple(mx.nd.empty((0,), context, kind) for kind in (np.int32, dtype))
    with np.errstate(all='ignore'):
        label, distance = _in_blocks(_plain(embedding).asnumpy(), _plain(centers), exclude)
        label[~(distance < threshold)] = -1
        distance = distance.astype(dtype)
    return mx.nd.array(label, context, np.int32), mx.nd.array(distance, context, dtype)


def _plain(array: mx.nd.NDArray) -> mx.nd.NDArray:
    """A dense array of float64, or of float32 for any shorter type."""
    if array.stype != 'default':
        array = array.tostype('default')
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32, copy=False)


def _by_product(embedding: Any, centers: Any, threshold: float, exclude: np.ndarray) -> Two:
    """By ‖x − c‖² = ‖x‖² − 2 (x·c − ½‖c‖²) in float64, with operators that ONNX also has."""
    embedding, centers = sym.cast(embedding, 'float64'), sym.cast(centers, 'float64')
    numbers = sym.contrib.arange_like(centers, axis=0)
    counts = sym.min((centers - centers) == 0, axis=1)  # 0 for a row with a NaN or infinity
    if len(exclude):
        counts = _set_to_zero(counts, exclude)
    # Replace excluded and non-finite centers by the first valid one.
    row = counts * numbers + sym.broadcast_mul(1 - counts, sym.argmax(counts, axis=0))
    centers = sym.take(centers, row, axis=0)
    scores = sym.broadcast_sub(
        sym.dot(embedding, centers, transpose_b=True),
        sym.expand_dims(0.5 * sym.sum(sym.square(centers), axis=1), axis=0))
    best = sym.argmax(scores, axis=1)
    difference = embedding - sym.take(centers, best, axis=0)
    distance = sym.sqrt(sym.sum(sym.square(difference), axis=1))
    best = sym.take(row, best)
    known = sym.cast(distance < threshold, 'int32') * sym.cast(sym.take(counts, best), 'int32')
    return known * (sym.cast(best, 'int32') + 1) - 1, sym.cast(distance, 'float32')


def _set_to_zero(counts: Any, exclude: np.ndarray) -> Any:
    """`counts` with zeros at the places `exclude`, by the same few operators for any places.

    Cuts `counts` and zeros into runs of kept and of excluded classes, and joins the right ones.
    A number after the last class keeps the last run from being empty, which MXNet does not allow.
    """
    excluded = np.zeros(max(exclude) + 2, bool)
    excluded[exclude] = True
    cuts = tuple((np.flatnonzero(excluded[1:] != excluded[:-1]) + 1).tolist())
    longer = sym.concat(counts, sym.slice_axis(counts, axis=0, begin=0, end=1), dim=0)
    kept, zeros = (sym.split_v2(numbers, cuts) for numbers in (longer, sym.zeros_like(longer)))
    first = int(excluded[0])
    runs = [(zeros if (first + run) % 2 else kept)[run] for run in range(len(cuts) + 1)]
    return sym.slice_axis(sym.concat(*runs, dim=0), axis=0, begin=0, end=-1)


def _in_blocks(embedding: np.ndarray, centers: mx.nd.NDArray, exclude: np.ndarray) -> Two:
    """The label and the distance (float64) of each sample; the threshold is not looked at."""
    label, distance = np.full(len(embedding), -1), np.full(len(embedding), np.inf)
    distance[np.isnan(embedding).any(axis=1)] = np.nan
    rows = np.isfinite(embedding).all(axis=1).nonzero()[0]
    allowed = np.ones(len(centers), bool)
    allowed[exclude] = False
    pairs = max(1, _BLOCK // embedding.shape[1])
    at_once = min(pairs, len(centers))
    samples_at_once = min(pairs, max(1, _BLOCK // at_once))
    for begin in range(0, len(centers), at_once):
        c = centers[begin:begin + at_once].asnumpy()
        valid = allowed[begin:begin + at_once] & np.isfinite(c).all(axis=1)
        c, classes = c[valid], begin + valid.nonzero()[0]
        for first in range(0, len(rows) if len(c) else 0, samples_at_once):
            some = rows[first:first + samples_at_once]
            x = embedding[some]
            candidates = _candidates(x, c)
            for start in range(0, len(candidates[0]), pairs):
                i, j = (part[start:start + pairs] for part in candidates)
                found = _distances(x[i], c[j])
                # The nearest center of each sample comes first, the lowest number among equals.
                order = np.lexsort((j, found, i))
                heads = order[np.diff(i[order], prepend=-1) > 0]
                heads = heads[found[heads] < distance[some[i[heads]]]]
                label[some[i[heads]]] = classes[j[heads]]
                distance[some[i[heads]]] = found[heads]
    return label, distance


def _candidates(x: np.ndarray, c: np.ndarray) -> Two:
    """A few pairs (i, j), sorted: the nearest c_j of each x_i is among them.

    The score ½‖c_j‖² − x_i·c_j orders the centers by distance. A center that is nearer than the one
    of the best score, c, has a norm of at most 2 ‖x_i‖ + ‖c‖. So the rounding errors of both scores
    add up to less than `slack`.
    """
    origin = x.mean(axis=0, dtype=np.float64)   # features far from 0 would have many candidates
    moved, centers = x - origin, c - origin
    squares = np.einsum('ij,ij->i', centers, centers)
    scores = moved @ centers.T
    np.subtract(0.5 * squares, scores, out=scores)
    best = scores.argmin(axis=1)
    limits = np.finfo(np.float64)
    slack = 8 * (x.shape[1] + 8) * (
        limits.eps * (np.einsum('ij,ij->i', moved, moved) + squares[best]) + limits.tiny)
    if not (np.isfinite(slack).all() and np.isfinite(squares).all()):   # a square has overflowed
        return _candidates(*(np.ldexp(a.astype(np.float64), -600) for a in (x, c)))
    return (scores <= (scores[np.arange(len(x)), best] + slack)[:, None]).nonzero()


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """‖a_i − b_i‖ in float64; no square overflows."""
    difference = a.astype(np.float64) - b
    exponent = np.frexp(np.abs(difference).max(axis=1))[1]
    difference = np.ldexp(difference, -exponent[:, None])
    return np.ldexp(np.sqrt(np.einsum('ij,ij->i', difference, difference)), exponent)
