"""Center loss for Gluon."""
import weakref
from typing import Any, Collection, Dict, Optional, Union

import mxnet as mx
import numpy as np
from mxnet.gluon.loss import Loss
from mxnet.util import is_np_array

from ._mxnet.centers import Centers, blocks_being_traced
from ._mxnet.graph import OP_TYPE
from ._operator import arguments
from ._operator.decorrelation import decorrelation
from ._operator.gathered import Gatherer, new_key
from ._operator.labels import BFLOAT16

__all__ = ['CenterLoss', 'CenterTrainer', 'DecorrelationLoss']

Array = Union[mx.nd.NDArray, mx.sym.Symbol]


def _check_weight(value: Any, batch_axis: int = 0) -> Optional[float]:
    if batch_axis != 0:
        raise ValueError(f'batch_axis must be 0, got {batch_axis!r}')
    return None if value is None else arguments.non_negative_number('weight', value)


def _check_array(name: str, array: Any) -> None:
    if not isinstance(array, mx.nd.NDArray):
        hint = '. The argument weight weighs all samples' if name == 'sample_weight' else ''
        raise TypeError(f'{name} must be an NDArray (mx.nd.array makes one), got {array!r:.60}'
                        f'{hint}')
    if array.stype != 'default':
        raise TypeError(f"{name} must be dense, got a {array.stype} array: give "
                        f"{name}.tostype('default')")


def _check_initializer(value: Any) -> None:
    try:
        if value is not None:
            mx.init.create(value)
    except Exception as error:  # whatever the constructor of a registered one raises, too
        kind = ValueError if isinstance(value, (str, dict)) else TypeError
        names = ', '.join(mx.registry.get_registry(mx.init.Initializer))
        raise kind(f'center_initializer must be an Initializer or the name of one ({names}), got '
                   f'{value!r}: {error}') from None


class CenterLoss(Loss):
    """Center loss of Wen et al., ECCV 2016 (equations 2, 4 and 5), one number per sample.

    Call it with features, (N, d), labels, (N,) or (N, 1), and optionally a weight per sample. It
    returns λ times the loss of each sample, (N,), in the dtype of the features. Its backward pass
    moves the centers. Call it once per backward pass, on the concatenation of all views.

%(formulas)s

    Parameters
    ----------
%(classes)s
    in_units : int, default 0
        d, the number of features; 0: inferred at the first batch.
%(alpha)s
    weight : float or None, default None
        λ, which multiplies the loss: finite and >= 0; None: 1. See docs/lambda.md.
    batch_axis : int, default 0
        The axis of the batch; only 0 is possible.
    center_initializer : str or Initializer or None, default 'zeros'
        Initializer of the centers; None: the one that `initialize` is given.
%(use_ignore)s
%(ignore_label)s

    Raises
    ------
    TypeError, ValueError
        At once, for a wrong argument or array. A bad label raises MXNetError when a result is read.

    Examples
    --------
    >>> center_loss = CenterLoss(classes=10, weight=0.1)
    >>> center_loss.initialize()
    >>> with autograd.record():
    ...     embedding, scores = net(x)
    ...     loss = softmax_loss(scores, y) + center_loss(embedding, y)
    >>> loss.backward()
    """

    # Other implementations have λ in third place, so α and λ are given by name.
    @arguments.explained
    def __init__(self, classes: int, in_units: int = 0, *, alpha: float = 0.5,
                 weight: Optional[float] = None, batch_axis: int = 0,
                 center_initializer: Union[str, mx.init.Initializer, None] = 'zeros',
                 use_ignore: bool = False, ignore_label: float = -1, **kwargs: Any) -> None:
        super().__init__(_check_weight(weight, batch_axis), batch_axis, **kwargs)
        given = arguments.Arguments(
            num_class=arguments.class_count('classes', classes), alpha=alpha, reduction='none',
            use_ignore=use_ignore, ignore_label=ignore_label, need_top_grad=True,
            scale_output=True)
        _check_initializer(center_initializer)
        in_units = arguments.non_negative_int('in_units', in_units)
        arguments.check_elements(given.num_class, in_units)
        # `alpha` also if it is the default, for the property.
        self._attributes = {**dict(given.items()), 'alpha': given.alpha,
                            'scale': 1 if weight is None else self._weight}
        # The blocks around this one whose graphs hold its arguments.
        self._parents: Collection[mx.gluon.Block] = ()
        description = {'shape': (given.num_class, in_units), 'init': center_initializer,
                       'grad_req': 'null', 'differentiable': False, 'allow_deferred_init': True}
        with self.name_scope():
            if kwargs.get('params') is None:
                name = self.params.prefix + 'center_bias'
                self.params.update({name: Centers(name, **description)})
            # Saved under this attribute's name, which must be the parameter's own: load_parameters
            # of a block that has no children looks for that.
            self.center_bias = self.params.get('center_bias', **description)

    def __getstate__(self) -> Dict[str, Any]:
        """A copy has centers of its own, and neither a trainer nor parents."""
        attributes = {name: value for name, value in self._attributes.items() if name != 'key'}
        return {**self.__dict__, '_attributes': attributes, '_parents': ()}

    def _change(self, **attributes: Any) -> None:
        """Set arguments of the operator; graphs that hold the old ones are made again."""
        self._attributes.update(attributes)
        for block in (self, *self._parents):
            block._clear_cached_op()
        self._parents = ()

    @property
    def key(self) -> str:
        """Deprecated: the name by which a :class:`CenterTrainer` knows this loss, or ''."""
        arguments.warn_once('CenterLoss.key is deprecated: only its CenterTrainer needs it', 3)
        return self._attributes.get('key', '')

    def forward(self, embedding: Array, label: Array,
                sample_weight: Optional[Array] = None) -> Array:
        inputs = [embedding, label] if sample_weight is None else [embedding, label, sample_weight]
        if isinstance(embedding, mx.sym.Symbol):
            self._parents = weakref.WeakSet((*self._parents, *blocks_being_traced()))
        else:
            self._check(*inputs)
            inputs[1] = label.detach()  # a new handle, as Centers.data() returns
            if sample_weight is not None and embedding.dtype != BFLOAT16:
                inputs[2] = sample_weight.astype(embedding.dtype, copy=False)
        if self._cached_graph and len(self._in_format) != len(inputs):
            self._clear_cached_op()     # MXNet's graph has either weights or none
        return super().forward(*inputs)

    def _check(self, embedding: Any, label: Any, sample_weight: Any = None) -> None:
        """Report bad arrays here: MXNet would quote the operator's error."""
        _check_array('embedding', embedding)
        _check_array('label', label)
        classes, in_units = self.centers.shape
        shape = embedding.shape
        arguments.check_shapes('embedding', shape, label.shape, classes)
        if not len(embedding):
            raise ValueError(f'embedding has shape {shape}: a batch must have at least one sample')
        if sample_weight is not None:
            _check_array('sample_weight', sample_weight)
            if sample_weight.size != shape[0]:
                raise ValueError(
                    f'sample_weight must have one number per sample, shape ({shape[0]},), to fit '
                    f'embedding of shape {shape}, got shape {sample_weight.shape}. A call is '
                    '(embedding, label, sample_weight)')
        if in_units not in (0, -1, embedding.shape[1]):
            raise ValueError(f'embedding has {shape[1]} features a sample, but in_units is '
                             f'{in_units}')
        dtype, centers = np.dtype(embedding.dtype), np.dtype(self.centers.dtype)
        if dtype != BFLOAT16:   # which automatic mixed precision casts for the operator
            arguments.check_data_type('embedding', dtype)
        if (dtype == np.float64) != (centers == np.float64):
            raise TypeError(f"embedding is {dtype}, but the centers are {centers}: write "
                            f"center_loss.cast('{dtype}') before, or give "
                            f"embedding.astype('{centers}'). See docs/using.md")

    def hybrid_forward(self, F: Any, embedding: Array, label: Array,
                       sample_weight: Optional[Array] = None,
                       center_bias: Any = None) -> Array:
        # mx.npx has no custom operators; these are the same arrays.
        inputs = [array.as_nd_ndarray() for array in (embedding, label, center_bias)]
        loss = F.Custom(*inputs, op_type=OP_TYPE, name='fwd', **self._attributes)
        if sample_weight is not None:
            loss = loss * F.reshape_like(sample_weight.as_nd_ndarray(), loss)
        return loss.as_np_ndarray() if is_np_array() else loss

    def update(self, embedding: mx.nd.NDArray, label: mx.nd.NDArray) -> None:
        """Move the centers by equation 4, without a loss: for features without a backward pass.

        `embedding` and `label` are those of a call. If the loss has a :class:`CenterTrainer`, the
        next step of the trainer moves the centers.
        """
        self._check(embedding, label)
        embedding = embedding.detach()
        embedding.attach_grad()
        with mx.autograd.record():
            loss = self(embedding, label)
        loss.backward()

    @property
    def centers(self) -> mx.gluon.Parameter:
        """The centers, (C, d): an auxiliary state, without gradient and optimizer.

        After `backward()`, `centers.data()` returns the moved centers. While recording, it returns
        a copy of those before the step; the parameter in `collect_params()` makes no copies.
        """
        return self.center_bias.as_read

    @property
    def weight(self) -> Optional[float]:
        """λ, the weight of the loss; None: 1. A new value holds from the next call on."""
        return self._weight

    @weight.setter
    def weight(self, value: Optional[float]) -> None:
        self._weight = _check_weight(value)
        self._change(scale=1 if value is None else self._weight)

    @property
    def alpha(self) -> float:
        """α, the rate of the centers. A new value holds from the next call on."""
        return self._attributes['alpha']

    @alpha.setter
    def alpha(self, value: float) -> None:
        self._change(alpha=arguments.non_negative_number('alpha', value))


arguments.complete_docstring(CenterLoss, CenterLoss.__init__, classes='num_class')


class DecorrelationLoss(Loss):
    r"""DeCov of Cogswell et al., ICLR 2016, divided by d: a companion of center loss.

    .. math::

        P = \frac{1}{2d} \sum_{j \neq k} C_{jk}^2, \qquad
        C = \frac{1}{N} \sum_i (x_i - \bar x)(x_i - \bar x)^T

    It keeps features from becoming redundant (docs/results.md). Call it with features, (N, d). It
    returns weight · P for each sample, (N,), in the dtype of the features. P is that of all samples
    of one device, ignored ones included. Normalize the features by ``BatchNorm(scale=False,
    center=False)``: with a learned scale, the network can lower the loss by making all features
    smaller. In a hybridized parent, cast features of float16 to float32.

    `weight` is finite and >= 0; None: 1. It is constant: for a schedule, multiply the loss. The
    batch is axis 0. A wrong argument or array raises TypeError or ValueError at once.

    Examples
    --------
    >>> decorrelation_loss = DecorrelationLoss(weight=0.1)
    >>> with autograd.record():
    ...     embedding, scores = net(x)
    ...     loss = (softmax_loss(scores, y) + center_loss(embedding, y)
    ...             + decorrelation_loss(embedding))
    """

    @arguments.explained
    def __init__(self, weight: Optional[float] = None, batch_axis: int = 0, **kwargs: Any) -> None:
        super().__init__(_check_weight(weight, batch_axis), batch_axis, **kwargs)

    @property
    def weight(self) -> Optional[float]:
        """The weight of the loss, or None for 1."""
        return self._weight

    def forward(self, embedding: Array) -> Array:
        if isinstance(embedding, mx.sym.Symbol):
            return super().forward(embedding)
        _check_array('embedding', embedding)
        if embedding.ndim != 2:
            raise ValueError(f'embedding must be (N, d), got shape {embedding.shape}'
                             f'{arguments.more_than_two_axes("embedding", embedding.shape)}')
        arguments.check_data_type('embedding', np.dtype(embedding.dtype))
        if embedding.dtype == np.float16:
            # It has too few digits for a covariance, and no product of matrices on a CPU.
            return super().forward(embedding.astype('float32')).astype('float16')
        return super().forward(embedding)

    def hybrid_forward(self, F: Any, embedding: Array) -> Array:
        loss = decorrelation(F, embedding.as_nd_ndarray()).reshape((-1,))
        if self._weight is not None:
            loss = loss * self._weight
        return loss.as_np_ndarray() if is_np_array() else loss


class CenterTrainer:
    """Moves the centers of a :class:`CenterLoss` on several devices or workers.

    Every copy of the centers moves by equation 4 over the samples of all of them, to the same bits.
    Without it, each device and each worker moves its own copy by its own samples.

    Parameters
    ----------
    center_loss : CenterLoss
        The loss. Its backward pass no longer moves the centers. The newest trainer of a loss does.
    kvstore : str or KVStore, default 'device'
        For one worker, the type of a key-value store. For several workers, the store of the
        `gluon.Trainer`, which needs `update_on_kvstore=False`, or a
        :class:`center_loss_op.horovod.Horovod`. See docs/scaling.md.

    Raises
    ------
    TypeError, ValueError
        An argument has a wrong type, or the store is unknown or asynchronous. MXNet allows one
        distributed store, so pass that store, not its name.

    Examples
    --------
    >>> kv = mx.kv.create('device')
    >>> trainer = gluon.Trainer(net.collect_params(), 'sgd', kvstore=kv, update_on_kvstore=False)
    >>> center_trainer = CenterTrainer(center_loss, kvstore=kv)
    >>> with autograd.record():
    ...     embedding, scores = net(x)
    ...     loss = softmax_loss(scores, y) + center_loss(embedding, y)
    >>> loss.backward()
    >>> trainer.step(len(y))
    >>> center_trainer.step()
    """

    def __init__(self, center_loss: CenterLoss,
                 kvstore: Union[str, mx.kvstore.KVStoreBase] = 'device') -> None:
        if not isinstance(center_loss, CenterLoss):
            raise TypeError(f'center_loss must be a CenterLoss, got {center_loss!r}')
        self._loss = center_loss
        # A loss keeps its key, which may be in the graph of a net.
        key = center_loss._attributes.get('key') or new_key(center_loss.centers.name)
        self._gatherer = Gatherer(key, kvstore, int_keys=True)
        center_loss._change(key=key)

    def step(self) -> None:
        """Move the centers by the samples of all backward passes since the last step.

        Call it on every worker, once after each `Trainer.step`. The first call copies the centers
        of rank 0's first context to all contexts and workers.

        Raises
        ------
        MXNetError
            An operation of this step failed, for example on a bad label. No center has moved, and
            the samples of the step are dropped.
        RuntimeError
            No worker had a backward pass, the loss has a newer trainer, or the store does not sum.
        """
        self._gatherer.step([copy.as_nd_ndarray() for copy in self._loss.centers.list_data()],
                            self._loss.alpha)

    def drop(self) -> None:
        """Forget the samples since the last step.

        Call it where you catch an exception that ended a step between `backward()` and
        :meth:`step`, only on the worker that failed. After a bad label it is not needed.
        """
        self._gatherer.drop()
