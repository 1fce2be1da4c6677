"""Center loss for the Module API: one set of centers on several devices and workers."""
import os
import weakref
from typing import Any, MutableMapping, Optional, Union

import mxnet as mx

from ._mxnet.graph import center_losses
from ._operator.arguments import Arguments, non_negative_number
from ._operator.gathered import Gatherer, check_name

__all__ = ['CenterTrainer']


class CenterTrainer:
    """Keeps one set of centers for a Module on several devices or workers.

    As :class:`center_loss_op.gluon.CenterTrainer` does for Gluon. Without it, MXNet averages the
    copies of the contexts when parameters are read, and never those of the workers.

    Parameters
    ----------
    key : str
        The `key` given to :func:`center_loss_op.symbol.center_loss`, for one node of the Module.
        Create the trainer before the first step. If several trainers have the same key, the newest
        moves the centers, and :meth:`step` of an older one raises RuntimeError.
    kvstore : str or KVStore, default 'device'
        Key-value store for the contexts of one worker. If the Module has a distributed store (or
        Horovod's), the trainer uses that one.
    alpha : float or None, default None
        α, the rate at which the centers move; None: that of the node. You can set the attribute
        `alpha` at any time. On one context, a schedule of α is the reason to use a `CenterTrainer`.

    Raises
    ------
    TypeError, ValueError
        `kvstore` cannot gather, as in Gluon, or `alpha` is not a finite number >= 0.

    Notes
    -----
    Servers that run the optimizer cannot sum. So this sets ``MXNET_UPDATE_ON_KVSTORE=0`` in the
    environment unless it is set already. Module then runs the optimizer in the workers, and no
    longer sends rank 0's parameters to the others: seed all of them alike.

    Examples
    --------
    >>> from center_loss_op.symbol import center_loss
    >>> loss = center_loss(embedding, label, num_class=10, key='faces')
    >>> mod = mx.mod.Module(mx.sym.Group([softmax, loss]), context=[mx.cpu(0), mx.cpu(1)])
    >>> mod.fit(train_iter, batch_end_callback=CenterTrainer('faces'), num_epoch=10,
    ...         eval_metric=mx.metric.Accuracy(output_names=['softmax_output']))
    """

    def __init__(self, key: str, kvstore: Union[str, mx.kvstore.KVStoreBase] = 'device',
                 alpha: Optional[float] = None) -> None:
        self.alpha = alpha
        self._gatherer = Gatherer(key, kvstore)
        os.environ.setdefault('MXNET_UPDATE_ON_KVSTORE', '0')
        # The node with the key: by Module, or by what FeedForward has instead.
        self._nodes: MutableMapping[Any, Any] = weakref.WeakKeyDictionary()

    @property
    def alpha(self) -> Optional[float]:
        """α of equation 4; None: that of the node."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: Optional[float]) -> None:
        self._alpha = None if value is None else non_negative_number('alpha', value)

    def __call__(self, param: mx.model.BatchEndParam) -> None:
        """As a `batch_end_callback` of `Module.fit` or `FeedForward.fit`; else TypeError."""
        variables = param.locals or {}
        # For a name that it does not know, MXNet makes a store of one worker, or none at all.
        kvstore = variables.get('kvstore')
        if isinstance(kvstore, str):
            check_name(kvstore)
        manager = variables.get('executor_manager')
        if isinstance(manager, mx.executor_manager.DataParallelExecutorManager):  # FeedForward's
            self._step(manager, manager.curr_execgrp.train_execs, kvstore)
        elif isinstance(variables.get('self'), mx.mod.BaseModule):
            self.step(variables['self'])
        else:
            raise TypeError('as a batch_end_callback, a CenterTrainer needs Module.fit or '
                            'FeedForward.fit: in a loop of your own, call '
                            'center_trainer.step(module) after module.update() instead')

    def step(self, module: Union[mx.mod.Module, mx.mod.BucketingModule]) -> None:
        """Move the centers by the samples of all backward passes since the last step.

        `module` has parameters and an optimizer, and one center loss with this key; else TypeError
        or ValueError. RuntimeError as by :meth:`center_loss_op.gluon.CenterTrainer.step`.
        """
        # The buckets share their centers.
        current = module._curr_module if isinstance(module, mx.mod.BucketingModule) else module
        if not isinstance(current, mx.mod.Module):
            raise TypeError('module must be a mx.mod.Module or a bound mx.mod.BucketingModule, '
                            f'got {module!r}')
        # Only the executors of a Module know its copies, and a new batch size replaces them.
        group = current._exec_group
        self._step(current, group.execs if group else [], current._kvstore)
        # If parameters were read since the last update, Module takes what it read for the newest.
        current._params_dirty = module._params_dirty = True

    def drop(self) -> None:
        """Forget the samples since the last step: those of a step that an exception has ended.

        Call it where you catch the exception, only on the worker that failed; not for a bad label.
        """
        self._gatherer.drop()

    def _step(self, holder, executors, store):
        """A step for `holder`, which has a symbol: a Module, or what FeedForward has."""
        if holder not in self._nodes:
            key = self._gatherer.key
            nodes = [loss for loss in center_losses(holder.symbol)
                     if loss.attributes.get('key', '') == key]
            if len(nodes) != 1:
                raise ValueError(f'the module must have one center loss with key={key!r}, found '
                                 f'{", ".join(loss.name for loss in nodes) or "none"}: give each '
                                 'a key and a CenterTrainer of its own')
            self._nodes[holder], = nodes
            if getattr(store, 'type', '').startswith('dist'):
                self._gatherer.use(store)
        if not executors:
            raise ValueError('the module is not bound: call module.bind, or fit, before')
        node, alpha = self._nodes[holder], self.alpha
        self._gatherer.step([executor.aux_dict[node.centers] for executor in executors],
                            Arguments.of_node(node.attributes).alpha if alpha is None else alpha)
