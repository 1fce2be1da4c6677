"""Equations 2, 4 and 5 of the paper, written once for every device.

There are three arithmetics: `csrc` (C) for the usual case on the CPU, `host` (NumPy) for the rest
on the CPU, and `device` (NDArrays) for any context; tests hold them together by random sequences
of steps, on which all three must agree.

This module is what `host` and `device` have in common; :class:`.backend.Backend` is what it asks
of them. C has a step of its own, csrc/step.c.
"""
import logging
import weakref

from . import overlap, samples
from .device import Device
from .host import Host, is_host_memory
from .labels import Batch
from .lock import one_update_at_a_time

__all__ = ['MANY_OVERLAPPING', 'MANY_WITHOUT_BACKWARD', 'Step', 'backend_for', 'warn_overlapping',
           'warn_without_backward']

logger = logging.getLogger('center_loss_op')

# After so many training forwards in a row without a backward pass, warn: centers stand still.
MANY_WITHOUT_BACKWARD = 10
# After so many updates in a row that came after another update since their forward pass, warn: each
# call of the loss before one backward pass moves the centers by a whole step.
MANY_OVERLAPPING = 10


def backend_for(context):
    """The arithmetic for a context: NumPy if it can read the memory, else NDArrays."""
    return Host() if is_host_memory(context) else Device()


def warn_without_backward():
    """Log that training forwards have no backward pass."""
    logger.warning(
        '%d training forward passes of a center loss in a row had no backward pass, so its centers '
        'stand still. Either its features need no gradient (a frozen network, stored features, '
        'detach, BlockGrad, fixed_param_names): then CenterLoss.update(embedding, label) moves the '
        'centers without a loss, and so does a backward pass after embedding.attach_grad(), or '
        'with inputs_need_grad=True in Module.bind. Or the loss is not part of what backward() is '
        'called on: add it, with λ = 0 (weight, scale) to have the centers follow only. See '
        'docs/using.md', MANY_WITHOUT_BACKWARD)


def warn_overlapping():
    """Log that a loss is called several times before one backward pass."""
    logger.warning(
        '%d updates of centers in a row came after another update since their forward pass: a '
        'center loss is called several times before one backward pass (views, parts, frames, '
        'towers, a context that is given twice), or by several threads. Each call moves the '
        'centers by a whole step, which can diverge. Call the loss once on all samples, '
        'loss(mx.nd.concat(*embeddings, dim=0), mx.nd.concat(*labels, dim=0)), or let a '
        'CenterTrainer move the centers once per step. See docs/using.md', MANY_OVERLAPPING)


class _InARow:
    """Counts, for each Arguments, how often something happened in a row; warns once."""

    def __init__(self, many, warn):
        self._many, self._warn = many, warn
        self._counts = weakref.WeakKeyDictionary()  # None: the warning was logged

    def count(self, arguments):
        count = self._counts.get(arguments, 0)
        if count is not None:
            self._counts[arguments] = count + 1 if count + 1 < self._many else None
            if self._counts[arguments] is None:
                self._warn()

    def reset(self, arguments):
        if self._counts.get(arguments):
            del self._counts[arguments]


_without_backward = _InARow(MANY_WITHOUT_BACKWARD, warn_without_backward)
_overlapping = _InARow(MANY_OVERLAPPING, warn_overlapping)


class Step:
    """The forward and the backward pass of an operator. A backward belongs to the last forward.

    A training forward keeps what its backward needs. After any other forward, or one that failed,
    the backward computes the gradient from its own inputs, and moves no center.

    Parameters
    ----------
    arguments : Arguments
    backend : Backend
    context : mxnet.Context, optional
        Where the step runs. Needed with a `key`.
    """
    __slots__ = ('arguments', 'backend', 'context', 'batch', 'difference', 'finite', 'pending',
                 'samples', '__weakref__')

    def __init__(self, arguments, backend, context=None):
        self.arguments = arguments
        self.backend = backend
        self.context = context
        self.difference = None
        self.pending = False
        self._forget()

    def _forget(self):
        """Forget the last forward. `difference` stays: the next one reuses its memory."""
        self.batch = self.finite = self.samples = None
        if self.pending:
            self.pending = False
            overlap.forget(self)

    def __del__(self):
        if self.pending and _without_backward is not None:  # None: Python exits
            _without_backward.count(self.arguments)

    def _read_batch(self, data, label, centers):
        """The checked labels, and x_i − c_{y_i} in the memory of `difference` if possible."""
        arguments, backend = self.arguments, self.backend
        batch = Batch(backend.labels(label), arguments.num_class,
                      arguments.ignore_label, arguments.use_ignore)
        return batch, backend.difference(data, centers, batch, self.difference)

    def forward(self, is_train, req, data, label, out, centers):
        """Write the loss to `out`; with `is_train`, keep what :meth:`backward` needs.

        Parameters
        ----------
        is_train : bool
        req : {'null', 'write', 'inplace', 'add'}
            How to store the loss.
        data, label, out, centers
            Arrays of the backend: (N, d), (N,) or (N, 1), (1,) or (N,), (C, d).

        Raises
        ------
        LabelError
            Before anything is written.
        """
        arguments, backend = self.arguments, self.backend
        if self.pending and is_train:
            _without_backward.count(arguments)
        self._forget()
        try:
            batch, difference = self._read_batch(data, label, centers)  # x_i − c_{y_i}
        except Exception:
            if is_train and arguments.key:
                samples.count_forward(arguments.key, self.context, failed=True)
            raise
        losses = backend.half_squares(difference)                       # l_i
        total = backend.total(losses)
        if arguments.reduction == 'none':
            loss = losses
        elif arguments.reduction == 'mean' and batch.count > 1:
            loss = total / batch.count
        else:
            loss = total
        backend.store(out, req, loss, arguments.scale if arguments.scale_output else 1)
        if is_train:
            if arguments.key:
                self.samples = (samples.count_forward(arguments.key, self.context),
                                *backend.samples(data, batch, centers.dtype))
            elif not backend.surely_finite(total):
                self.finite = backend.finite_rows(data, centers.dtype)
            self.batch, self.difference = batch, difference
            self.pending = bool(arguments.alpha or arguments.key)
            if arguments.alpha and not arguments.key:
                overlap.waits(self, centers)

    def backward(self, req, head_gradient, grad, data, label, centers):
        """Write the gradient to `grad` and, once per training forward, move the centers.

        With a `key`, record the samples instead; a CenterTrainer moves the centers later.

        Parameters
        ----------
        req : {'null', 'write', 'inplace', 'add'}
            How to store the gradient.
        head_gradient : array of the backend, (1,) or (N,), or None
            The gradient of the output; None for 1.
        grad, data, label, centers
            Arrays of the backend: (N, d), (N, d), (N,) or (N, 1), (C, d).

        Raises
        ------
        LabelError
            Before anything is written.
        """
        arguments, backend = self.arguments, self.backend
        if req != 'null':
            batch, difference = self.batch, self.difference
            if batch is None:
                with one_update_at_a_time(centers):  # no other step moves what this one reads
                    batch, difference = self._read_batch(data, label, centers)
            scale = arguments.scale     # λ · r
            if arguments.reduction == 'mean' and batch.count > 1:
                scale /= batch.count
            backend.store_gradient(grad, req, difference, scale, head_gradient)
        if self.pending:
            self.pending = False
            _without_backward.reset(arguments)
            if arguments.key:
                samples.record(arguments.key, self.context, *self.samples)
                self.samples = None
            else:
                with one_update_at_a_time(centers):
                    overtaken, overtakes = overlap.moves(self)
                    backend.move(centers, self.difference, self.batch, self.finite, arguments.alpha)
                if overtaken:
                    _overlapping.count(arguments)
                elif not overtakes:
                    _overlapping.reset(arguments)
