"""The training examples on several devices and workers."""
import json
import os
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
EXAMPLES = os.path.join(HERE, '..', '..', 'experiments')
LAUNCHER = os.path.join(HERE, '..', '..', 'examples', 'launch_local.py')
SCRIPTS = ['train.py', 'train_symbol.py']
# Two workers, who share the processors, would add up in another order than one who has them all,
# and two epochs make a difference in the third decimal of that.
ONE_THREAD = {**os.environ, 'OMP_NUM_THREADS': '1'}


def train(script, folder, *options, workers=0):
    """Train on digits: the metrics of the first worker."""
    command = [sys.executable, os.path.join(EXAMPLES, script), '--output-dir', str(folder),
               *options]
    if workers:
        folder.mkdir(exist_ok=True)
        command = [sys.executable, LAUNCHER, '-n', str(workers), sys.executable,
                   os.path.join(HERE, '..', 'helpers', 'examples_worker.py'), script, str(folder),
                   '--output-dir', str(folder), *options, '--kv-store', 'dist_sync']
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
                          universal_newlines=True, check=False, env=ONE_THREAD)
    assert done.returncode == 0, done.stdout
    return json.loads((folder / 'metrics.json').read_text())


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
        'checkpoints', 'curves.png', 'embedding.png', 'history.csv', 'metrics.json',
        *('%d.npz' % rank for rank in range(workers))}


@pytest.mark.parametrize('split', [{'options': ['--cpus', '2']}, {'workers': 2}],
                         ids=['contexts', 'workers'])
@pytest.mark.parametrize('script', SCRIPTS)
def test_two_learn_what_one_does(script, split, tmp_path):
    """After two epochs all parameters are those of one device, but for the order of sums."""
    few = ['--epochs', '2']
    train(script, tmp_path / 'alone', *few)
    train(script, tmp_path / 'split', *few, *split.get('options', ()),
          workers=split.get('workers', 0))
    alone, together = parameters(tmp_path / 'alone'), parameters(tmp_path / 'split')
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        np.testing.assert_allclose(together[name], value, atol=1e-3, err_msg=name)
    if 'workers' in split:
        check_workers(tmp_path / 'split', 2)


@pytest.mark.soak
@pytest.mark.parametrize('script', SCRIPTS)
def test_two_workers_end_where_one_does(script, tmp_path):
    alone = train(script, tmp_path / 'alone')
    together = train(script, tmp_path / 'together', workers=2)
    assert together['accuracy'] >= alone['accuracy'] - 0.01
    # Sums in another order: as far apart as two seeds.
    assert together['compactness'] <= alone['compactness'] * 1.5


def test_workers_resume_from_the_checkpoint_of_the_first(tmp_path):
    script = 'train.py'
    few = ['--epochs', '2']
    whole = train(script, tmp_path / 'whole', *few, workers=2)
    folder = tmp_path / 'resumed'
    command = [sys.executable, LAUNCHER, '-n', '2', sys.executable,
               os.path.join(EXAMPLES, script), *few, '--output-dir', str(folder),
               '--kv-store', 'dist_sync']
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=ONE_THREAD) as launcher:
        while not list(folder.glob('checkpoints/step-*')):
            assert launcher.poll() is None
        launcher.terminate()
        launcher.communicate(timeout=60)
    resumed = train(script, folder, *few, '--resume', workers=2)
    del whole['seconds_per_epoch'], resumed['seconds_per_epoch']
    assert resumed == whole


@pytest.mark.parametrize('options, message', [
    (['--kv-store', 'dist_async'], 'use dist_sync'),
    (['--kv-store', 'dist_sync'], 'start it with examples/launch_local.py'),
    (['--kv-store', 'nccl'], 'must be local, device, dist_sync or horovod, got nccl'),
    (['--kv-store', 'horovod'], '--kv-store horovod'),  # missing, or not started by horovodrun
    (['--cpus', '3'], '--batch-size must be a multiple of 3'),
])
@pytest.mark.parametrize('script', SCRIPTS)
def test_bad_options(script, options, message, tmp_path):
    done = subprocess.run(
        [sys.executable, os.path.join(EXAMPLES, script), '--output-dir', str(tmp_path), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, check=False,
        timeout=60, env={key: value for key, value in os.environ.items() if 'DMLC' not in key})
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == 1
    assert message in done.stderr and 'Traceback' not in done.stderr
