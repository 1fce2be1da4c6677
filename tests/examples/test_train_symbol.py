"""train_symbol.py: Module.fit, its checkpoints, and what serving gets."""
import mxnet as mx
import numpy as np
import pytest


def last_line(done):
    return done.stdout.splitlines()[-1]


def test_it_trains_shows_progress_and_goes_on_from_the_last_checkpoint(example):
    done = example('train_symbol.py', '--epochs', 2)
    assert float(last_line(done).split('accuracy by nearest center ')[1]) > 0.3
    for said in ('Epoch[1] Train-accuracy=', 'Epoch[1] Train-center_loss=',
                 'Epoch[1] Validation-accuracy=', 'Epoch[1] Validation-center_loss=', '44/44'):
        assert said in done.stderr
    again = example('train_symbol.py', '--epochs', 3, '--resume')
    assert 'going on after epoch 2' in again.stderr
    assert 'Epoch[2]' in again.stderr and 'Epoch[1]' not in again.stderr
    assert '22/22' in again.stderr

    saved = [mx.nd.load(str(example.folder / f'digits-{epoch:04}.params')) for epoch in (1, 2, 3)]
    centers = [params['aux:center_loss_center_bias'].asnumpy() for params in saved]
    assert centers[0].shape == (10, 2)
    assert not np.array_equal(centers[1], centers[2])


@pytest.mark.slow
def test_what_serving_gets_needs_no_center_loss(example):
    example('train_symbol.py', '--epochs', 1)
    graph = (example.folder / 'digits-embedding-symbol.json').read_text()
    assert 'center' not in graph and 'softmax' not in graph
    net = mx.gluon.SymbolBlock.imports(
        str(example.folder / 'digits-embedding-symbol.json'), ['data'],
        str(example.folder / 'digits-embedding-0000.params'))
    assert net(mx.nd.zeros((3, 1, 8, 8))).shape == (3, 2)


@pytest.mark.slow
def test_the_whole_training_classifies(example):
    assert float(last_line(example('train_symbol.py')).split()[-1]) > 0.9


def test_it_refuses_to_mix_up_trainings(example):
    done = example('train_symbol.py', '--epochs', 3, '--resume', status=2)
    assert done.stderr.endswith('there is no checkpoint digits-….params to go on from\n')
    (example.folder / 'digits-0003.params').write_bytes(b'')
    for arguments in ['--epochs', 5], ['--epochs', 3, '--resume']:
        done = example('train_symbol.py', *arguments, status=2)
        assert 'there are checkpoints digits-… up to epoch 3' in done.stderr
