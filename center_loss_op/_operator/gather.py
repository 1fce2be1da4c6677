"""One set of centers across devices and workers.

Each device keeps a copy of the centers. A node with a `key` leaves its copy alone and records the
samples of its backward passes (:mod:`.samples`). Once per step, a :class:`Gatherer` brings the
samples of all devices and workers together, in one order, and applies equation 4 over all of them
to each copy. So every copy moves as if one device had seen the whole global batch, and all copies
stay the same bit for bit.

Gathering is a sum: each device puts its samples into its own slot of a buffer of zeros, and
MXNet's key-value store adds the buffers up. That works on any store that sums over the
workers of a step, and its traffic grows with the batch, not with the number of classes.
"""
import itertools
import logging
import os
from typing import Any, Optional

import mxnet as mx
import numpy as np

from . import arrays
from .labels import Batch, largest_exact
from .samples import LOCK, RECORDED, Recorded
from .step import update

__all__ = ['Gatherer', 'check_name', 'open_store']

# How many elements of the centers are sent at a time, to make the copies equal.
_CHUNK = 1 << 20

# The attributes that a store must have.
_INTERFACE = ('broadcast', 'pushpull', 'rank', 'num_workers', 'type')
# MXNet's stores of one worker. For any other name without 'dist', MXNet makes one of these.
_ONE_WORKER = ('local', 'device', 'nccl', 'local_update_cpu', 'local_allreduce_cpu',
               'local_allreduce_device')
_SEVERAL_WORKERS = ("for several workers create the store, kv = mx.kv.create('dist_sync') or "
                    'center_loss_op.horovod.Horovod(), and give it to both trainers')
_NOT_A_SUM = ('the key-value store is %r, which applies the push of each worker on its own; the '
              "centers need the sum over all workers of a step, as 'dist_sync' gives it")
# How many workers a launcher has started: horovodrun, mpirun, MXNet's.
_LAUNCHED = ('HOROVOD_SIZE', 'OMPI_COMM_WORLD_SIZE', 'DMLC_NUM_WORKER')


logger = logging.getLogger('center_loss_op')

_numbers = globals().get('_numbers') or itertools.count()  # stays when this is executed again


def open_store(kvstore):
    """The key-value store for a type or a store, as MXNet's trainers take it.

    Raises
    ------
    TypeError
        `kvstore` is neither a name nor a store.
    ValueError
        The name is unknown to MXNet, or that of a distributed store, which must be created once and
        given to both trainers.
    """
    if not isinstance(kvstore, str):
        if not all(hasattr(kvstore, name) for name in _INTERFACE):
            raise TypeError('kvstore must be the name of a type of store or a store (with %s), '
                            'got %r' % (', '.join(_INTERFACE), kvstore))
        if isinstance(kvstore, mx.kvstore.KVStore):
            _check_known(kvstore.type)
        return kvstore
    if 'dist' in kvstore and 'async' not in kvstore:
        raise ValueError("kvstore=%r: a process can have one distributed store. Create it, "
                         "kv = mx.kv.create(%r), and give it to both trainers"
                         % (kvstore, kvstore))
    # Given this name, `gluon.Trainer` silently uses no store on a single device.
    if kvstore.lower() == 'horovod':
        raise ValueError('kvstore=%r: create the store, kv = center_loss_op.horovod.Horovod(), and '
                         'give it to both trainers' % kvstore)
    check_name(kvstore)
    return mx.kv.create(kvstore)


def check_name(kvstore):
    """ValueError if no store of the name `kvstore` can gather."""
    if 'async' in kvstore:
        raise ValueError(_NOT_A_SUM % kvstore)
    if kvstore.lower() not in mx.kvstore.KVStoreBase.kv_registry:
        _check_known(kvstore)


def _check_known(kind):
    """ValueError for a name that MXNet does not know, and makes a store of one worker for."""
    if 'dist' not in kind and kind.lower() not in _ONE_WORKER:
        raise ValueError("MXNet has no key-value store %r, and takes the name for 'local', a store "
                         "of one worker: use 'local' or 'device', or %s" % (kind, _SEVERAL_WORKERS))


def _warn_of_one_worker(store):
    """Log that the store has one worker although a launcher has started several."""
    launched = max(int(number) for number in ('1', *map(os.environ.get, _LAUNCHED))
                   if number and number.isdigit())
    if store.num_workers == 1 and launched > 1:
        logger.warning('%d workers were started, but the key-value store %r is of this one alone, '
                       'so each has centers of its own: %s', launched, store.type, _SEVERAL_WORKERS)


def _wait_for_broadcasts(store):
    """Make `store.broadcast` return only when it is done.

    A store that is shared with `gluon.Trainer` needs this. The trainer broadcasts parameters and
    then pushes gradients under the same names, and MXNet does not keep the two in order: a late
    worker would get a sum of gradients as its parameters.
    """
    if '_broadcast' in vars(store):
        return
    store._broadcast = store.broadcast

    def broadcast(*args, **kwargs):
        store._broadcast(*args, **kwargs)
        mx.nd.waitall()
    store.broadcast = broadcast


class Gatherer:
    """Gathers the samples of `key` from all contexts and workers, and moves the centers.

    Of several with one key, the newest one moves them. It starts without samples, and drops those
    that the one before it has not gathered.

    Parameters
    ----------
    key : str
        The key of the nodes; the same on all workers.
    store : KVStore
        A store that sums over the workers of a step: 'local', 'device', 'dist_sync',
        :class:`center_loss_op.horovod.Horovod` or another of the same interface (`broadcast`,
        `pushpull`, `rank`, `num_workers`, `type`).
    int_keys : bool
        Use numbers as names in the store. A store takes either numbers or strings;
        `gluon.Trainer` uses numbers, Module strings.

    Raises
    ------
    ValueError
        The store does not sum over the workers.
    """

    def __init__(self, key, store, int_keys=False):
        self.key = key
        self._int_keys = int_keys
        self._room = 0              # how many samples a slot can hold
        self._steps = 0
        # The most backward passes, one after another, of any step.
        self._most: Optional[int] = 1
        self._store: Any = None
        self.use(store)
        self._recorded = Recorded()
        with LOCK:
            RECORDED[key] = self._recorded

    def use(self, store):
        """Gather through `store` from now on."""
        if 'async' in store.type:
            raise ValueError(_NOT_A_SUM % store.type)
        if store.type.startswith('dist'):
            _wait_for_broadcasts(store)
        if store is not self._store:
            self._store = store
            self._names = {}    # maps 'centers' and 'samples/…' to their names in the store

    def step(self, centers, alpha):
        """Equation 4 over the samples of all contexts and workers since the last step.

        Every worker has to call it, even without samples. The first call makes the copies equal to
        that of rank 0's first context.

        Parameters
        ----------
        centers : list of NDArray
            The copies, (C, d), one per context; as many on every worker.
        alpha : float
            α of equation 4.

        Raises
        ------
        RuntimeError
            The store does not return the sum over the workers of this step; or no worker had a
            backward pass; or there is a newer Gatherer of this key.
        ValueError
            The store's numbers cannot hold the labels.
        """
        if RECORDED.get(self.key) is not self._recorded:
            raise RuntimeError('a newer CenterTrainer of key=%r moves the centers: call its step() '
                               'instead, or give each loss a key of its own' % self.key)
        num_class = centers[0].shape[0]
        largest = largest_exact(centers[0].dtype)
        if num_class - 1 > largest:
            raise ValueError(f'{num_class} classes of {centers[0].dtype.__name__} centers: labels '
                             f'above {largest} do not survive the key-value store')
        # After this, all backward passes have recorded their samples, and none reads the copies. It
        # also raises the error of a pass that failed on one context, so that the samples of the
        # others do not move the centers alone. A fence would not.
        try:
            mx.nd.waitall()
        except BaseException:
            self._recorded.take()
            raise
        self._steps += 1
        features, classes = self._gather(centers)
        if self._steps == 1:  # now that the store has shown that it sums
            _warn_of_one_worker(self._store)
            self._equalize(centers)
        batch = Batch(classes, num_class)
        for copy in centers:
            update(arrays.opened(copy), features, batch, alpha)

    def drop(self):
        """Forget all samples since the last step, those of queued passes too."""
        try:
            mx.nd.waitall()
        except mx.MXNetError:
            pass    # that of the step whose samples these are
        self._recorded.take()
        self._most = None           # however many the next step has are right

    def _gather(self, centers):
        """The features and the classes of the samples of all slots."""
        recorded, dropped = self._recorded.take()
        if dropped:
            logger.warning('%d backward passes of key=%r are of a step that failed on another '
                           'context, or before: their samples are dropped', dropped, self.key)
        self._warn_of_passes(recorded)
        samples = [sorted(recorded.pop(copy.context, []), key=lambda one: one[0])
                   for copy in centers]
        if recorded:
            raise RuntimeError('samples of key=%r on %s, where there is no copy of the centers'
                               % (self.key, ', '.join(map(str, recorded))))
        num_features = centers[0].shape[1]
        while True:
            buffers = [self._slot(slot, passes, len(centers), num_features, copy)
                       for slot, (passes, copy) in enumerate(zip(samples, centers))]
            self._sum('samples/%d' % self._room, buffers)
            headers = buffers[0][:, 0, :2].asnumpy()
            if not np.array_equal(headers[:, 1], self._marks(len(headers))):
                raise RuntimeError(
                    'the key-value store did not return the sum over all workers of step %d. '
                    'It runs the optimizer: use update_on_kvstore=False with Trainer, '
                    'MXNET_UPDATE_ON_KVSTORE=0 with Module; or it compresses gradients: use one '
                    'that does not; or a worker has left out a step. See docs/scaling.md'
                    % self._steps)
            most = int(headers[:, 0].max())
            if most < 0:
                raise RuntimeError(
                    'no backward pass of key=%r on any worker since the last step. Was backward() '
                    'called on a sum that this loss is part of, and do its features need a '
                    'gradient? Those of a frozen network do not: embedding.attach_grad(), or '
                    'CenterLoss.update(embedding, label). See docs/using.md' % self.key)
            if most <= self._room:
                break
            # All workers read the same headers, so all make the same room and try again.
            self._room = max(most, 2 * self._room)
        rows = buffers[0].asnumpy()
        taken = np.arange(rows.shape[1])
        rows = rows[(taken > 0) & (taken <= headers[:, :1])]
        return rows[:, :num_features], rows[:, num_features]

    def _warn_of_passes(self, recorded):
        """Log that this step has more backward passes, one after another, than any before it.

        Gradient accumulation has as many. But so has a good step after one that an exception ended
        between backward() and step(), which nothing else tells apart.
        """
        # Passes with the same number of forwards before them are of one backward(), as of views.
        most = max((len({until for _, until, *_ in passes}) for passes in recorded.values()),
                   default=0)
        if self._most is None:
            self._most = most
        elif most > self._most:
            logger.warning(
                'the centers of key=%r move by the samples of %d backward passes, one after '
                'another, where a step had %d before. That is right for gradient accumulation. If '
                'an exception or an interrupt has ended a step after backward(), its samples are '
                'among them: call drop() of the CenterTrainer where you catch it, and before you '
                'run a loop again', self.key, most, self._most)
            self._most = most

    def _slot(self, slot, samples, contexts, num_features, like):
        """A buffer of zeros, (slots, 1 + room, d + 1), with the samples of one context in its
        slot: a header (count, mark), then one row of features and label per sample.

        The count is -1 if there was no backward pass, and 0 for an empty batch.
        """
        slot += self._store.rank * contexts
        slots = self._store.num_workers * contexts
        shape = (slots, 1 + self._room, num_features + 1)
        buffer = mx.nd.zeros(shape, like.context, like.dtype)
        count = sum(len(classes) for *_, classes in samples) if samples else -1
        buffer[slot, 0, :2] = np.array([count, self._marks(slots)[slot]], like.dtype)
        if count <= self._room:
            first = 1
            for *_, features, classes in samples:
                if len(classes):
                    rows = slice(first, first + len(classes))
                    buffer[slot, rows, :num_features] = features
                    buffer[slot, rows, num_features] = classes.astype(like.dtype)
                    first += len(classes)
        return buffer

    def _marks(self, slots):
        """The marks of the headers, if every slot is of this step and was added once."""
        return (self._steps * slots + np.arange(slots)) % (1 << 20) + 1.0

    def _equalize(self, centers):
        """Set all copies to rank 0's first one, a part of bounded size at a time."""
        flat = [copy.reshape((-1,)) for copy in centers]
        size = min(flat[0].size, _CHUNK)
        for first in range(0, flat[0].size, size):
            last = min(first + size, flat[0].size)
            parts = [mx.nd.zeros(size, copy.context, dtype=copy.dtype) for copy in centers]
            if self._store.rank == 0:
                parts[0][:last - first] = flat[0][first:last]
            self._sum('centers', parts)
            for copy, part in zip(flat, parts):
                copy[first:last] = part[:last - first]
        mx.nd.waitall()

    def _sum(self, name, arrays):
        """Replace each array by the sum over all contexts and workers."""
        if name not in self._names:
            # The number is the same on all workers, which come here in the same order. It is above
            # those of parameters, and below 2**31 / 9973, because MXNet multiplies it by 9973.
            number = 100000 + next(_numbers)
            self._names[name] = (number if self._int_keys else
                                 f'center_loss/{self.key}/{name}/{number}')
            self._store.broadcast(self._names[name], mx.nd.zeros_like(arrays[0]),
                                  out=[mx.nd.zeros_like(array) for array in arrays])
        self._store.pushpull(self._names[name], arrays, out=arrays)
        # MXNet does not keep two sums under one name in order: a server takes the pushes that
        # arrive first for those of one step.
        for array in arrays:
            array.wait_to_read()
