"""A key-value store over Horovod, for several workers without servers.

It needs Horovod, built for MXNet: docs/scaling.md has the commands, and a training. Importing this
module also makes `mx.kv.create('horovod')` create this store; otherwise, MXNet 1.9.1 creates a
store of a single worker.
"""
import itertools
from typing import Any, List, Optional, Sequence, Union

import mxnet as mx

try:
    import horovod.mxnet as hvd
except ImportError as error:
    hvd, _why_not = None, error

__all__ = ['Horovod']

Arrays = Union[mx.nd.NDArray, Sequence[mx.nd.NDArray]]

# Numbers the stores of this process. All workers create their stores in the same order.
_numbers = itertools.count()


@mx.kvstore.KVStoreBase.register
class Horovod(mx.kvstore.KVStoreBase):
    """Sums over the workers that `horovodrun` (or `mpirun`) started.

    Use it like MXNet's 'dist_sync', with `gluon.Trainer`, Module and both `CenterTrainer`s, on any
    number of contexts per worker. The results are sums, not means: pass the global batch size to
    `step` of a `gluon.Trainer`. The optimizer runs in the workers. Create the store on every
    worker, in the same order relative to other stores. It calls `hvd.init()` if the program did
    not, and raises ImportError if Horovod is missing, or was built without MXNet.
    """
    # 'dist_sync' tells MXNet that the workers step together.
    type = 'dist_sync_horovod'

    def __init__(self) -> None:
        if hvd is None:
            raise ImportError(
                f'Horovod cannot be imported ({_why_not}): build it for MXNet, with '
                'HOROVOD_WITH_MXNET=1 pip install --no-build-isolation horovod, as docs/scaling.md '
                "describes. Without Horovod, 'dist_sync' supports several workers")
        if not hvd.is_initialized():
            hvd.init()
        # Horovod refuses two sums with one name at a time, so each store has its own names.
        self._prefix = f'center_loss_op/{next(_numbers)}/'

    @property
    def rank(self) -> int:
        """The number of this worker, from 0."""
        return hvd.rank()

    @property
    def num_workers(self) -> int:
        """The number of workers."""
        return hvd.size()

    @staticmethod
    def is_capable(capability: str) -> bool:
        """False: there are no servers that could run an optimizer."""
        return False

    def init(self, key: Union[int, str], value: Arrays) -> None:
        """Do nothing; Module calls it with its initial values. Seed all workers alike."""

    def broadcast(self, key: Union[int, str], value: Arrays, out: Arrays, priority: int = 0
                  ) -> None:
        """Copy rank 0's `value` to `out` on all workers."""
        first, *others = _list(out)
        if self.rank == 0:
            first[:] = value
        hvd.broadcast_(first, root_rank=0, name=f'{self._prefix}{key}', priority=priority)
        for other in others:
            other[:] = first

    def pushpull(self, key: Union[int, str], value: Arrays, out: Optional[Arrays] = None,
                 priority: int = 0) -> None:
        """Write the sum of `value` over all contexts and workers to `out`, or back to `value`."""
        values = _list(value)
        first, *others = values if out is None else _list(out)
        if len(values) > 1:
            first[:] = mx.nd.add_n(*(one.as_in_context(first.context) for one in values))
        elif first is not values[0]:
            first[:] = values[0]
        hvd.allreduce_(first, op=hvd.Sum, name=f'{self._prefix}{key}', priority=priority)
        for other in others:
            other[:] = first


def _list(arrays: Arrays) -> List[Any]:
    return list(arrays) if isinstance(arrays, (list, tuple)) else [arrays]
