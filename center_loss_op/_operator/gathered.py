"""One set of centers across devices and workers.

A node with a `key` records the samples of its backward passes in :class:`Recorded`. Once per step,
a :class:`Gatherer` brings the samples of all devices and workers together, in one order: each
device puts its samples into its own slot of a buffer of zeros, and MXNet's key-value store adds the
buffers up. Then it applies equation 4 over all of them to each copy of the centers.
"""
import collections
import itertools
import logging
import os
import threading
from typing import Any, Dict, Optional

import mxnet as mx
import numpy as np

from . import arrays
from .labels import Batch, largest_exact
from .step import RECORDED, update

# How many elements of the centers are sent at a time, to make the copies equal.
_CHUNK = 1 << 20
# Backward passes between two steps of a CenterTrainer. So many are rare even with gradient
# accumulation: warn. So many never happen in training: samples pile up in memory, so raise.
_MANY, _TOO_MANY = 32, 1000

# The attributes that a store must have.
_INTERFACE = ('broadcast', 'pushpull', 'rank', 'num_workers', 'type')
# MXNet's stores of one worker. For any other name without 'dist', MXNet makes one of these.
_ONE_WORKER = ('local', 'device', 'nccl', 'local_update_cpu', 'local_allreduce_cpu',
               'local_allreduce_device')
_SEVERAL_WORKERS = ("for several workers create the store, kv = mx.kv.create('dist_sync') or "
                    'center_loss_op.horovod.Horovod(), and give it to both trainers')
# How many workers a launcher has started: horovodrun, mpirun, MXNet's.
_LAUNCHED = ('HOROVOD_SIZE', 'OMPI_COMM_WORLD_SIZE', 'DMLC_NUM_WORKER')

logger = logging.getLogger('center_loss_op')

# These stay when this module is executed again. All workers count alike, in the same order.
_losses = globals().get('_losses') or itertools.count()     # that were given a CenterTrainer
_numbers = globals().get('_numbers') or itertools.count()   # of names in stores


def new_key(name):
    """A key for a loss, whose name another loss may have, too."""
    return f'{name}/{next(_losses)}'


def check_name(kvstore):
    """ValueError if no key-value store of this name, or of this type, can gather."""
    if 'async' in kvstore:
        raise ValueError(f'the key-value store is {kvstore!r}, which applies the push of each '
                         'worker on its own; the centers need the sum over all workers of a step, '
                         "as 'dist_sync' gives it")
    known = (*_ONE_WORKER, *mx.kvstore.KVStoreBase.kv_registry)
    if 'dist' not in kvstore and kvstore.lower() not in known:
        raise ValueError(f'MXNet has no key-value store {kvstore!r}, and takes the name for '
                         "'local', a store of one worker: use 'local' or 'device', or "
                         + _SEVERAL_WORKERS)


def _opened(kvstore):
    """The key-value store for a name or a store."""
    if isinstance(kvstore, str):
        check_name(kvstore)
        # A process can have one distributed store. And given Horovod's name, `gluon.Trainer`
        # silently uses no store on a single device.
        if 'dist' in kvstore or kvstore.lower() == 'horovod':
            raise ValueError(f'kvstore={kvstore!r} is not a store but its name: '
                             + _SEVERAL_WORKERS)
        return mx.kv.create(kvstore)
    if not all(hasattr(kvstore, name) for name in _INTERFACE):
        raise TypeError('kvstore must be the name of a type of store or a store (with '
                        f'{", ".join(_INTERFACE)}), got {kvstore!r}')
    if isinstance(kvstore, mx.kvstore.KVStore) or 'async' in kvstore.type:
        check_name(kvstore.type)
    return kvstore


def _warn_of_one_worker(store):
    """Log that the store has one worker although a launcher has started several."""
    launched = max(int(number) for number in ('1', *map(os.environ.get, _LAUNCHED))
                   if number and number.isdigit())
    if store.num_workers == 1 and launched > 1:
        logger.warning('%d workers were started, but the key-value store %r is of this one alone, '
                       'so each has centers of its own: %s', launched, store.type, _SEVERAL_WORKERS)


class Recorded:
    """The training passes of one key since the last step.

    A forward pass that fails on one context, for a bad label, says nothing to the others, whose
    samples are recorded before it or after it. But each context computes the forward passes of
    all steps in order. So if n have succeeded on the context since one failed there, the last n of
    each context are those of the step at hand, and what came before them is of a step that failed.
    """

    def __init__(self, key):
        self._key = key
        self._lock = threading.Lock()
        # By context: how many forward passes there were, and which of this step failed last.
        self._forwards: Dict[Any, int] = collections.Counter()
        self._failed = {}
        # By context, of backward passes: (forward's number, forwards so far, features, classes).
        self._passes = {}

    def count_forward(self, context, failed=False):
        """Count a forward pass. Returns its number on this context."""
        with self._lock:
            self._forwards[context] += 1
            if failed:
                self._failed[context] = self._forwards[context]
            return self._forwards[context]

    def record(self, context, forward_number, features, classes):
        with self._lock:
            passes = self._passes.setdefault(context, [])
            if len(passes) >= _TOO_MANY:
                raise RuntimeError(
                    f'{len(passes)} backward passes of key={self._key!r} on {context} since the '
                    'last step of its CenterTrainer: call its step() once after each step of the '
                    'optimizer')
            passes.append((forward_number, self._forwards[context], features, classes))
            if len(passes) == _MANY:
                logger.warning(
                    '%d backward passes of key=%r on %s, and no step of its CenterTrainer: the '
                    'centers stand still until its step() is called, once after each step of the '
                    'optimizer', _MANY, self._key, context)

    def take(self):
        """Forget the passes: those of steps that did not fail, by context; how many failed."""
        with self._lock:
            passes, failed, forwards = self._passes, self._failed, self._forwards.copy()
            self._passes, self._failed = {}, {}
        if not failed:
            return passes, 0
        good = min(forwards[context] - number for context, number in failed.items())
        kept = {context: [one for one in passes[context] if one[0] > forwards[context] - good]
                for context in passes}
        return kept, sum(map(len, passes.values())) - sum(map(len, kept.values()))


class Gatherer:
    """Gathers the samples of `key` from all contexts and workers, and moves the centers.

    A store takes either numbers as names, as from `gluon.Trainer` (`int_keys`), or strings, as from
    Module.
    """

    def __init__(self, key, kvstore, int_keys=False):
        self.key = key
        self._int_keys = int_keys
        self._room = 0              # how many samples a slot can hold
        self._steps = 0
        # The most backward passes, one after another; None: any number.
        self._most: Optional[int] = 1
        self.use(kvstore)
        self._recorded = RECORDED[key] = Recorded(key)

    def use(self, kvstore):
        """Gather through `kvstore` from now on."""
        self._store = store = _opened(kvstore)
        self._names = {}            # what _sum names what it sums in the store
        if store.type.startswith('dist') and 'broadcast' not in vars(store):
            # `gluon.Trainer` broadcasts parameters and then pushes gradients under the same names,
            # and MXNet does not keep the two in order: a late worker would get a sum of gradients
            # as its parameters. So a broadcast returns when it is done.
            queue = store.broadcast

            def broadcast(*args, **kwargs):
                queue(*args, **kwargs)
                mx.nd.waitall()
            store.broadcast = broadcast

    def step(self, centers, alpha):
        """Equation 4 over the samples of all contexts and workers since the last step.

        Every worker calls it, even without samples, with its copies of the centers, (C, d), one per
        context, as many on every worker.
        """
        if RECORDED.get(self.key) is not self._recorded:
            raise RuntimeError(f'a newer CenterTrainer of key={self.key!r} moves the centers: call '
                               'its step() instead, or give each loss a key of its own')
        num_class, dtype = len(centers[0]), centers[0].dtype
        if num_class - 1 > largest_exact(dtype):
            raise ValueError(f'{num_class} classes of {dtype.__name__} centers: labels above '
                             f'{largest_exact(dtype)} do not survive the key-value store')
        # All backward passes have recorded their samples then, and none reads the copies. A fence
        # would not raise the error of a pass that failed on one context.
        try:
            mx.nd.waitall()
        except BaseException:
            self._recorded.take()
            raise
        self._steps += 1
        self._mark = self._steps % (1 << 20) + 1    # says that a slot is of this step, added once
        features, classes = self._gather(centers)
        if self._steps == 1:  # now that the store has shown that it sums
            _warn_of_one_worker(self._store)
            self._equalize(centers)
        batch = Batch(classes, num_class)
        for copy in centers:
            update(arrays.opened(copy), features, batch, alpha)

    def drop(self):
        try:
            mx.nd.waitall()
        except mx.MXNetError:
            pass    # that of the step whose samples these are
        self._recorded.take()
        self._most = None

    def _gather(self, centers):
        """The features and the classes of the samples of all slots."""
        recorded, dropped = self._recorded.take()
        if dropped:
            logger.warning('%d backward passes of key=%r are of a step that failed on another '
                           'context, or before: their samples are dropped', dropped, self.key)
        self._warn_of_passes(recorded)
        # The first copy of a context that is given twice has them all.
        passes = [recorded.pop(copy.context, ()) for copy in centers]
        if recorded:
            raise RuntimeError(f'samples of key={self.key!r} on {", ".join(map(str, recorded))}, '
                               'where there is no copy of the centers')
        while True:
            buffers = [self._slot(number, len(centers), *slot)
                       for number, slot in enumerate(zip(passes, centers))]
            self._sum(f'samples/{self._room}', buffers)
            rows = buffers[0].asnumpy()
            counts = rows[:, :1, 0]
            if (rows[:, 0, 1] != self._mark).any():
                raise RuntimeError(
                    'the key-value store did not return the sum over all workers of step '
                    f'{self._steps}. It runs the optimizer: use update_on_kvstore=False with '
                    'Trainer, MXNET_UPDATE_ON_KVSTORE=0 with Module; or it compresses gradients: '
                    'use one that does not; or a worker has left out a step. See docs/scaling.md')
            most = int(counts.max())
            if most < 0:
                raise RuntimeError(
                    f'no backward pass of key={self.key!r} on any worker since the last step. Was '
                    'backward() called on a sum that this loss is part of, and do its features '
                    'need a gradient? Those of a frozen network do not: embedding.attach_grad(), '
                    'or CenterLoss.update(embedding, label). See docs/using.md')
            if most <= self._room:
                break
            # All workers read the same headers, so all make the same room and try again.
            self._room = max(most, 2 * self._room)
        taken = np.arange(rows.shape[1])
        rows = rows[(taken > 0) & (taken <= counts)]
        return rows[:, :-1], rows[:, -1]

    def _warn_of_passes(self, recorded):
        """Log that this step has more backward passes, one after another, than any before it."""
        # Passes with the same number of forwards before them are of one backward(), as of views.
        most = max((len({until for _, until, *_ in passes}) for passes in recorded.values()),
                   default=0)
        if self._most is not None and most > self._most:
            logger.warning(
                'the centers of key=%r move by the samples of %d backward passes, one after '
                'another, where a step had %d before. That is right for gradient accumulation. If '
                'an exception or an interrupt has ended a step after backward(), its samples are '
                'among them: call drop() of the CenterTrainer where you catch it, and before you '
                'run a loop again', self.key, most, self._most)
        self._most = max(most, self._most or 0)

    def _slot(self, number, contexts, passes, like):
        """A buffer of zeros, (slots, 1 + room, d + 1), with the samples of one context in its slot:
        a header (count, mark), then one row of features and label per sample. The count is -1 if
        there was no backward pass.
        """
        rows = np.zeros((1 + self._room, like.shape[1] + 1), like.dtype)
        count = sum(len(classes) for *_, classes in passes) if passes else -1
        rows[0, :2] = count, self._mark
        if 0 < count <= self._room:
            passes = sorted(passes, key=lambda one: one[0])
            rows[1:count + 1, :-1] = np.concatenate([features for *_, features, _ in passes])
            rows[1:count + 1, -1] = np.concatenate([classes for *_, classes in passes])
        buffer = mx.nd.zeros((self._store.num_workers * contexts, *rows.shape), like.context,
                             like.dtype)
        buffer[self._store.rank * contexts + number] = rows
        return buffer

    def _equalize(self, centers):
        """Set all copies to rank 0's first one, a part of bounded size at a time."""
        flat = [copy.reshape((-1,)) for copy in centers]
        for copy in flat[1:] if self._store.rank == 0 else flat:
            copy[:] = 0
        for first in range(0, flat[0].size, _CHUNK):
            parts = [copy[first:first + _CHUNK] for copy in flat]
            self._sum(f'centers/{parts[0].size}', parts)
        mx.nd.waitall()

    def _sum(self, name, arrays):
        """Replace each array by the sum over all contexts and workers."""
        if name not in self._names:
            # Above the numbers of parameters, and below 2**31 / 9973: MXNet multiplies it by 9973.
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
