"""Center loss for the Module API: one set of centers on several devices and workers."""
import os
import re
from typing import Union

import mxnet as mx

from .operator import OP_TYPE
from .parallel import Gatherer, open_store
from .params import Params

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
        The `key` given to :func:`center_loss_op.symbol.center_loss`. Create the trainer
        before the first step.
    kvstore : str or KVStore, default 'device'
        Key-value store for the contexts of one worker. A Module that was fitted with a
        distributed store brings that one along.

    Notes
    -----
    Servers that run the optimizer cannot sum, so this sets ``MXNET_UPDATE_ON_KVSTORE=0`` in
    the environment unless it is set already: Module then runs the optimizer in the workers.
    It has no parameter for that. Module also does not send rank 0's parameters to the other
    workers then: seed all of them alike.

    Examples
    --------
    >>> loss = center_loss(embedding, label, num_class=10, key='faces')
    >>> mod = mx.mod.Module(mx.sym.Group([softmax, loss]), context=[mx.gpu(0), mx.gpu(1)])
    >>> mod.fit(train, batch_end_callback=CenterTrainer('faces'), num_epoch=10)
    """

    def __init__(self, key: str,
                 kvstore: Union[str, mx.kvstore.KVStoreBase] = 'device') -> None:
        os.environ.setdefault('MXNET_UPDATE_ON_KVSTORE', '0')
        self._gatherer = Gatherer(key, open_store(kvstore))
        self._module = None
        self._centers = None
        self._alpha = None

    def __call__(self, param: mx.model.BatchEndParam) -> None:
        """As a `batch_end_callback` of `Module.fit`."""
        self.step(param.locals['self'])

    def step(self, module: mx.mod.Module) -> None:
        """Move the centers by the samples of all backward passes since the last step.

        Parameters
        ----------
        module : mxnet.module.Module
            With parameters and optimizer.

        Raises
        ------
        ValueError
            The module has no center loss of this key.
        RuntimeError
            The store did not sum: see :class:`center_loss_op.parallel.Gatherer`.
        """
        if module is not self._module:
            self._attach(module)
        # Module has no other way to its copies than through its executors, which a new batch
        # size replaces.
        copies = [executor.aux_dict[self._centers] for executor in module._exec_group.execs]
        self._gatherer.step(copies, self._alpha)

    def _attach(self, module):
        key = self._gatherer.key
        nodes = module.symbol.attr_dict()
        for state in module.symbol.list_auxiliary_states():
            attributes = nodes.get(re.sub('_center_bias$', '', state), {})
            if attributes.get('op_type') == OP_TYPE and attributes.get('key') == key:
                break
        else:
            raise ValueError('the module has no center loss of key=%r' % key)
        if getattr(module._kvstore, 'type', '').startswith('dist'):
            self._gatherer.use(module._kvstore)
        self._module = module
        self._centers = state
        self._alpha = Params(num_class=1, alpha=attributes.get('alpha', 0.5)).alpha
