"""Center loss for the Module API: one set of centers on several devices and workers."""
import os
import weakref
from typing import Optional, Union

import mxnet as mx

from ._mxnet.graph import center_losses
from ._operator.arguments import Arguments, non_negative_number
from ._operator.gather import Gatherer, check_name, open_store

__all__ = ['CenterTrainer']


class CenterTrainer:
    """Moves the centers of a Module on several devices, or workers, as one.

    Without it each context and each worker moves a copy of its own by its own samples; MXNet
    averages the copies of the contexts when parameters are read, and the workers' never.
    With it, all copies move by equation 4 over the union of the samples of a step, and stay
    the same bit for bit.

    Parameters
    ----------
    key : str
        The `key` given to :func:`center_loss_op.symbol.center_loss`: to one node of the
        Module. Create the trainer before the first step. Of several trainers of one key the
        newest one counts, and :meth:`step` of an older one raises RuntimeError.
    kvstore : str or KVStore, default 'device'
        Key-value store for the contexts of one worker. A Module that was fitted with a
        distributed store (or Horovod's) brings that one along.
    alpha : float or None, default None
        α, the rate at which the centers move; None: the node's.

    Attributes
    ----------
    alpha : float or None
        May be set at any time. (With one context, a schedule of α is what a Module needs a
        `CenterTrainer` for.)

    Raises
    ------
    TypeError
        No store, or an `alpha` that is no number.
    ValueError
        An asynchronous store, or the name of a distributed one or of none, or an impossible
        `alpha`.

    Notes
    -----
    Servers that run the optimizer cannot sum, so this sets ``MXNET_UPDATE_ON_KVSTORE=0`` in
    the environment unless it is set already: Module then runs the optimizer in the workers.
    It has no parameter for that. Module also does not send rank 0's parameters to the other
    workers then: seed all of them alike.

    Examples
    --------
    >>> from center_loss_op.symbol import center_loss
    >>> loss = center_loss(embedding, label, num_class=10, key='faces')
    >>> mod = mx.mod.Module(mx.sym.Group([softmax, loss]), context=[mx.cpu(0), mx.cpu(1)])
    >>> mod.fit(train, batch_end_callback=CenterTrainer('faces'), num_epoch=10,
    ...         eval_metric=mx.metric.Accuracy(output_names=['softmax_output']))
    """

    def __init__(self, key: str, kvstore: Union[str, mx.kvstore.KVStoreBase] = 'device',
                 alpha: Optional[float] = None) -> None:
        self.alpha = alpha
        self._gatherer = Gatherer(key, open_store(kvstore))
        os.environ.setdefault('MXNET_UPDATE_ON_KVSTORE', '0')
        self._nodes = weakref.WeakKeyDictionary()   # what `_attach` found in a Module

    @property
    def alpha(self) -> Optional[float]:
        """α of equation 4; None: the node's."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: Optional[float]) -> None:
        self._alpha = None if value is None else non_negative_number('alpha', value)

    def __call__(self, param: mx.model.BatchEndParam) -> None:
        """As a `batch_end_callback` of `Module.fit`."""
        # Of a name that it does not know MXNet makes a store of one worker, or none at all.
        kvstore = param.locals.get('kvstore')
        if isinstance(kvstore, str):
            check_name(kvstore)
        self.step(param.locals['self'])

    def step(self, module: Union[mx.mod.Module, mx.mod.BucketingModule]) -> None:
        """Move the centers by the samples of all backward passes since the last step.

        Parameters
        ----------
        module : mxnet.module.Module or mxnet.module.BucketingModule
            With parameters and optimizer.

        Raises
        ------
        TypeError
            Another module.
        ValueError
            The module has no center loss of this key, or several.
        RuntimeError
            There is a newer trainer of this key, or the store did not sum: see
            :class:`center_loss_op._operator.gather.Gatherer`.
        """
        # The buckets share their centers.
        current = module._curr_module if isinstance(module, mx.mod.BucketingModule) else module
        if not isinstance(current, mx.mod.Module):
            raise TypeError('module must be a mx.mod.Module or a bound mx.mod.BucketingModule, '
                            'got %r' % (module,))
        if current not in self._nodes:
            self._nodes[current] = self._attach(current)
        centers, alpha = self._nodes[current]
        # Module has no other way to its copies than through its executors, which a new batch
        # size replaces.
        copies = [executor.aux_dict[centers] for executor in current._exec_group.execs]
        self._gatherer.step(copies, alpha if self.alpha is None else self.alpha)

    def _attach(self, module):
        """The name of the centers and α, from the node of this key."""
        key = self._gatherer.key
        mine = [loss for loss in center_losses(module.symbol)
                if loss.attributes.get('key', '') == key]
        if not mine:
            raise ValueError('the module has no center loss of key=%r' % key)
        if len(mine) > 1:
            raise ValueError('key=%r is that of %d center losses: %s. Give each a key and a '
                             'CenterTrainer of its own'
                             % (key, len(mine), ', '.join(loss.name for loss in mine)))
        if getattr(module._kvstore, 'type', '').startswith('dist'):
            self._gatherer.use(module._kvstore)
        return mine[0].centers, Arguments.of_node(mine[0].attributes).alpha
