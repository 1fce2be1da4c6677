"""The training script on several devices and workers."""
import json
import os
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

import train as training
from options import OptionError, parse
from workers import Workers

HERE = os.path.dirname(os.path.abspath(__file__))
EXPERIMENTS = os.path.join(HERE, '..', '..', 'experiments')
LAUNCHER = os.path.join(EXPERIMENTS, 'launch_local.py')
SCRIPT = os.path.join(EXPERIMENTS, 'train.py')
WORKER = os.path.join(HERE, '..', 'helpers', 'training_worker.py')
# Two workers, who share the processors, would add up in another order than one who has them all,
# and two epochs make a difference in the third decimal of that.
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


@pytest.mark.slow
@pytest.mark.parametrize('split', [{'options': ['--cpus', '2']}, {'workers': 2}],
                         ids=['contexts', 'workers'])
def test_two_learn_what_one_does(split, tmp_path):
    """After two epochs all parameters are those of one device, but for the order of sums."""
    few = ['--epochs', '2']
    train(tmp_path / 'alone', *few)
    train(tmp_path / 'split', *few, *split.get('options', ()),
          workers=split.get('workers', 0))
    alone, together = parameters(tmp_path / 'alone'), parameters(tmp_path / 'split')
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        np.testing.assert_allclose(together[name], value, atol=1e-3, err_msg=name)
    if 'workers' in split:
        check_workers(tmp_path / 'split', 2)


@pytest.mark.soak
def test_two_workers_end_where_one_does(tmp_path):
    train(tmp_path / 'alone')
    train(tmp_path / 'together', workers=2)
    alone, together = metrics(tmp_path / 'alone'), metrics(tmp_path / 'together')
    assert together['accuracy'] >= alone['accuracy'] - 0.01
    # Sums in another order: as far apart as two seeds.
    assert together['compactness'] <= alone['compactness'] * 1.5


@pytest.mark.slow
def test_workers_resume_from_the_checkpoint_of_the_first(tmp_path):
    """SIGTERM to the launcher in the second of two epochs."""
    few = ['--epochs', '2']
    train(tmp_path / 'whole', *few, workers=2)
    folder = tmp_path / 'resumed'
    output = train(folder, *few, '--stop', '30', '--signal', 'SIGTERM', '--to-launcher', workers=2,
                   code=143)
    assert 'SIGTERM: saved %s' % (folder / 'checkpoints' / 'step-00000030') in output
    output = train(folder, *few, '--resume', workers=2)
    assert output.count('step-00000030: epoch 2 of 2') == 1
    assert metrics(folder) == metrics(tmp_path / 'whole')


@pytest.mark.parametrize('options, message', [
    (['--kv-store', 'dist_async'], 'use dist_sync'),
    (['--kv-store', 'dist_sync'], 'start it with examples/launch_local.py'),
    (['--kv-store', 'nccl'], 'must be local, device, dist_sync or horovod, got nccl'),
    (['--kv-store', 'horovod'], '--kv-store horovod'),  # missing, or not started by horovodrun
    (['--cpus', '3'], '--batch-size must be a multiple of 3'),
])
def test_bad_options(options, message, tmp_path, monkeypatch):
    monkeypatch.delenv('DMLC_ROLE', raising=False)
    with pytest.raises(OptionError) as error:
        training.train(parse(['--output-dir', str(tmp_path), *options]))
    assert message in str(error.value) and '\n' not in str(error.value)


def test_the_same_bits_are_refused_where_servers_add_up(monkeypatch):
    """In the order of arrival: only two terms have one sum."""
    class Store:
        rank, num_workers = 0, 3

    monkeypatch.setenv('DMLC_ROLE', 'worker')
    monkeypatch.setattr(mx.kv, 'create', lambda name: Store)
    arguments = ['--kv-store', 'dist_sync', '--same-bits']
    with pytest.raises(OptionError, match='--same-bits needs --kv-store horovod'):
        Workers(parse(arguments))
    monkeypatch.setattr(Store, 'num_workers', 2)
    assert Workers(parse(arguments)).number == 2
