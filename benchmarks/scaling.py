"""scaling: what one set of centers costs a step; bytes through the store, milliseconds

    python -m benchmarks.scaling

It starts the workers itself, on this machine: the time of the network between machines is
not in it, and all workers share the processors.
"""
import argparse
import os
import subprocess
import sys
import time

import center_loss_op
import mxnet as mx
import numpy as np

from .timing import table

LAUNCHER = os.path.join(os.path.dirname(__file__), '..', 'examples', 'launch_local.py')
# (workers, contexts a worker, global batch, features, classes)
CASES = [(1, 1, 256, 512, 10000), (1, 2, 256, 512, 10000), (1, 4, 256, 512, 10000),
         (2, 1, 256, 512, 10000), (2, 2, 256, 512, 10000), (4, 1, 256, 512, 10000),
         (2, 1, 512, 512, 10000), (2, 1, 256, 128, 10000), (2, 1, 256, 512, 1000),
         (2, 1, 256, 512, 100000)]
HEAD = ['workers', 'contexts', 'N', 'd', 'C', 'sent KiB', 'received KiB', 'ms a step']
WARM_UP, STEPS = 5, 30


class Meter:
    """A store that counts the bytes of the arrays that a worker sends to it and gets back."""

    def __init__(self, store):
        self._store = store
        self.sent = 0

    def pushpull(self, key, value, out):
        # A worker adds up its own contexts before it sends, and gets the sum once.
        self.sent += value[0].size * value[0].dtype().itemsize
        self._store.pushpull(key, value, out=out)

    def __getattr__(self, name):
        return getattr(self._store, name)


def measure(contexts, batch, features, classes):
    """(bytes sent a step, seconds a step) of this worker."""
    store = mx.kv.create('dist_sync' if 'DMLC_ROLE' in os.environ else 'device')
    contexts = [mx.cpu(i) for i in range(contexts)]
    loss = center_loss_op.gluon.CenterLoss(classes, in_units=features)
    loss.initialize(ctx=contexts)
    meter = Meter(store)
    trainer = center_loss_op.gluon.CenterTrainer(loss, meter)
    share = batch // len(contexts) // store.num_workers
    random = np.random.RandomState(store.rank)
    data = [mx.nd.array(random.randn(share, features), ctx=context) for context in contexts]
    label = [mx.nd.array(random.randint(0, classes, share), ctx=context) for context in contexts]
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
    return meter.sent / STEPS, float(np.median(times[WARM_UP:]))


def main():
    parser = argparse.ArgumentParser(prog='python -m benchmarks.scaling', description=__doc__)
    parser.add_argument('--case', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        workers, *case = (int(number) for number in args.case.split(','))
        sent, seconds = measure(*case)
        print('figures', sent, seconds, flush=True)
        return
    rows = []
    for case in CASES:
        command = [sys.executable, '-m', 'benchmarks.scaling', '--case', ','.join(map(str, case))]
        workers = case[0]
        if workers > 1:
            command = [sys.executable, LAUNCHER, '-n', str(workers)] + command
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True,
                                universal_newlines=True).stdout
        figures = [line.split('figures ')[1].split() for line in output.splitlines()
                   if 'figures ' in line]
        sent = float(figures[0][0])
        seconds = max(float(figure[1]) for figure in figures)
        if workers == 1:
            sent = 0  # it stays in the process
        rows.append([*map(str, case), '%.0f' % (sent / 1024), '%.0f' % (sent / 1024),
                     '%.2f' % (seconds * 1e3)])
    table(HEAD, rows)


if __name__ == '__main__':
    main()
