"""A key-value store over Horovod, for several workers without servers.

It is a store like MXNet's 'dist_sync': both `CenterTrainer`s take it, and so do `gluon.Trainer`
and Module, on any number of contexts a worker. It needs Horovod, built for MXNet; nothing else of
this package imports it. Importing it also gives `mx.kv.create('horovod')` its meaning: without,
MXNet 1.9.1 makes a store of a single worker.
"""
import itertools

import mxnet as mx

try:
    import horovod.mxnet as hvd
except ImportError as error:
    raise ImportError(
        'Horovod cannot be imported (%s): build it for MXNet, with HOROVOD_WITH_MXNET=1 pip install '
        "--no-build-isolation horovod, as docs/scaling.md describes; without it, 'dist_sync' serves "
        'several workers' % error) from None

__all__ = ['Horovod']

# Of the stores of this process. All workers create theirs in the same order.
_numbers = itertools.count()


@mx.kvstore.KVStoreBase.register
class Horovod(mx.kvstore.KVStoreBase):
    """Sums over the workers that `horovodrun` (or `mpirun`) has started.

    Create it on every worker, in the same order with other stores; it calls `hvd.init()` where
    the program has not. The optimizer runs in the workers. Like those of 'dist_sync', the sums
    are not means: a `gluon.Trainer` with this store takes the global batch size in `step`.

    Raises
    ------
    ImportError
        When the module is imported: no Horovod, or one that was built without MXNet.

    Examples
    --------
    >>> from center_loss_op.gluon import CenterTrainer
    >>> kv = Horovod()
    >>> trainer = gluon.Trainer(net.collect_params(), 'sgd', kvstore=kv)
    >>> center_trainer = CenterTrainer(center_loss, kv)
    >>> for x, y in train:
    ...     with autograd.record():
    ...         embedding, scores = net(x)
    ...         loss = softmax_loss(scores, y) + center_loss(embedding, y)
    ...     loss.backward()
    ...     trainer.step(len(y) * kv.num_workers)
    ...     center_trainer.step()

    With the trainer that Horovod brings, `hvd.DistributedTrainer(net.collect_params(), 'sgd')`,
    which averages over the workers, it is `trainer.step(len(y))`.
    """

    def __init__(self):
        if not hvd.is_initialized():
            hvd.init()
        # Horovod refuses two sums of one name at a time: other stores, and Horovod's own trainer,
        # have other names.
        self._prefix = 'center_loss_op/%d/' % next(_numbers)

    @property
    def type(self):
        """'dist_sync_horovod': by the first two words MXNet knows that workers step together."""
        return 'dist_sync_horovod'

    @property
    def rank(self):
        """Which worker this is, from 0."""
        return hvd.rank()

    @property
    def num_workers(self):
        """How many workers there are."""
        return hvd.size()

    @staticmethod
    def is_capable(capability):  # pylint: disable=unused-argument
        """False: there are no servers that could run an optimizer."""
        return False

    def init(self, key, value):
        """Nothing: Module calls it with values that it keeps. Seed all workers alike."""

    def broadcast(self, key, value, out, priority=0):
        """Rank 0's `value` goes to `out` on all workers."""
        first, *others = _list(out)
        if self.rank == 0:
            first[:] = value
        hvd.broadcast_(first, root_rank=0, name=self._prefix + str(key), priority=priority)
        for other in others:
            other[:] = first

    def pushpull(self, key, value, out=None, priority=0):
        """The sum of `value` over all contexts and workers goes to `out`, or back to `value`."""
        values = _list(value)
        first, *others = values if out is None else _list(out)
        if len(values) > 1:
            first[:] = mx.nd.add_n(*(one.as_in_context(first.context) for one in values))
        elif first is not values[0]:
            first[:] = values[0]
        hvd.allreduce_(first, op=hvd.Sum, name=self._prefix + str(key), priority=priority)
        for other in others:
            other[:] = first


def _list(arrays):
    return arrays if isinstance(arrays, (list, tuple)) else [arrays]
