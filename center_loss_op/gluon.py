"""Center loss for Gluon."""
import itertools
import weakref
from typing import Any, Optional, Union

import mxnet as mx
import numpy as np
from mxnet.gluon.loss import Loss, _apply_weighting
from mxnet.util import is_np_array

from ._mxnet.centers import Centers, blocks_being_traced
from ._mxnet.graph import OP_TYPE
from ._operator.arguments import (
    Arguments,
    check_data_type,
    check_elements,
    check_shapes,
    class_count,
    complete_docstring,
    explained,
    more_than_two_axes,
    non_negative_int,
    non_negative_number,
)
from ._operator.decorrelation import decorrelation
from ._operator.gathered import Gatherer
from ._operator.labels import BFLOAT16

__all__ = ['CenterLoss', 'CenterTrainer', 'DecorrelationLoss']

# Of the losses that have got a trainer. All workers create their trainers in the same order.
_numbers = itertools.count()


def _check_batch_axis(value):
    if value != 0:
        raise ValueError('batch_axis must be 0, got %r' % (value,))


def _check_weight(value):
    return None if value is None else non_negative_number('weight', value)


def _check_initializer(value):
    """TypeError or ValueError where MXNet could make no initializer of `value`."""
    try:
        mx.init.create(value)
    except Exception as error:  # whatever the constructor of a registered one raises, too
        kind = ValueError if isinstance(value, (str, dict)) else TypeError
        names = ', '.join(mx.registry.get_registry(mx.init.Initializer))
        raise kind('center_initializer must be an Initializer or the name of one (%s), got %r: %s'
                   % (names, value, error)) from None


class CenterLoss(Loss):
    """Center loss of Wen et al., ECCV 2016 (equations 2, 4 and 5), one number per sample.

    Add it to a classification loss, weighted by λ (`weight`). The backward pass moves the centers,
    whatever the weight. Of these formulas it computes 'none':

%(formulas)s

    Parameters
    ----------
%(classes)s
    in_units : int, default 0
        d, the size of a feature; 0: inferred at the first batch. Before that, centers can be read
        and set only where it is given.
%(alpha)s
    weight : float or None, default None
        λ, which multiplies the loss: finite and >= 0; None: 1. docs/lambda.md says what it means
        next to other losses, and in other implementations.
    batch_axis : int, default 0
        The axis of the batch; only 0 is possible.
    center_initializer : str or Initializer or None, default 'zeros'
        Initializer of the centers; None: the one that `initialize` is given.
%(use_ignore)s
%(ignore_label)s

    Attributes
    ----------
    centers : Parameter
        The centers, (C, d), an auxiliary state: no gradient, no optimizer.
    alpha, weight : float
        α and λ. You can set them at any time.
    key : str
        The name by which a :class:`CenterTrainer` knows this loss; '' before it has one.

    Inputs:
        - **embedding**: features of shape (N, d).
        - **label**: (N,) or (N, 1), whole numbers from 0 to C − 1.
        - **sample_weight** (optional): N numbers of any type, which multiply the loss and its
          gradient. The update of the centers counts every sample equally.

    Outputs:
        - **loss**: loss tensor with shape (N,), in the dtype of the embedding.

    Raises
    ------
    TypeError, ValueError
        At once, for an argument or an array of the wrong type, or with an impossible value or
        shape. A bad label shows as an MXNetError when a result is read; its text is in the log.

    Notes
    -----
    Call the loss once per backward pass. Each call (for each view, part, frame or tower) moves the
    centers by a whole step, which diverges for many calls. Instead concatenate the embeddings and
    the labels, or use a :class:`CenterTrainer`. After ten such updates in a row, a warning is
    logged.

    After `backward()`, `centers.data()` returns the moved centers, without a wait. While recording,
    it returns a copy of the centers before the step, for another term of the loss. The parameter in
    `collect_params()` is the one that Gluon computes with, and makes no copies.

    A new `alpha` or `weight` holds from the next forward pass on. A hybridized block, and each
    hybridized block around it, then rebuilds its graph, which takes milliseconds.

    Examples
    --------
    >>> softmax_loss = gluon.loss.SoftmaxCrossEntropyLoss()
    >>> center_loss = CenterLoss(classes=10, weight=0.1)
    >>> center_loss.initialize()
    >>> for x, y in train_loader:
    ...     with autograd.record():
    ...         embedding, scores = net(x)
    ...         loss = softmax_loss(scores, y) + center_loss(embedding, y)
    ...     loss.backward()
    ...     trainer.step(len(y))

    Another term of the loss can use the centers. It sees them as they were before this step:

    >>> with autograd.record():
    ...     embedding, scores = net(x)
    ...     similarity = mx.nd.dot(embedding, center_loss.centers.data(), transpose_b=True)
    ...     loss = softmax_loss(scores, y) + center_loss(embedding, y) + similarity.mean(axis=1)
    >>> loss.backward()

    A `hybrid_forward` that takes the centers as a parameter uses `F.identity(centers)` instead.
    """

    # Other implementations have λ in third place, so α and λ are given by name.
    @explained
    def __init__(self, classes: int, in_units: int = 0, *, alpha: float = 0.5,
                 weight: Optional[float] = None, batch_axis: int = 0,
                 center_initializer: Union[str, mx.init.Initializer, None] = 'zeros',
                 use_ignore: bool = False, ignore_label: float = -1, **kwargs: Any) -> None:
        _check_batch_axis(batch_axis)
        super().__init__(_check_weight(weight), batch_axis, **kwargs)
        arguments = Arguments(num_class=class_count('classes', classes), alpha=alpha,
                              use_ignore=use_ignore, ignore_label=ignore_label, reduction='none',
                              need_top_grad=True, scale_output=True)
        if center_initializer is not None:
            _check_initializer(center_initializer)
        in_units = non_negative_int('in_units', in_units)
        check_elements(arguments.num_class, in_units)
        # `alpha` also where it is the default, for the property.
        self._attributes = {**dict(arguments.items()), 'alpha': arguments.alpha,
                            'scale': 1 if self._weight is None else self._weight}
        self._parents = ()      # the blocks around this one whose graphs hold its arguments
        description = {'shape': (arguments.num_class, in_units), 'init': center_initializer,
                       'grad_req': 'null', 'differentiable': False, 'allow_deferred_init': True}
        with self.name_scope():
            if kwargs.get('params') is None:
                name = self.params.prefix + 'center_bias'
                self.params.update({name: Centers(name, **description)})
            # Saved under this attribute's name, which must be the parameter's own: load_parameters
            # of a block that has no children looks for that.
            self.center_bias = self.params.get('center_bias', **description)

    def __getstate__(self):
        """A copy has centers of its own, and neither a trainer nor parents."""
        attributes = {name: value for name, value in self._attributes.items() if name != 'key'}
        return {**self.__dict__, '_attributes': attributes, '_parents': ()}

    def _change(self, **attributes):
        """Set arguments of the operator. Graphs that hold the old ones are made anew."""
        self._attributes.update(attributes)
        for block in (self, *self._parents):
            block._clear_cached_op()
        self._parents = ()

    @property
    def key(self) -> str:
        """The name by which a :class:`CenterTrainer` knows this loss; '' before it has one."""
        return self._attributes.get('key', '')

    @key.setter
    def key(self, value: str) -> None:
        """Set by a :class:`CenterTrainer`: it moves the centers from now on."""
        self._change(key=value)

    def forward(self, embedding, label, sample_weight=None):
        inputs = [embedding, label] if sample_weight is None else [embedding, label, sample_weight]
        if isinstance(embedding, mx.sym.Symbol):
            self._parents = weakref.WeakSet((*self._parents, *blocks_being_traced()))
        else:
            self._check(*inputs)
            inputs[1] = label.detach()  # a new handle, for the same reason as that of the centers
            if sample_weight is not None and embedding.dtype != BFLOAT16:
                inputs[2] = sample_weight.astype(embedding.dtype, copy=False)
        if self._cached_graph and len(self._in_format) != len(inputs):
            self._clear_cached_op()     # MXNet's graph has either weights or none
        return super().forward(*inputs)

    def _check(self, embedding, label, sample_weight=None):
        """What can be said better of arrays here than by the operator, which MXNet quotes."""
        if not all(isinstance(array, mx.nd.NDArray) for array in (embedding, label)):
            raise TypeError('embedding and label must be NDArrays (mx.nd.array makes one), got %s '
                            'and %s' % (type(embedding).__name__, type(label).__name__))
        weighted = sample_weight is not None
        if weighted and not isinstance(sample_weight, mx.nd.NDArray):
            hint = '; one number for all samples is the argument weight of CenterLoss'
            raise TypeError('sample_weight must be an NDArray with one number per sample '
                            f'(mx.nd.array makes one), got {sample_weight!r}'
                            f'{hint if np.isscalar(sample_weight) else ""}')
        for name, array in [('embedding', embedding), ('label', label),
                            ('sample_weight', sample_weight)][:2 + weighted]:
            if array.stype != 'default':
                raise TypeError(f"{name} must be dense, got a {array.stype} array: give "
                                f"{name}.tostype('default')")
        classes, in_units = self.centers.shape
        check_shapes('embedding', embedding.shape, label.shape, classes)
        if not len(embedding):
            raise ValueError(f'embedding has shape {embedding.shape}: a batch must have at least '
                             'one sample')
        if weighted and sample_weight.size != len(embedding):
            raise ValueError('sample_weight must have one number per sample, shape '
                             f'({len(embedding)},), to fit embedding of shape {embedding.shape}, '
                             f'got shape {sample_weight.shape}. A call is (embedding, label, '
                             'sample_weight)')
        if in_units not in (0, -1, embedding.shape[1]):
            raise ValueError('embedding has %d features a sample, but in_units is %d'
                             % (embedding.shape[1], in_units))
        dtype, centers = np.dtype(embedding.dtype), np.dtype(self.centers.dtype)
        if dtype != BFLOAT16:   # which automatic mixed precision casts for the operator
            check_data_type('embedding', dtype)
        if (dtype == np.float64) != (centers == np.float64):
            raise TypeError("embedding is %s, but the centers are %s: write center_loss.cast('%s') "
                            "before, or give embedding.astype('%s'). See docs/using.md"
                            % (dtype, centers, dtype, centers))

    def hybrid_forward(self, F, embedding, label, sample_weight=None, center_bias=None):
        inputs = (embedding, label, center_bias)
        if is_np_array():  # mx.npx has no custom operators; this is the same array
            inputs = (array.as_nd_ndarray() for array in inputs)
        loss = F.Custom(*inputs, op_type=OP_TYPE, name='fwd', **self._attributes)
        if is_np_array():
            loss, F = loss.as_np_ndarray(), F.npx
        if sample_weight is not None:
            sample_weight = F.reshape_like(sample_weight, loss)
        return _apply_weighting(F, loss, None, sample_weight)

    def update(self, embedding: mx.nd.NDArray, label: mx.nd.NDArray) -> None:
        """Move the centers by equation 4, without a loss.

        Use it for features that have no backward pass: those of a frozen network, or stored ones.
        You can also start with it: with `alpha` 1, centers at 0 and all n samples of a class in one
        call, the center becomes n / (1 + n) times their mean.

        Parameters
        ----------
        embedding, label : NDArray
            As for a call: (N, d), and (N,) or (N, 1), on a context that has the centers. With a
            :class:`CenterTrainer`, its next step moves the centers by these samples, too.
        """
        self._check(embedding, label)
        embedding = embedding.detach()
        embedding.attach_grad()
        with mx.autograd.record():
            loss = self(embedding, label)
        loss.backward()

    @property
    def centers(self) -> mx.gluon.Parameter:
        """The centers, (C, d), an auxiliary state: no gradient, no optimizer."""
        return self.center_bias.as_read

    @property
    def weight(self) -> Optional[float]:
        """λ, the weight of the loss: finite and >= 0, or None for 1."""
        return self._weight

    @weight.setter
    def weight(self, value: Optional[float]) -> None:
        self._weight = _check_weight(value)
        self._change(scale=1 if value is None else self._weight)

    @property
    def alpha(self) -> float:
        """α, the rate at which the centers move: finite and >= 0."""
        return self._attributes['alpha']

    @alpha.setter
    def alpha(self, value: float) -> None:
        self._change(alpha=non_negative_number('alpha', value))

    def __repr__(self):
        return '{}(classes={}, in_units={}, alpha={}, w={})'.format(
            type(self).__name__, *self.centers.shape, self.alpha, self._weight)


complete_docstring(CenterLoss, CenterLoss.__init__, classes='num_class')


class DecorrelationLoss(Loss):
    r"""DeCov of Cogswell et al., ICLR 2016, over d: a companion of center loss.

    .. math::

        P = \frac{1}{2d} \sum_{j \neq k} C_{jk}^2, \qquad
        C = \frac{1}{N} \sum_i (x_i - \bar x)(x_i - \bar x)^T

    Center loss can make features redundant: the embedding uses fewer directions, which then lack
    for classes that are not in the training set. This loss keeps the directions. Batch-normalize
    the embedding with ``BatchNorm(scale=False, center=False)``: if the scale is learned, the
    network can lower the loss by making all features smaller.

    Parameters
    ----------
    weight : float or None, default None
        Multiplies the loss: finite and >= 0; None: 1. docs/results.md uses 0.1. The weight is
        constant. For a schedule, leave it at 1 and multiply the loss.
    batch_axis : int, default 0
        The axis of the batch; only 0 is possible.

    Inputs:
        - **embedding**: features of shape (N, d). Samples that other losses ignore count here. One
          NaN in the features makes the loss of every sample NaN. Each device computes the
          covariance of its own samples. In a hybridized parent, cast float16 features to float32.

    Outputs:
        - **loss**: weight · P for each sample, shape (N,), in the dtype of the embedding. For
          uncorrelated features of variance 1 it is about weight · d / (2N), by chance.

    Raises
    ------
    TypeError, ValueError
        At once, for an argument or an array of the wrong type, or with an impossible value or
        shape.

    Examples
    --------
    >>> decorrelation_loss = DecorrelationLoss(weight=0.1)
    >>> with autograd.record():
    ...     embedding, scores = net(x)
    ...     loss = (softmax_loss(scores, y) + center_loss(embedding, y)
    ...             + decorrelation_loss(embedding))
    """

    @explained
    def __init__(self, weight: Optional[float] = None, batch_axis: int = 0, **kwargs: Any) -> None:
        _check_batch_axis(batch_axis)
        super().__init__(_check_weight(weight), batch_axis, **kwargs)

    @property
    def weight(self) -> Optional[float]:
        """The weight of the loss, or None for 1."""
        return self._weight

    def forward(self, embedding):
        if not isinstance(embedding, mx.sym.Symbol):
            if not isinstance(embedding, mx.nd.NDArray):
                raise TypeError('embedding must be an NDArray (mx.nd.array makes one), got %s'
                                % type(embedding).__name__)
            if embedding.ndim != 2:
                raise ValueError('embedding must be (N, d), got shape %s%s' % (
                    embedding.shape, more_than_two_axes('embedding', embedding.shape)))
            check_data_type('embedding', np.dtype(embedding.dtype))
            if embedding.dtype == np.float16:
                # Which has too few digits for a covariance, and on a CPU no product.
                return super().forward(embedding.astype('float32')).astype('float16')
        return super().forward(embedding)

    def hybrid_forward(self, F, embedding):
        numpy = is_np_array()
        loss = decorrelation(F, embedding.as_nd_ndarray() if numpy else embedding).reshape((-1,))
        if numpy:
            loss = loss.as_np_ndarray()
        return _apply_weighting(F, loss, self._weight)


class CenterTrainer:
    """Moves the centers of a :class:`CenterLoss` on several devices or workers.

    Without it, each context and each worker moves its own copy of the centers by its own samples,
    and the copies diverge. With it, all copies move by equation 4 over the samples of all of them
    since the last step, and stay identical bit for bit.

    Parameters
    ----------
    center_loss : CenterLoss
        The loss, whose backward pass no longer moves the centers. If a loss has several trainers,
        the newest one moves the centers, and :meth:`step` of an older one raises RuntimeError.
    kvstore : str or KVStore, default 'device'
        For one worker, the type of a key-value store. For several workers, the store of the
        `gluon.Trainer` itself. That trainer needs `update_on_kvstore=False`, because servers that
        run an optimizer cannot sum. With Horovod's own trainer, pass a
        :class:`center_loss_op.horovod.Horovod`.

    Raises
    ------
    TypeError
        `center_loss` is not a CenterLoss, or `kvstore` is neither a name nor a store.
    ValueError
        The store is asynchronous, so that it cannot sum over the workers of a step. Or `kvstore`
        is the name of a distributed store (MXNet allows one per process: pass the store), or a
        name that MXNet does not know.

    Examples
    --------
    >>> kv = mx.kv.create('device')
    >>> trainer = gluon.Trainer(net.collect_params(), 'sgd', kvstore=kv, update_on_kvstore=False)
    >>> center_trainer = CenterTrainer(center_loss, kvstore=kv)
    >>> for x, y in train_loader:
    ...     with autograd.record():
    ...         embedding, scores = net(x)
    ...         loss = softmax_loss(scores, y) + center_loss(embedding, y)
    ...     loss.backward()
    ...     trainer.step(len(y))
    ...     center_trainer.step()
    """

    def __init__(self, center_loss: CenterLoss,
                 kvstore: Union[str, mx.kvstore.KVStoreBase] = 'device') -> None:
        if not isinstance(center_loss, CenterLoss):
            raise TypeError('center_loss must be a CenterLoss, got %r' % (center_loss,))
        self._loss = center_loss
        # Names alone may be equal. A loss keeps its key, which may be in the graph of a net.
        key = center_loss.key or '%s/%d' % (center_loss.centers.name, next(_numbers))
        self._gatherer = Gatherer(key, kvstore, int_keys=True)
        center_loss.key = key

    def step(self) -> None:
        """Move the centers by the samples of all backward passes since the last step.

        Call it on every worker, once after each `Trainer.step`. The first call copies the centers
        of rank 0's first context to all contexts and workers.

        After a bad label, the samples of the failed step are dropped. After another exception
        between `backward()` and this call, call :meth:`drop`.

        Raises
        ------
        MXNetError
            An operation of this step failed. No center has moved.
        RuntimeError
            No worker had a sample, because there was no backward pass. Or the loss has a newer
            trainer. Or the store did not return the sum of this step: its servers run an optimizer,
            or a worker left out a step.
        """
        self._gatherer.step([copy.as_nd_ndarray() for copy in self._loss.centers.list_data()],
                            self._loss.alpha)

    def drop(self) -> None:
        """Forget the samples since the last step, for example after an exception ended a step.

        Call it where you catch the exception, only on the worker that failed.
        """
        self._gatherer.drop()
