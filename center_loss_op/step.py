"""Equations 2, 4 and 5 of the paper, written once for every device.

A backend (`host.Host`, `device.Device`) says how one kind of array gathers rows, adds
them and stores a result; what is gathered, added and stored is said here.
"""
import threading

from . import parallel
from .labels import Batch

__all__ = ['Step']

# The centers are an input of MXNet's backward operator, not an output, so nothing else
# keeps two backward passes over the same centers from running at once.
_ONE_UPDATE_AT_A_TIME = threading.Lock()


class Step:
    """A forward pass and the backward pass that belongs to it.

    Parameters
    ----------
    params : center_loss_op.params.Params
    backend : center_loss_op.host.Host or center_loss_op.device.Device
    context : mxnet.Context, optional
        Where it runs; needed with a `key`.
    """
    __slots__ = ('params', 'backend', 'context', 'batch', 'difference', 'finite', 'pending',
                 'samples')

    def __init__(self, params, backend, context=None):
        self.params = params
        self.backend = backend
        self.context = context
        self.batch = self.difference = self.finite = self.samples = None
        self.pending = False

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
        center_loss_op.labels.LabelError
            Before anything is written.
        """
        params, backend = self.params, self.backend
        batch = Batch(backend.labels(label), params.num_class,
                      params.ignore_label if params.use_ignore else None)
        # An inference must not overwrite what a training forward left for its backward.
        reuse = self.difference if is_train else None
        difference = backend.difference(data, centers, batch, reuse)    # x_i - c_{y_i}
        losses = backend.half_squares(difference)                       # l_i
        total = backend.total(losses)
        if params.reduction == 'none':
            loss = losses
        elif params.reduction == 'mean' and batch.count > 1:
            loss = total / batch.count
        else:
            loss = total
        backend.store(out, req, loss)
        if is_train:
            self.batch, self.difference = batch, difference
            self.pending = True
            if params.key:
                self.samples = parallel.ticket(), *backend.samples(data, batch, centers.dtype)
            else:
                self.finite = backend.finite(data, total)

    def backward(self, req, head, grad, centers):
        """Write the gradient to `grad` and, once a forward, move the centers.

        With a `key`, the samples are noted instead, and move them later.

        Parameters
        ----------
        req : {'null', 'write', 'inplace', 'add'}
            How to store the gradient.
        head : array of the backend, (1,) or (N,), or None
            The gradient of the output; None for 1.
        grad, centers
            Arrays of the backend: (N, d), (C, d).
        """
        if self.batch is None:
            raise RuntimeError('backward of center loss without a forward in training mode')
        params, backend = self.params, self.backend
        if req != 'null':
            factor = params.scale
            if params.reduction == 'mean' and self.batch.count > 1:
                factor /= self.batch.count
            backend.store_scaled(grad, req, self.difference, factor, head)
        if self.pending:
            self.pending = False
            if params.key:
                parallel.note(params.key, self.context, *self.samples)
                self.samples = None
            elif params.alpha:
                with _ONE_UPDATE_AT_A_TIME:
                    backend.move(centers, self.difference, self.batch, self.finite, params.alpha)
