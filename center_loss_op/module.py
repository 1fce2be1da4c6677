"""Center loss for the Module API: one set of centers on several devices and workers."""
import os
import weakref
from typing import Any, MutableMapping, Optional, Sequence, Union

import mxnet as mx

from ._mxnet.graph import OP_TYPE, center_losses
from ._operator.arguments import Arguments, non_negative_number
from ._operator.gathered import Gatherer, check_name, new_key

__all__ = ['CenterTrainer']


class CenterTrainer:
    """Moves the centers of a Module on several devices or workers.

    Every copy of the centers moves by equation 4 over the samples of all of them, to the same bits.
    Without it, MXNet averages the copies of the contexts when parameters are read, and never those
    of the workers.

    Parameters
    ----------
    key : Symbol or str
        The node that :func:`center_loss_op.symbol.center_loss` returned, or the argument `key` of
        nodes of ``mx.sym.Custom``, for a BucketingModule. Create the trainer before the module is
        bound. If a node has several trainers, the newest moves the centers.
    kvstore : str or KVStore, default 'device'
        Key-value store for the contexts of one worker. If the Module has a distributed store (or
        Horovod's), the trainer uses that one.
    alpha : float or None, default None
        α, the rate at which the centers move; None: that of the node. You can set the attribute
        `alpha` at any time, also on one context.

    Raises
    ------
    TypeError, ValueError
        `kvstore` cannot gather, as in Gluon, or another argument is wrong.

    Notes
    -----
    Servers that run the optimizer cannot sum. So this sets ``MXNET_UPDATE_ON_KVSTORE=0`` in the
    environment unless it is set. Module then runs the optimizer in the workers, and does not send
    rank 0's parameters to the others: seed all of them alike.

    Examples
    --------
    >>> from center_loss_op.symbol import center_loss
    >>> loss = center_loss(embedding, label, num_class=10, scale=0.1)
    >>> mod = mx.mod.Module(mx.sym.Group([softmax, loss]), context=[mx.cpu(0), mx.cpu(1)])
    >>> mod.fit(train_iter, batch_end_callback=CenterTrainer(loss), num_epoch=10,
    ...         eval_metric=mx.metric.Accuracy(output_names=['softmax_output']))
    """

    def __init__(self, key: Union[str, mx.sym.Symbol],
                 kvstore: Union[str, mx.kvstore.KVStoreBase] = 'device',
                 alpha: Optional[float] = None) -> None:
        self.alpha = alpha
        self._gatherer = Gatherer(_key_of(key) if isinstance(key, mx.sym.Symbol) else key, kvstore)
        os.environ.setdefault('MXNET_UPDATE_ON_KVSTORE', '0')
        # Centers and α of the node with the key: by Module, or by what FeedForward has instead.
        self._nodes: MutableMapping[Any, Any] = weakref.WeakKeyDictionary()

    @property
    def alpha(self) -> Optional[float]:
        """α of equation 4; None: that of the node."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: Optional[float]) -> None:
        self._alpha = None if value is None else non_negative_number('alpha', value)

    def __call__(self, param: mx.model.BatchEndParam) -> None:
        """Step, as a `batch_end_callback` of `Module.fit` or `FeedForward.fit`; else TypeError."""
        variables = param.locals or {}
        # For a name that it does not know, MXNet makes a store of one worker, or none.
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
        """As :meth:`center_loss_op.gluon.CenterTrainer.step`.

        `module` has parameters and an optimizer, and one center loss with this key; else it raises
        TypeError or ValueError.
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
        """As :meth:`center_loss_op.gluon.CenterTrainer.drop`."""
        self._gatherer.drop()

    def _step(self, holder: Any, executors: Sequence[Any], store: Any) -> None:
        """A step for `holder`, which has a symbol: a Module, or what FeedForward has."""
        if holder not in self._nodes:
            key = self._gatherer.key
            nodes = [loss for loss in center_losses(holder.symbol)
                     if loss.attributes.get('key', '') == key]
            if len(nodes) != 1:
                raise ValueError(f'the module must have one center loss with key={key!r}, found '
                                 f'{", ".join(loss.name for loss in nodes) or "none"}: give each '
                                 'a key and a CenterTrainer of its own')
            node, = nodes
            self._nodes[holder] = node.centers, Arguments.of_node(node.attributes).alpha
            if getattr(store, 'type', '').startswith('dist'):
                self._gatherer.use(store)
        if not executors:
            raise ValueError('the module is not bound: call module.bind, or fit, before')
        centers, alpha = self._nodes[holder]
        self._gatherer.step([executor.aux_dict[centers] for executor in executors],
                            alpha if self.alpha is None else self.alpha)


def _key_of(loss: mx.sym.Symbol) -> str:
    """The key of a center loss node, which gets one here if it has none."""
    if len(loss.list_outputs()) != 1 or loss.attr('op_type') != OP_TYPE:
        raise ValueError(f'key must be what symbol.center_loss returned, got {loss!r}')
    key = loss.attr('key') or new_key(loss.name)
    loss._set_attr(key=key)
    return key
