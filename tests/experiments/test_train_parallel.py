"""The training script on several devices and workers."""
import mxnet as mx
import numpy as np
import pytest
import train as training
from options import OptionError, parse
from trainings import check_workers, metrics, parameters, train
from workers import Workers


@pytest.fixture(name='alone', scope='module')
def trained_alone(tmp_path_factory):
    """The output folder of one process with one device."""
    folder = tmp_path_factory.mktemp('alone')
    train(folder, '--epochs', '2')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('split', [{'options': ['--cpus', '2']}, {'workers': 2}],
                         ids=['contexts', 'workers'])
def test_two_learn_what_one_does(split, alone, tmp_path):
    """After two epochs all parameters are those of one device, but for the order of sums."""
    train(tmp_path / 'split', '--epochs', '2', *split.get('options', ()),
          workers=split.get('workers', 0))
    expected, together = parameters(alone), parameters(tmp_path / 'split')
    assert expected.keys() == together.keys()
    for name, value in expected.items():
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
