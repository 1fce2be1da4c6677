"""Center loss for the Module API: one set of centers on several devices and workers."""
import itertools
import os
import weakref
from typing import Any, MutableMapping, Optional, Sequence, Tuple, Union

import mxnet as mx

from ._mxnet.graph import OP_TYPE, center_losses
from ._operator.arguments import Arguments, non_negative_number
from ._operator.gather import Gatherer, check_name, open_store

__all__ = ['CenterTrainer']

# Numbers the nodes that were given a trainer. All workers create theirs in the same order.
_numbers = itertools.count()


class CenterTrainer:
    """Keeps one set of centers for a Module on several devices or workers.

    Without it, each context and each worker moves its own copy by its own samples. MXNet averages
    the copies of the contexts when parameters are read, and never those of the workers. With it,
    all copies move by equation 4 over the union of the samples of a step, and stay equal bit for
    bit.

    Parameters
    ----------
    key : Symbol or str
        The node that :func:`center_loss_op.symbol.center_loss` returned, or the argument `key` of
        nodes of ``mx.sym.Custom``, for a BucketingModule. Create the trainer before the module is
        bound. If a node has several trainers, the newest moves the centers, and :meth:`step` of an
        older one raises RuntimeError.
    kvstore : str or KVStore, default 'device'
        Key-value store for the contexts of one worker. If the Module has a distributed store (or
        Horovod's), the trainer uses that one.
    alpha : float or None, default None
        α, the rate at which the centers move; None: that of the node.

    Attributes
    ----------
    alpha : float or None
        You can set it at any time. On one context, a schedule of α is the reason to use a
        `CenterTrainer`.

    Raises
    ------
    TypeError
        `kvstore` is neither a name nor a store, or `alpha` is not a number.
    ValueError
        `key` is another Symbol than a center loss. Or
        The store is asynchronous, the name is that of a distributed store or unknown to MXNet, or
        `alpha` is impossible.

    Notes
    -----
    Servers that run the optimizer cannot sum. So this sets ``MXNET_UPDATE_ON_KVSTORE=0`` in the
    environment unless it is set already, because Module has no parameter for it: Module then runs
    the optimizer in the workers. It also no longer sends rank 0's parameters to the other workers:
    seed all of them alike.

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
        self._gatherer = Gatherer(_key_of(key) if isinstance(key, mx.sym.Symbol) else key,
                                  open_store(kvstore))
        os.environ.setdefault('MXNET_UPDATE_ON_KVSTORE', '0')
        # By Module, or by what FeedForward has instead: what `_attach` returns.
        self._nodes: MutableMapping[Any, Any] = weakref.WeakKeyDictionary()

    @property
    def alpha(self) -> Optional[float]:
        """α of equation 4; None: that of the node."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: Optional[float]) -> None:
        self._alpha = None if value is None else non_negative_number('alpha', value)

    def __call__(self, param: mx.model.BatchEndParam) -> None:
        """As a `batch_end_callback` of `Module.fit` or `FeedForward.fit`.

        Raises
        ------
        TypeError
            Another function called it.
        """
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

        Parameters
        ----------
        module : mxnet.module.Module or mxnet.module.BucketingModule
            With parameters and optimizer.

        Raises
        ------
        TypeError
            `module` is of another class.
        ValueError
            The module has no center loss with this key, or several.
        RuntimeError
            There is a newer trainer with this key, or the store did not sum: see
            :class:`center_loss_op._operator.gather.Gatherer`.
        """
        # The buckets share their centers.
        current = module._curr_module if isinstance(module, mx.mod.BucketingModule) else module
        if not isinstance(current, mx.mod.Module):
            raise TypeError('module must be a mx.mod.Module or a bound mx.mod.BucketingModule, '
                            'got %r' % (module,))
        # Only the executors of a Module know its copies, and a new batch size replaces them.
        group = current._exec_group
        self._step(current, group.execs if group else [], current._kvstore)
        # If parameters were read since the last update, Module takes what it read for the newest.
        current._params_dirty = module._params_dirty = True

    def _step(self, holder: Any, executors: Sequence[Any], store: Any) -> None:
        """A step for `holder`, which has a symbol: a Module, or what FeedForward has."""
        if holder not in self._nodes:
            self._nodes[holder] = self._attach(holder.symbol, store)
        if not executors:
            raise ValueError('the module is not bound: call module.bind, or fit, before')
        centers, alpha = self._nodes[holder]
        copies = [executor.aux_dict[centers] for executor in executors]
        self._gatherer.step(copies, alpha if self.alpha is None else self.alpha)

    def drop(self) -> None:
        """Forget the samples since the last step: those of a step that an exception has ended.

        After a bad label it is not needed. After another exception between `backward()` and
        :meth:`step`, call it where you catch the exception, only on the worker that has failed.
        """
        self._gatherer.drop()

    def _attach(self, symbol: mx.sym.Symbol, store: Any) -> Tuple[str, float]:
        """The name of the centers and α, from the node with this key."""
        key = self._gatherer.key
        mine = [loss for loss in center_losses(symbol)
                if loss.attributes.get('key', '') == key]
        if not mine:
            raise ValueError('the module has no center loss with key=%r' % key)
        if len(mine) > 1:
            raise ValueError(f'{len(mine)} center losses have key={key!r}: '
                             f'{", ".join(loss.name for loss in mine)}. Give each a key and a '
                             'CenterTrainer of its own')
        if getattr(store, 'type', '').startswith('dist'):
            self._gatherer.use(store)
        return mine[0].centers, Arguments.of_node(mine[0].attributes).alpha


def _key_of(loss: mx.sym.Symbol) -> str:
    """The key of a center loss node, which gets one here if it has none."""
    if len(loss.list_outputs()) != 1 or loss.attr('op_type') != OP_TYPE:
        raise ValueError(f'key must be what symbol.center_loss returned, got {loss!r}')
    key = loss.attr('key') or f'{loss.name}/{next(_numbers)}'
    loss._set_attr(key=key)
    return key
