"""Equations 2, 4 and 5 of the paper, in NumPy; csrc/step.c is the same in C, for the usual cases.

In the shapes, N is the number of samples, d the number of features, C the number of classes, U the
number of classes in a batch. All numbers are in the type of the centers: float64 for float64
features, else float32.
"""
import logging
import math
import weakref
from typing import Any, Optional

import numpy as np

from . import turns
from .labels import Batch

logger = logging.getLogger('center_loss_op')

# By key: what takes the samples of its nodes, the `gathered.Recorded` of a CenterTrainer. They are
# freed with it. Stays when this module is executed again.
RECORDED = globals().get('RECORDED', weakref.WeakValueDictionary())

# After so many training forwards in a row without a backward pass, warn.
MANY_WITHOUT_BACKWARD = 10
# After so many updates in a row that came after another update since their forward pass, warn.
MANY_OVERLAPPING = 10

# Up to this many numbers, np.add.reduceat (3 ns per number) is faster than sums by pairs.
_FEW = 1 << 14
# If the squares of all differences are finite, an update overflows only with an alpha above this.
_LARGE = 1e12


def warn_without_backward():
    logger.warning(
        '%d training forward passes of a center loss in a row had no backward pass, so its centers '
        'stand still. Either its features need no gradient (a frozen network, stored features, '
        'detach, BlockGrad, fixed_param_names): then CenterLoss.update(embedding, label) moves the '
        'centers without a loss, and so does a backward pass after embedding.attach_grad(), or '
        'with inputs_need_grad=True in Module.bind. Or the loss is not part of what backward() is '
        'called on: add it, with λ = 0 (weight, scale) to have the centers follow only. See '
        'docs/using.md', MANY_WITHOUT_BACKWARD)


def warn_overlapping():
    logger.warning(
        '%d updates of centers in a row came after another update since their forward pass: a '
        'center loss is called several times before one backward pass (views, parts, frames, '
        'towers, a context that is given twice), or by several threads. Each call moves the '
        'centers by a whole step, which can diverge. Call the loss once on all samples, '
        'loss(mx.nd.concat(*embeddings, dim=0), mx.nd.concat(*labels, dim=0)), or let a '
        'CenterTrainer move the centers once per step. See docs/using.md', MANY_OVERLAPPING)


class _InARow:
    """Counts passes in a row, and warns once: by centers, as the struct History of csrc/step.c."""

    def __init__(self, many, warn):
        self._many, self._warn = many, warn
        self._counts = {}   # by Arguments and address of the centers; from `many` on: warned

    def count(self, *centers):
        self._counts[centers] = count = self._counts.get(centers, 0) + 1
        if len(self._counts) > 64:      # then forget the oldest
            del self._counts[next(iter(self._counts))]
        if count == self._many:
            self._warn()

    def reset(self, *centers):
        if self._counts.get(centers, 0) < self._many:
            self._counts.pop(centers, None)


_without_backward = _InARow(MANY_WITHOUT_BACKWARD, warn_without_backward)
_overlapping = _InARow(MANY_OVERLAPPING, warn_overlapping)


def half_squares(difference):
    """The losses, l_i = ½ ‖x_i − c_{y_i}‖², (N,).

    Not finite where a feature is not, or where a square overflows: `finite_rows` relies on that. A
    loss that hides a NaN would let it into the centers.
    """
    # Not by BLAS, whose bits depend on the number of threads.
    losses = np.einsum('ij,ij->i', difference, difference)
    losses *= 0.5
    return losses


def finite_rows(data, total):
    """Which samples hold finite features only, (N,); None for all, as their total loss tells."""
    return None if math.isfinite(total) else np.isfinite(data).all(axis=1)


def by_class(batch, finite):
    """The positions of the samples that count, and are `finite`: class by class, each in the order
    of the batch. Their classes, ascending, (U,). How many are of each class, n_j, (U,).
    """
    counted = batch.counted(finite)
    classes = batch.classes if counted is None else batch.classes[counted]
    order = classes.argsort(kind='stable')
    classes = classes[order]
    first = np.empty(classes.shape, bool)   # whether a sample is the first of its class
    first[:1] = True
    np.not_equal(classes[1:], classes[:-1], out=first[1:])
    return (order if counted is None else counted[order], classes[first],
            np.bincount(first.cumsum() - 1))


def sum_by_class(rows, order, counts):
    """Σ of the rows of each class, (U, d); always in the same order, for the same bits."""
    if rows.size <= _FEW:
        return np.add.reduceat(rows.take(order, 0), counts.cumsum() - counts)
    while True:
        # Add each second row of a class to the one before it, until one is left.
        place = np.arange(order.size) - np.repeat(counts.cumsum() - counts, counts)
        odd = place % 2 == 1
        even = ~odd
        sums = rows.take(order[even], 0)
        sums[even.cumsum()[odd] - 1] += rows.take(order[odd], 0)
        counts = (counts + 1) // 2
        if counts.max() == 1:
            return sums
        rows, order = sums, np.arange(len(sums))


def move(centers, difference, batch, finite, alpha):
    """Equation 4: c_j ← c_j + α Σ_{i: y_i=j} (x_i − c_j) / (1 + n_j).

    A center whose new value is not finite stays. `finite` is that of `finite_rows`.
    """
    order, classes, counts = by_class(batch, finite)
    if not classes.size:
        return
    rows = sum_by_class(difference, order, counts)
    rows *= (alpha / (1.0 + counts)).astype(rows.dtype)[:, None]
    rows += centers.take(classes)
    if finite is not None or alpha > _LARGE:
        # A sum of finite features can overflow.
        good = np.isfinite(rows).all(axis=1)
        classes, rows = classes[good], rows[good]
    centers.put(classes, rows)


def update(centers, data, batch, alpha):
    """Equation 4 for samples without a step, on centers that no step uses."""
    with np.errstate(all='ignore'):
        difference = data - centers.take(batch.classes)
        finite = finite_rows(data, half_squares(difference).sum())
        move(centers, difference, batch, finite, alpha)


class Step:
    """The forward and the backward pass of an operator on a context; arrays are Views or Copies.

    A training forward keeps what the backward behind it needs. After any other forward, or one that
    failed, the backward computes the gradient from its own inputs, and moves no center. `req` says
    how to store a result. A LabelError comes before anything is written.
    """
    def __init__(self, arguments, context):
        self.arguments = arguments
        self.context = context
        self.address: Optional[int] = None      # of the centers
        self.difference: Any = None
        self.pending = False
        self._forget()

    def _forget(self):
        """Forget the last forward. `difference` stays: the next one reuses its memory."""
        self.batch: Any = None
        self.finite: Any = None
        self.samples: Any = None
        if self.pending:
            self.pending = False
            turns.forget(self)

    def free(self):
        """Free the memory: no pass follows."""
        if self.pending:
            self.pending = False
            _without_backward.count(self.arguments, self.address)
        self.batch = self.difference = self.finite = self.samples = None

    def _read(self, data, label, centers):
        """The checked labels, the features, and x_i − c_{y_i}: 0 where a sample does not count."""
        arguments = self.arguments
        batch = Batch(label.read(), arguments.num_class, arguments.use_ignore,
                      arguments.ignore_label)
        features = data.read()
        difference = centers.take(batch.classes, self.difference)
        np.subtract(features, difference, out=difference)
        if batch.ignored is not None:
            difference[batch.ignored] = 0
        return batch, features, difference

    def forward(self, is_train, req, data, label, out, centers):
        """Write the loss, (1,) or (N,); with `is_train`, keep what :meth:`backward` needs."""
        arguments = self.arguments
        if self.pending and is_train:
            _without_backward.count(arguments, self.address)
        self._forget()
        recorded = RECORDED.get(arguments.key) if is_train else None
        try:
            batch, features, difference = self._read(data, label, centers)
        except Exception:
            if recorded:
                recorded.count_forward(self.context, failed=True)
            raise
        losses = half_squares(difference)
        total = np.add.reduce(losses, keepdims=True)
        loss = losses if arguments.reduction == 'none' else total
        if arguments.reduction == 'mean' and batch.count > 1:
            loss = total / batch.count
        out.store(req, loss, loss.dtype.type(arguments.scale if arguments.scale_output else 1))
        if not is_train:
            return
        self.batch, self.difference = batch, difference
        self.pending = bool(arguments.alpha or arguments.key)
        self.address = centers.address
        if arguments.key:
            number = recorded.count_forward(self.context) if recorded else 0
            counted = slice(None) if batch.ignored is None else ~batch.ignored
            self.samples = (number, features.astype(difference.dtype)[counted],
                            batch.classes[counted])
        elif arguments.alpha:
            # Now, because the gradient may take the memory of the features.
            self.finite = finite_rows(features, total[0])
            turns.waits(self, self.address)

    def backward(self, req, head_gradient, grad, data, label, centers):
        """Write the gradient, (N, d), and, once per training forward, move the centers, (C, d), or
        record the samples. `head_gradient` is the gradient of the output; None for 1.
        """
        arguments = self.arguments
        batch, difference = self.batch, self.difference
        if req != 'null':
            if batch is None:
                with turns.one_at_a_time(centers.address):  # nobody moves what this one reads
                    batch, _, difference = self._read(data, label, centers)
            scale = arguments.scale     # λ · r
            if arguments.reduction == 'mean' and batch.count > 1:
                scale /= batch.count
            weight = difference.dtype.type(scale)
            if head_gradient is not None:
                weight = head_gradient.read().astype(difference.dtype)[:, None] * weight
            grad.store(req, difference, weight)
        if not self.pending:
            return
        self.pending = False
        _without_backward.reset(arguments, self.address)
        if arguments.key:
            recorded = RECORDED.get(arguments.key)
            if recorded is None:
                raise RuntimeError(f'nothing moves the centers of key={arguments.key!r}: create '
                                   'its CenterTrainer before the first step and keep it, or leave '
                                   '`key` away to let the operator move them')
            recorded.record(self.context, *self.samples)
            self.samples = None
            return
        with turns.one_at_a_time(centers.address):
            overtaken, overtakes = turns.moves(self)
            move(centers, difference, batch, self.finite, arguments.alpha)
        if overtaken:
            _overlapping.count(arguments, self.address)
        elif not overtakes:
            _overlapping.reset(arguments, self.address)
