"""Equations 2, 4 and 5 of the paper, written once for every device.

A backend (`host.Host`, `device.Device`) says how one kind of array gathers rows, adds
them and stores a result; what is gathered, added and stored is said here.
"""
import logging
import weakref

from . import samples
from .labels import Batch
from .lock import one_update_at_a_time

__all__ = ['UNFOLLOWED', 'Step', 'warn_unfollowed']

logger = logging.getLogger('center_loss_op')

# Training forward passes in a row without a backward pass, of equal arguments, that are no
# accident any more.
UNFOLLOWED = 10
_unfollowed = weakref.WeakKeyDictionary()   # how many, by Arguments; None: it was said


def warn_unfollowed():
    """Say that no backward pass comes by, once it is plain."""
    logger.warning(
        '%d training forward passes of a center loss in a row had no backward pass, so its centers '
        'stand still. Either its features need no gradient (a frozen network, stored features, '
        'detach, BlockGrad, fixed_param_names): then CenterLoss.update(embedding, label) moves the '
        'centers without a loss, and so does a backward pass after embedding.attach_grad(), or '
        'with inputs_need_grad=True in Module.bind. Or the loss is not part of what backward() is '
        'called on: add it, with λ = 0 (weight, scale) to have the centers follow only. See '
        'docs/using.md', UNFOLLOWED)


def _note_unfollowed(arguments):
    count = _unfollowed.get(arguments, 0)
    if count is not None:
        _unfollowed[arguments] = count + 1 if count + 1 < UNFOLLOWED else None
        if _unfollowed[arguments] is None:
            warn_unfollowed()


def _note_followed(arguments):
    if _unfollowed.get(arguments):
        del _unfollowed[arguments]


class Step:
    """A forward pass and the backward pass that belongs to it: to the last one.

    A training forward keeps what its backward needs. After any other forward, or one that
    failed, the backward computes it afresh from its inputs, and moves no center.

    Parameters
    ----------
    arguments : Arguments
    backend : Host or Device
    context : mxnet.Context, optional
        Where it runs; needed with a `key`.
    """
    __slots__ = ('arguments', 'backend', 'context', 'batch', 'difference', 'finite', 'pending',
                 'samples')

    def __init__(self, arguments, backend, context=None):
        self.arguments = arguments
        self.backend = backend
        self.context = context
        self.difference = None
        self._forget()

    def _forget(self):
        """Forget the forward before; `difference` stays as working memory, whatever it holds."""
        self.batch = self.finite = self.samples = None
        self.pending = False

    def __del__(self):
        if self.pending and _note_unfollowed is not None:  # None: Python is at its end
            _note_unfollowed(self.arguments)

    def _compare(self, data, label, centers):
        """The checked batch, and x_i - c_{y_i}: in the memory of `difference` where possible."""
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
            _note_unfollowed(arguments)
        self._forget()
        batch, difference = self._compare(data, label, centers)         # x_i - c_{y_i}
        losses = backend.half_squares(difference)                       # l_i
        total = backend.total(losses)
        if arguments.reduction == 'none':
            loss = losses
        elif arguments.reduction == 'mean' and batch.count > 1:
            loss = total / batch.count
        else:
            loss = total
        # Scaled before it is cast: ½ ‖x‖² may overflow float16 where λ · ½ ‖x‖² does not.
        backend.store(out, req, loss, arguments.scale if arguments.scale_output else 1)
        if is_train:
            if arguments.key:
                self.samples = samples.ticket(), *backend.samples(data, batch, centers.dtype)
            else:
                self.finite = backend.finite(data, total)
            self.batch, self.difference = batch, difference
            self.pending = bool(arguments.alpha or arguments.key)

    def backward(self, req, head, grad, data, label, centers):
        """Write the gradient to `grad` and, once a training forward, move the centers.

        With a `key`, the samples are noted instead, and move them later.

        Parameters
        ----------
        req : {'null', 'write', 'inplace', 'add'}
            How to store the gradient.
        head : array of the backend, (1,) or (N,), or None
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
                with one_update_at_a_time(centers):  # none of another step while this one reads
                    batch, difference = self._compare(data, label, centers)
            factor = arguments.scale
            if arguments.reduction == 'mean' and batch.count > 1:
                factor /= batch.count
            backend.store_scaled(grad, req, difference, factor, head)
        if self.pending:
            self.pending = False
            _note_followed(arguments)
            if arguments.key:
                samples.note(arguments.key, self.context, *self.samples)
                self.samples = None
            else:
                with one_update_at_a_time(centers):
                    backend.move(centers, self.difference, self.batch, self.finite, arguments.alpha)
