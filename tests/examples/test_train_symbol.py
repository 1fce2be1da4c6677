"""train_symbol.py: Module.fit, its checkpoints, and what serving gets."""
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
import train_symbol


def last_line(done):
    return done.stdout.splitlines()[-1]


def test_it_trains_shows_progress_and_goes_on_from_the_last_checkpoint(example, tmp_path):
    done = example('train_symbol.py', '--epochs', 4, '--output-dir', 'OUT')
    assert float(last_line(done).split('accuracy by nearest center ')[1]) > 0.3
    for said in ('Epoch[3] Train-accuracy=', 'Epoch[3] Train-center_loss=',
                 'Epoch[3] Validation-accuracy=', 'Epoch[3] Validation-center_loss=', '88/88'):
        assert said in done.stderr
    old = mx.nd.load(str(tmp_path / 'OUT' / 'digits-0004.params'))
    again = example('train_symbol.py', '--epochs', 5, '--output-dir', 'OUT', '--resume')
    assert 'going on after epoch 4' in again.stderr
    assert 'Epoch[4]' in again.stderr and 'Epoch[3]' not in again.stderr
    assert '22/22' in again.stderr
    new = mx.nd.load(str(tmp_path / 'OUT' / 'digits-0005.params'))
    centers = [params['aux:center_loss_center_bias'].asnumpy() for params in (old, new)]
    assert centers[0].shape == (10, 2) and not np.array_equal(*centers)

    assert sorted(file.name for file in (tmp_path / 'OUT').iterdir()) == sorted(
        ['digits-symbol.json', 'embedding-symbol.json', 'embedding-0000.params']
        + [f'digits-000{epoch}.{kind}' for epoch in (3, 4, 5) for kind in ('params', 'states')])
    assert [file.name for file in tmp_path.iterdir()] == ['OUT']
    # What serving gets needs no center loss.
    graph = (tmp_path / 'OUT' / 'embedding-symbol.json').read_text()
    assert 'center' not in graph and 'softmax' not in graph
    net = mx.gluon.SymbolBlock.imports(
        str(tmp_path / 'OUT' / 'embedding-symbol.json'), ['data'],
        str(tmp_path / 'OUT' / 'embedding-0000.params'))
    assert net(mx.nd.zeros((3, 1, 8, 8))).shape == (3, 2)


@pytest.mark.slow
def test_the_whole_training_classifies(example):
    assert float(last_line(example('train_symbol.py')).split()[-1]) > 0.9


def test_it_refuses_to_mix_up_trainings(tmp_path, monkeypatch, capsys):
    def refused(*arguments):
        with pytest.raises(SystemExit):
            train_symbol.main(arguments)
        return capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    missing = 'there is no checkpoint out-digits/digits-….params to go on from\n'
    assert refused('--epochs', '3', '--resume').endswith(missing)
    (tmp_path / 'out-digits').mkdir()
    (tmp_path / 'out-digits' / 'digits-0003.params').write_bytes(b'')
    for arguments in ['--epochs', '5'], ['--epochs', '3', '--resume']:
        assert 'there are checkpoints out-digits/digits-… up to epoch 3' in refused(*arguments)


def test_a_program_can_call_it_on_a_terminal_without_greek_letters(child):
    done = child(f"""if True:
        import sys
        sys.path.insert(0, {str(Path(__file__).resolve().parents[2] / 'examples')!r})
        import paper_figures, train_gluon, train_symbol
        for script in paper_figures, train_gluon, train_symbol:
            try:
                script.main(['--help'])
            except SystemExit as end:
                assert not end.code
        """, PYTHONIOENCODING='ascii')
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('--center-weight') == 4
