"""Center loss for Gluon."""
import itertools
from typing import Any, Optional, Union

import mxnet as mx
from mxnet.gluon.loss import Loss, _apply_weighting
from mxnet.util import is_np_array

from .operator import OP_TYPE, check_elements
from .parallel import Gatherer, open_store
from .params import Params, rate, unknown_or_size

__all__ = ['CenterLoss', 'CenterTrainer']

# Of the losses that have got a trainer. All workers create their trainers in the same order.
_numbers = itertools.count()


def _check_initializer(value):
    """TypeError or ValueError where MXNet could make no initializer of `value`."""
    try:
        mx.init.create(value)
    except Exception as error:  # whatever the constructor of a registered one raises, too
        kind = ValueError if isinstance(value, (str, dict)) else TypeError
        names = ', '.join(mx.registry.get_registry(mx.init.Initializer))
        raise kind('center_initializer must be an Initializer or the name of one (%s), got %r: %s'
                   % (names, value, error)) from None


class _Centers(mx.gluon.Parameter):
    """A parameter that waits for pending updates before anyone reads it.

    The backward pass writes the centers, but to MXNet's engine they are an input of it, so
    a read that follows `backward()` may overtake the update. Within a recorded forward pass
    the engine does keep the order (the forward operator declares a write), and no wait is due.
    """

    def data(self, ctx=None):
        self._settle()
        return super().data(ctx)

    def list_data(self):
        self._settle()
        return super().list_data()

    @staticmethod
    def _settle():
        if not mx.autograd.is_recording():
            mx.nd.waitall()


class CenterLoss(Loss):
    r"""Center loss of Wen et al., ECCV 2016.

    .. math::

        L_i = \frac{1}{2} \| x_i - c_{y_i} \|^2

    Add it to a classification loss, weighted by λ (`weight`). The backward pass moves the
    centers by the damped mean of the batch, whatever the weight:

    .. math::

        c_j \leftarrow c_j - \alpha \frac{\sum_{i: y_i = j} (c_j - x_i)}{1 + n_j}

    Parameters
    ----------
    classes : int
        C, the number of classes.
    in_units : int, default 0
        d, the size of a feature; 0: inferred at the first batch.
    alpha : float, default 0.5
        α, the rate at which the centers move. 0 freezes them.
    weight : float or None
        λ, a global scalar weight for the loss: finite and >= 0.
    batch_axis : int, default 0
        The axis that represents mini-batch; 0 is the only one.
    center_initializer : str or Initializer or None, default 'zeros'
        Initializer of the centers; None: the one that `initialize` is given.
    use_ignore : bool, default False
        Leave samples labelled `ignore_label` out: their loss is 0, and they move no center.
    ignore_label : float, default -1
        The label to leave out.

    Attributes
    ----------
    centers : Parameter
        The centers, (C, d), an auxiliary state: no gradient, no optimizer.

    Inputs:
        - **embedding**: features of shape (N, d).
        - **label**: (N,) or (N, 1), whole numbers from 0 to C − 1.
        - **sample_weight**: element-wise weighting of the loss, N numbers. It weighs
          the gradient; a center counts every sample alike.

    Outputs:
        - **loss**: loss tensor with shape (N,), in the dtype of the centers.

    Raises
    ------
    TypeError, ValueError
        At once, for an argument of the wrong type or with an impossible value. A bad label
        shows as an MXNetError when a result is read; its text is in the log.

    Examples
    --------
    >>> center_loss = CenterLoss(classes=10, weight=0.1)
    >>> center_loss.initialize(ctx=ctx)
    >>> with autograd.record():
    ...     embedding = features(x)
    ...     loss = softmax_loss(classifier(embedding), y) + center_loss(embedding, y)
    >>> loss.backward()
    """

    def __init__(self, classes: int, in_units: int = 0, alpha: float = 0.5,
                 weight: Optional[float] = None, batch_axis: int = 0,
                 center_initializer: Union[str, mx.init.Initializer, None] = 'zeros',
                 use_ignore: bool = False, ignore_label: float = -1, **kwargs: Any) -> None:
        if batch_axis != 0:
            raise ValueError('batch_axis must be 0, got %r' % (batch_axis,))
        super().__init__(None if weight is None else rate('weight', weight), batch_axis, **kwargs)
        params = Params(num_class=classes, alpha=alpha, use_ignore=use_ignore,
                        ignore_label=ignore_label, reduction='none', need_top_grad=True)
        if center_initializer is not None:
            _check_initializer(center_initializer)
        in_units = unknown_or_size('in_units', in_units)
        check_elements(params.num_class, in_units)
        self._operator_params = params
        self._attributes = dict(params.items())
        description = {'shape': (params.num_class, in_units), 'init': center_initializer,
                       'grad_req': 'null', 'differentiable': False, 'allow_deferred_init': True}
        with self.name_scope():
            if kwargs.get('params') is None:
                name = self.params.prefix + 'center_bias'
                self.params.update({name: _Centers(name, **description)})
            # Saved under this attribute's name, which must be the parameter's own: load_parameters
            # of a block that has no children looks for that.
            self.center_bias = self.params.get('center_bias', **description)

    def __getstate__(self):
        """A copy has centers of its own, and no trainer."""
        attributes = {name: value for name, value in self._attributes.items() if name != 'key'}
        return {**self.__dict__, '_attributes': attributes}

    @property
    def key(self) -> str:
        """What a :class:`CenterTrainer` knows this loss by; '' before it has one."""
        return self._attributes.get('key', '')

    def leave_centers_to(self, key):
        """Have a :class:`CenterTrainer` move the centers; called by it."""
        self._attributes['key'] = key
        self._clear_cached_op()

    def hybrid_forward(self, F, embedding, label, sample_weight=None, center_bias=None):
        # pylint: disable=arguments-differ
        inputs = (embedding, label, center_bias)
        if is_np_array():  # mx.npx has no custom operators; this is the same array
            inputs = (array.as_nd_ndarray() for array in inputs)
        loss = F.Custom(*inputs, op_type=OP_TYPE, name='fwd', **self._attributes)
        if is_np_array():
            loss, F = loss.as_np_ndarray(), F.npx
        if sample_weight is not None:
            sample_weight = F.reshape_like(sample_weight, loss)
        return _apply_weighting(F, loss, self._weight, sample_weight)

    @property
    def centers(self) -> mx.gluon.Parameter:
        """The centers, a Parameter."""
        return self.center_bias

    @property
    def alpha(self) -> float:
        """α, the rate at which the centers move."""
        return self._operator_params.alpha

    def cast(self, dtype: Any) -> None:
        """Cast the block; the centers of float16 features stay float32."""
        super().cast('float32' if str(dtype) in ('float16', "<class 'numpy.float16'>") else dtype)

    def __repr__(self):
        return '{}(classes={}, in_units={}, alpha={}, w={})'.format(
            type(self).__name__, *self.centers.shape, self.alpha, self._weight)


class CenterTrainer:
    """Moves the centers of a :class:`CenterLoss` on several devices, or workers, as one.

    Without it each context and each worker moves a copy of its own by its own samples, and
    the copies part. With it, all copies move by equation 4 over the union of all samples
    since the last step, and stay the same bit for bit.

    Parameters
    ----------
    center_loss : CenterLoss
        The loss. Create the trainer before its first forward pass: from then on the
        operator leaves the centers alone. Of several trainers of one loss the newest one
        moves them, and :meth:`step` of an older one raises RuntimeError.
    kvstore : str or KVStore, default 'device'
        Key-value store type for several devices of one worker, or for several workers the
        store itself, which has to be the one of `gluon.Trainer`; that one needs
        `update_on_kvstore=False`, for servers that run an optimizer cannot sum.

    Raises
    ------
    TypeError
        No CenterLoss, or no store.
    ValueError
        An asynchronous store, which cannot sum over the workers of a step; or the name of a
        distributed one, of which MXNet allows one a process.

    Examples
    --------
    >>> trainer = gluon.Trainer(net.collect_params(), 'sgd', kvstore=kv, update_on_kvstore=False)
    >>> center_trainer = CenterTrainer(center_loss, kvstore=kv)
    >>> ...
    >>> trainer.step(batch_size)
    >>> center_trainer.step()
    """

    def __init__(self, center_loss: CenterLoss,
                 kvstore: Union[str, mx.kvstore.KVStoreBase] = 'device') -> None:
        if not isinstance(center_loss, CenterLoss):
            raise TypeError('center_loss must be a CenterLoss, got %r' % (center_loss,))
        self._centers = center_loss.centers
        self._alpha = center_loss.alpha
        # Names alone may be equal. A loss keeps its key, which may be in the graph of a net.
        key = center_loss.key or '%s/%d' % (self._centers.name, next(_numbers))
        self._gatherer = Gatherer(key, open_store(kvstore), int_keys=True)
        center_loss.leave_centers_to(key)

    def step(self) -> None:
        """Move the centers by the samples of all backward passes since the last step.

        Call it on every worker, once after each `Trainer.step`. The first call makes the
        copies of all contexts and workers equal to that of rank 0's first context.

        Raises
        ------
        RuntimeError
            No worker had a sample: the loss is part of a hybridized net that ran before this
            trainer was created. Or the loss has a newer trainer. Or the store did not sum: see
            :class:`center_loss_op.parallel.Gatherer`.
        """
        self._gatherer.step([copy.as_nd_ndarray() for copy in self._centers.list_data()],
                            self._alpha)
