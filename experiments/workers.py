"""The processes that train together."""
import os

import center_loss_op  # noqa: F401 - before mxnet, for newer NumPys

import mxnet as mx
import numpy as np
from options import OptionError


class Workers:
    """The processes that train together, usually this one alone.

    Worker 0 shows progress, writes files and handles signals. Creating this object connects to
    the other workers.

    Parameters
    ----------
    options : argparse.Namespace
        From `options.parse`.

    Attributes
    ----------
    store : KVStore or str
        What the trainers take as `kvstore`.
    rank, number : int
        The number of this worker, counted from 0, and how many there are.
    """

    def __init__(self, options):
        kv_store = options.kv_store
        self.store, self.rank, self.number = kv_store, 0, 1
        if kv_store == 'horovod':
            self.store = _horovod(options)
        elif 'dist' in kv_store:
            if 'async' in kv_store:
                raise OptionError('--kv-store %s: its workers do not step together, so they cannot '
                                  'have one set of centers; use dist_sync' % kv_store)
            if 'DMLC_ROLE' not in os.environ:
                raise OptionError('--kv-store %s needs a scheduler and servers: start it with '
                                  'examples/launch_local.py -n 2 python ...' % kv_store)
            self.store = mx.kv.create(kv_store)
        elif kv_store not in ('local', 'device'):
            raise OptionError('--kv-store must be local, device, dist_sync or horovod, got %s'
                              % kv_store)
        if self.store is not kv_store:
            self.rank, self.number = self.store.rank, self.store.num_workers
        if options.same_bits and self.number > 2 and kv_store != 'horovod':
            raise OptionError('--same-bits needs --kv-store horovod for more than two workers: the '
                              "servers of %s add up gradients in the order in which they arrive"
                              % kv_store)

    def part(self, batch):
        """This worker's rows of each array of a global batch."""
        return [np.array_split(array, self.number)[self.rank] for array in batch]


def _horovod(options):
    if options.same_bits:
        # Otherwise Horovod adds up several gradients at once, as they come. With three workers the
        # order of the sums then differs from run to run.
        os.environ['HOROVOD_FUSION_THRESHOLD'] = '0'
    try:
        from center_loss_op.horovod import Horovod  # optional
    except ImportError as error:
        raise OptionError('--kv-store horovod: %s' % error) from None
    store = Horovod()
    if store.num_workers == 1 and 'HOROVOD_SIZE' not in os.environ:
        raise OptionError('--kv-store horovod needs workers: start it with '
                          'horovodrun -np 2 python ...')
    return store
