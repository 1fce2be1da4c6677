"""Runs experiments/train.py in processes of its own, and reads what they write."""
import json
import os
import subprocess
import sys

import center_loss_op  # noqa: F401 - before mxnet, for newer NumPys

import mxnet as mx
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
EXPERIMENTS = os.path.join(HERE, '..', '..', 'experiments')
LAUNCHER = os.path.join(EXPERIMENTS, '..', 'examples', 'launch_local.py')
SCRIPT = os.path.join(EXPERIMENTS, 'train.py')
WORKER = os.path.join(HERE, 'training_worker.py')
# With as many threads as processors, two workers would add up in another order than one process,
# and after two epochs that changes the third decimal.
ONE_THREAD = {**os.environ, 'OMP_NUM_THREADS': '1'}


def train(folder, *options, workers=0, code=0):
    """Train on digits: what the processes print."""
    command = [sys.executable, SCRIPT, '--output-dir', str(folder), *options]
    if workers:
        folder.mkdir(exist_ok=True)
        command = [sys.executable, LAUNCHER, '-n', str(workers), sys.executable, WORKER,
                   '--keep', str(folder), '--output-dir', str(folder), *options, '--kv-store',
                   'dist_sync']
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
                          universal_newlines=True, check=False, env=ONE_THREAD)
    assert done.returncode == code, done.stdout
    return done.stdout


def metrics(folder):
    """metrics.json, without the time."""
    result = json.loads((folder / 'metrics.json').read_text())
    del result['seconds_per_epoch']
    return result


def parameters(folder):
    """All parameters of the last checkpoint below `folder`, the centers among them."""
    last = max((folder / 'checkpoints').iterdir())
    arrays = mx.nd.load(str(last / 'model-0000.params'))
    return {name: array.asnumpy() for name, array in arrays.items()}


def check_workers(folder, workers):
    """All have learned the same bits, and the first one alone has written."""
    found = [np.load(str(folder / ('%d.npz' % rank))) for rank in range(workers)]
    for other in found[1:]:
        for name in 'embedding', 'centers':
            np.testing.assert_array_equal(other[name].view(np.uint32),
                                          found[0][name].view(np.uint32), name)
    assert {path.name for path in folder.iterdir()} == {
        '.lock', 'checkpoints', 'curves.png', 'embedding.png', 'history.csv', 'metrics.json',
        *('%d.npz' % rank for rank in range(workers))}
