"""gluon: what a loss adds to a Gluon loop; milliseconds per step (forward, backward, wait)"""
import os
import subprocess
import sys

from center_loss_op.gluon import CenterLoss

import numpy as np
from mxnet import gluon

from .alternatives import batch, recorded
from .timing import medians, table

SHAPES = [(128, 2, 10), (256, 512, 10575)]
KINDS = {'eager': None, 'hybridized': {}, 'static': dict(static_alloc=True, static_shape=True)}

# Prints how much longer a hybridized call of a net without center loss takes after the import.
CALLS = '''
import sys, time
import mxnet as mx
net = mx.gluon.nn.Dense(8, in_units=8)
net.initialize()
net.hybridize()
x = mx.nd.ones((8, 8))
def call():
    times = []
    for _ in range(int(sys.argv[1])):
        start = time.perf_counter()
        for _ in range(10):
            net(x)
        times.append(time.perf_counter() - start)
        mx.nd.waitall()
    return sorted(times)[len(times) // 4]
call()
before = call()
import center_loss_op
print(call() / before)
'''


def _steps(shape):
    """A step of each loss, and each kind of call, on the same features."""
    data, label = batch(*shape)
    steps = {}
    for kind, how in KINDS.items():
        for loss, target in (CenterLoss(shape[2], shape[1]), label), (gluon.loss.L2Loss(), -data):
            loss.initialize()
            if how is not None:
                loss.hybridize(**how)
            steps[type(loss).__name__, kind] = recorded(loss, data, target)
    return steps


def run(quick):
    """Print the tables."""
    for shape in SHAPES:
        taken = medians(_steps(shape), *(10, 20) if quick else (40, 40))
        print('%d x %d, %d classes' % shape)
        table(['', 'CenterLoss', 'L2Loss', 'ratio'], [
            [kind, f'{1e3 * taken["CenterLoss", kind]:.3f}', f'{1e3 * taken["L2Loss", kind]:.3f}',
             f'{taken["CenterLoss", kind] / taken["L2Loss", kind]:.2f}'] for kind in KINDS])
    children = [subprocess.run(
        [sys.executable, '-c', CALLS, '200' if quick else '1000'], check=False,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(3 if quick else 9)]
    ratios = [float(child.stdout) for child in children if not child.returncode]
    print('a hybridized call of a net without center loss, after the import by before it:',
          f'{np.median(ratios):.3f}' if ratios else 'MXNet cannot be imported alone here')
