"""scaling: what one set of centers costs a step; bytes through the store, milliseconds

    python -m benchmarks.scaling

It starts the workers itself, on this machine: the time of the network between machines is
not in it, and all workers share the processors. Several workers gather through MXNet's servers, and
through Horovod where it is installed (`make horovod` does that in .venv-horovod).
"""
import argparse
import importlib.util
import os
import re
import subprocess
import sys
import time

import center_loss_op

import mxnet as mx
import numpy as np

from .alternatives import batch
from .timing import table

LAUNCHER = os.path.join(os.path.dirname(__file__), '..', 'examples', 'launch_local.py')
# (workers, contexts per worker, global batch, features, classes)
CASES = [(1, 1, 256, 512, 10000), (1, 2, 256, 512, 10000), (1, 4, 256, 512, 10000),
         (2, 1, 256, 512, 10000), (2, 2, 256, 512, 10000), (4, 1, 256, 512, 10000),
         (2, 1, 512, 512, 10000), (2, 1, 256, 128, 10000), (2, 1, 256, 512, 100000)]
WARM_UP, STEPS = 5, 30


class Meter:
    """A store that counts the bytes of the arrays that a worker gives it and gets back."""

    def __init__(self, store):
        self._store = store
        self.sent = 0

    def pushpull(self, key, value, out):
        # A worker adds up its own contexts before it sends, and gets the sum once.
        self.sent += value[0].size * value[0].dtype().itemsize
        self._store.pushpull(key, value, out=out)

    def __getattr__(self, name):
        return getattr(self._store, name)


def measure(contexts, samples, features, classes):
    """Print what a step of this worker gives the store, in bytes, and how long it takes."""
    if 'HOROVOD_SIZE' in os.environ:
        from center_loss_op.horovod import Horovod
        store = Horovod()
    else:
        store = mx.kv.create('dist_sync' if 'DMLC_ROLE' in os.environ else 'device')
    contexts = [mx.cpu(i) for i in range(contexts)]
    loss = center_loss_op.gluon.CenterLoss(classes, in_units=features)
    loss.initialize(ctx=contexts)
    meter = Meter(store)
    trainer = center_loss_op.gluon.CenterTrainer(loss, meter)
    data, label = (mx.gluon.utils.split_and_load(values, contexts) for values in batch(
        samples // store.num_workers, features, classes))
    for part in data:
        part.attach_grad()
    times = []
    for step in range(WARM_UP + STEPS):
        with mx.autograd.record():
            losses = [loss(x, y) for x, y in zip(data, label)]
        mx.autograd.backward(losses)
        mx.nd.waitall()
        if step == WARM_UP:
            meter.sent = 0
        start = time.perf_counter()
        trainer.step()
        mx.nd.waitall()
        times.append(time.perf_counter() - start)
    print('figures', meter.sent / STEPS, np.median(times[WARM_UP:]), flush=True)


def launch(case, store):
    """What :func:`measure` prints in the workers of a case: bytes, and the longest time."""
    command = [sys.executable, '-m', 'benchmarks.scaling', '--case', ','.join(map(str, case))]
    workers = str(case[0])
    if store == 'dist_sync':
        command = [sys.executable, LAUNCHER, '-n', workers, *command]
    elif store == 'horovod':
        command = [os.path.join(os.path.dirname(sys.executable), 'horovodrun'), '--gloo', '-np',
                   workers, '-H', 'localhost:' + workers, *command]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True,
                            universal_newlines=True).stdout
    # Two workers' lines can come as one.
    figures = re.findall(r'figures ([\d.e+-]+) ([\d.e+-]+)', output)
    return float(figures[0][0]), max(float(seconds) for _, seconds in figures)


def main():
    parser = argparse.ArgumentParser(prog='python -m benchmarks.scaling', description=__doc__)
    parser.add_argument('--case', help=argparse.SUPPRESS)
    parser.add_argument('--workers', type=int, metavar='N', help='only the cases of so many')
    parser.add_argument('--rounds', type=int, default=1, metavar='N',
                        help='how often to measure each, in turns; the median counts')
    args = parser.parse_args()
    if args.case:
        measure(*map(int, args.case.split(',')[1:]))
        return
    rows = []
    for case in CASES:
        workers = case[0]
        if args.workers not in (None, workers):
            continue
        # What a worker sends of what it gives the store. One worker's stays in the process. In a
        # ring, every worker sends W - 1 parts of W to the next one, and then the sums of as many.
        shares = {'device': 0} if workers == 1 else {'dist_sync': 1}
        if workers > 1 and importlib.util.find_spec('horovod'):
            shares['horovod'] = 2 * (workers - 1) / workers
        measured = [[launch(case, store) for store in shares] for _ in range(args.rounds)]
        for store, (given, seconds) in zip(shares, np.median(measured, axis=0)):
            rows.append([*map(str, case), store, f'{given * shares[store] / 1024:.0f}',
                         f'{1e3 * seconds:.2f}'])
    table(['workers', 'contexts', 'N', 'd', 'C', 'store', 'sent = received KiB', 'ms per step'],
          rows)


if __name__ == '__main__':
    main()
