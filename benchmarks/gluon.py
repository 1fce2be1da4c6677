"""gluon: what a loss adds to a Gluon loop; milliseconds per step (forward, backward, wait)"""
import json
import os
import subprocess
import sys

from center_loss_op.gluon import CenterLoss

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from .timing import medians, table

SHAPES = [(128, 2, 10), (256, 512, 10575)]

# A hybridized net without center loss, before and after the package is imported.
CALLS = '''
import json, sys, time
import mxnet as mx
net = mx.gluon.nn.Dense(8, in_units=8)
net.initialize()
net.hybridize()
x = mx.nd.ones((8, 8))
def call(repetitions):
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        for _ in range(10):
            net(x)
        times.append((time.perf_counter() - start) / 10)
        mx.nd.waitall()
    return sorted(times)[repetitions // 4]
repetitions = int(sys.argv[1])
call(repetitions)
before = call(repetitions)
import center_loss_op
print(json.dumps([before, call(repetitions)]))
'''


def _step(loss, features, label):
    features.attach_grad()

    def step():
        with autograd.record():
            value = loss(features, label)
        value.backward()
        mx.nd.waitall()
    return step


def _losses(samples, size, classes):
    """A step of each loss on the same features."""
    random = np.random.RandomState(1)
    features = mx.nd.array(random.randn(samples, size))
    labels = {'CenterLoss': mx.nd.array(random.randint(0, classes, samples)),
              'L2Loss': mx.nd.array(random.randn(samples, size))}
    steps = {}
    for kind, hybridize in (('eager', None), ('hybridized', {}),
                            ('static', dict(static_alloc=True, static_shape=True))):
        for name, label in labels.items():
            loss = CenterLoss(classes, size) if name == 'CenterLoss' else gluon.loss.L2Loss()
            loss.initialize()
            if hybridize is not None:
                loss.hybridize(**hybridize)
            steps[f'{name}, {kind}'] = _step(loss, features.copy(), label)
    return steps


def _calls(quick):
    """Seconds of a hybridized call before and after the import, in processes of their own."""
    times = []
    for _ in range(3 if quick else 9):
        child = subprocess.run([sys.executable, '-c', CALLS, '200' if quick else '1000'],
                               env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        if child.returncode:    # with NumPy 1.24 or newer, MXNet needs the package
            return None
        times.append(json.loads(child.stdout))
    return times


def run(quick):
    """Print the tables; return their figures in seconds."""
    turns, burst = (10, 20) if quick else (40, 40)
    figures = {}
    for samples, size, classes in SHAPES:
        taken = medians(_losses(samples, size, classes), turns, burst)
        figures[f'{samples} x {size}'] = taken
        print(f'{samples} x {size}, {classes} classes')
        table(['', 'CenterLoss', 'L2Loss', 'ratio'], [
            [kind] + [f'{1e3 * taken[f"{name}, {kind}"]:.3f}' for name in ('CenterLoss', 'L2Loss')]
            + [f'{taken[f"CenterLoss, {kind}"] / taken[f"L2Loss, {kind}"]:.2f}']
            for kind in ('eager', 'hybridized', 'static')])
    calls = _calls(quick)
    if calls:
        before, after = np.median(calls, axis=0)
        ratio = np.median([two[1] / two[0] for two in calls])
        print(f'a hybridized call of a net without center loss: {1e6 * before:.1f} us before the '
              f'import, {1e6 * after:.1f} after it, ratio {ratio:.3f}')
        figures['calls'] = calls
    else:
        print('a hybridized call of a net without center loss: MXNet cannot be imported alone here')
    return figures
