"""A training that is killed or interrupted ends as if nothing had happened."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import run
import train

HELPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, 'helpers',
                      'training_worker.py')
EPOCHS, STEPS = 3, 22
LAST = 'step-%08d' % (EPOCHS * STEPS)


def start(folder, *arguments, epochs=EPOCHS):
    """A process that trains on digits."""
    return subprocess.Popen(
        [sys.executable, HELPER, '--epochs', str(epochs), '--output-dir', str(folder),
         *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)


def trained(folder, *arguments, epochs=EPOCHS):
    """(return code, stderr) of a process that trains on digits."""
    with start(folder, *arguments, epochs=epochs) as process:
        _, errors = process.communicate(timeout=180)
        return process.returncode, errors


def bits(folder):
    """What must not depend on interruptions: arrays by file, history without the seconds."""
    path = folder / 'checkpoints' / LAST
    state = json.loads((path / 'state.json').read_text())
    for row in state['history']['rows']:
        del row['seconds']
    metrics = json.loads((folder / 'metrics.json').read_text())
    del metrics['seconds_per_epoch'], state['history']['seconds']
    return {'model': (path / 'model-0000.params').read_bytes(),
            'optimizer': (path / 'optimizer.params').read_bytes(),
            'picture': (folder / 'embedding.png').read_bytes(), 'state': state,
            'metrics': metrics}


def last_checkpoint(folder):
    return max(name for name in os.listdir(str(folder / 'checkpoints')) if 'step-' == name[:5])


@pytest.fixture(name='whole', scope='module')
def whole_run(tmp_path_factory):
    """The output folder of a run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp('whole')
    code, errors = trained(folder)
    assert code == 0, errors
    return folder


@pytest.mark.slow
def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(whole, tmp_path):
    """SIGKILL between checkpoints, and while the first, second and third file is written, … ."""
    for stop in (('--stop', 30), ('--stop-saving', 2), ('--stop-saving', 9),
                 ('--stop-saving', 12)):
        code, errors = trained(tmp_path, '--resume', *stop, '--signal', 'SIGKILL')
        assert code == -signal.SIGKILL, errors
    code, errors = trained(tmp_path, '--resume')
    assert code == 0, errors
    assert bits(tmp_path) == bits(whole)


@pytest.mark.soak
def test_a_run_killed_at_random_ends_with_the_bits_of_one_that_was_not(whole, tmp_path):
    seed = int.from_bytes(os.urandom(4), 'big')
    print('random.seed(%d)' % seed)
    chance = random.Random(seed)
    kills = 0
    while kills < 20:
        checkpoints = tmp_path / 'checkpoints'
        before = set(checkpoints.iterdir()) if checkpoints.exists() else set()
        with start(tmp_path, '--resume') as process:
            while process.poll() is None and not (
                    checkpoints.exists() and set(checkpoints.iterdir()) - before):
                time.sleep(0.0003)
            time.sleep(chance.choice([0, chance.uniform(0, 0.01), chance.uniform(0, 0.5)]))
            process.kill()
            _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), errors
        if process.returncode:
            kills += 1
        else:  # it ended before the kill, so the next one begins
            assert bits(tmp_path) == bits(whole)
            shutil.rmtree(str(tmp_path))
            tmp_path.mkdir()
    code, errors = trained(tmp_path, '--resume')
    assert code == 0, errors
    assert bits(tmp_path) == bits(whole)


@pytest.mark.slow
def test_interrupted_runs_save_say_so_and_go_on(whole, tmp_path):
    """SIGTERM, then SIGINT, in the middle of epochs; then to the end."""
    for update, wanted, usual_code in ((30, 'SIGTERM', 143), (50, 'SIGINT', 130)):
        code, errors = trained(tmp_path, '--resume', '--stop', update, '--signal', wanted)
        assert code == usual_code, errors
        last = tmp_path / 'checkpoints' / last_checkpoint(tmp_path)
        assert last.name == 'step-%08d' % update
        assert errors.rstrip().split('\n')[-1] == (
            '%s: saved %s, continue with --resume' % (wanted, last))
        assert 'Traceback' not in errors
    assert 'continuing from %s: epoch 2 of 3\n' % last.with_name('step-00000030') in errors
    code, errors = trained(tmp_path, '--resume')
    assert code == 0, errors
    assert 'continuing from %s: epoch 3 of 3\n' % last in errors
    assert bits(tmp_path) == bits(whole)


@pytest.mark.slow
def test_a_corrupt_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(whole, tmp_path):
    shutil.copytree(str(whole / 'checkpoints'), str(tmp_path / 'checkpoints'))
    before, last = sorted((tmp_path / 'checkpoints').iterdir())
    model = last / 'model-0000.params'
    model.write_bytes(model.read_bytes()[:1000])
    code, errors = trained(tmp_path, '--resume')
    assert code == 0, errors
    assert ('checkpoint %s is corrupt: the checksum of model-0000.params is not that in '
            'SHA256SUMS; continuing from the one before it, %s\n' % (last, before)) in errors
    assert 'continuing from %s: epoch 3 of 3\n' % before in errors
    assert bits(tmp_path) == bits(whole)


@pytest.mark.slow
def test_a_finished_run_is_only_evaluated_again(whole, tmp_path):
    shutil.copytree(str(whole / 'checkpoints'), str(tmp_path / 'checkpoints'))
    checkpoints = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.params')}
    code, errors = trained(tmp_path, '--resume')
    assert code == 0, errors
    assert 'continuing from %s: all epochs are done\n' % (tmp_path / 'checkpoints' / LAST) in errors
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.params')} == checkpoints
    assert bits(tmp_path) == bits(whole)


class Stopped(Exception):
    """A training that a test has ended."""


@pytest.fixture(name='begun')
def begun_run(tmp_path, monkeypatch):
    """The output folder of a run of one epoch; what it trains from here on stops at once."""
    train.train(run_options(tmp_path))

    def stop(*args):
        raise Stopped
    monkeypatch.setattr(train.data, 'batches', stop)
    return tmp_path


def run_options(folder, *arguments):
    return train.parse(['--epochs', '1', '--batch-size', '700', '--output-dir', str(folder),
                            *arguments])


def test_another_run_is_not_resumed(begun):
    with pytest.raises(run.OptionError) as error:
        train.train(run_options(begun, '--resume', '--seed', '5'))
    assert str(error.value) == (
        '%s was written with --seed 0, got 5: give the same to resume, or another --output-dir'
        % (begun / 'checkpoints' / 'step-00000002'))


def test_without_resume_a_run_begins_anew_and_keeps_what_was_there(begun, capsys):
    for name in 'checkpoints-earlier', 'checkpoints-earlier-2':
        with pytest.raises(Stopped):
            train.train(run_options(begun))
        assert 'the checkpoints of an earlier run are in %s now' % (begun / name) \
            in capsys.readouterr().err
        # As if this start had trained for a while.
        shutil.copytree(str(begun / name / 'step-00000002'),
                        str(begun / 'checkpoints' / 'step-00000002'))


def test_resume_without_a_checkpoint_says_so(begun, tmp_path, capsys):
    with pytest.raises(Stopped):
        train.train(run_options(tmp_path / 'other', '--resume'))
    assert ('there is no checkpoint in %s yet: starting with epoch 1' % (tmp_path / 'other')
            in capsys.readouterr().err)


def test_a_second_run_in_the_same_folder_is_refused_and_changes_nothing(begun):
    before = sorted(path.relative_to(begun) for path in begun.rglob('*'))
    with run.locked(str(begun), []):
        for arguments in (), ('--resume',):
            with pytest.raises(run.TrainingError) as error:
                train.train(run_options(begun, *arguments))
            assert str(error.value) == ('another run is using %s: wait until it has ended, or give '
                                        'another --output-dir' % begun)
    assert sorted(path.relative_to(begun) for path in begun.rglob('*')) == before
    train.train(run_options(begun, '--resume'))


@pytest.mark.parametrize('file, key, complaint', [
    ('model-0000.params', 'arg:conv1_weight', 'has no parameter conv1_weight'),
    ('model-0000.params', 'aux:center_loss_center_bias',
     'has no parameter center_loss_center_bias'),
    ('optimizer.params', 'embedding_weight.', 'has no optimizer state of parameter '
     'embedding_weight')])
def test_a_checkpoint_that_lacks_a_parameter_is_one_line(begun, file, key, complaint):
    path = begun / 'checkpoints' / 'step-00000002'
    arrays = train.mx.nd.load(str(path / file))
    kept = {name: array for name, array in arrays.items() if not name.startswith(key)}
    assert len(kept) < len(arrays)
    train.mx.nd.save(str(path / file), kept)
    with open(str(path / 'SHA256SUMS'), 'wb') as sums:
        subprocess.run(['sha256sum', 'model-symbol.json', 'model-0000.params', 'optimizer.params',
                        'state.json'], cwd=str(path), stdout=sums, check=True)
    with pytest.raises(train.checkpoint.CheckpointError) as error:
        train.train(run_options(begun, '--resume'))
    assert str(error.value) == '%s %s' % (path, complaint)


def test_checkpoints_that_is_a_file_shows_before_the_training(begun, tmp_path):
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'checkpoints').write_text('')
    for arguments in (), ('--resume',):
        with pytest.raises(train.checkpoint.CheckpointError) as error:
            train.train(run_options(tmp_path / 'other', *arguments))
        assert str(error.value) == ('cannot write to %s: it is not a folder'
                                    % (tmp_path / 'other' / 'checkpoints'))


@pytest.mark.slow
@pytest.mark.parametrize('name', run.RESULTS)
def test_a_result_that_is_a_folder_shows_before_the_training(begun, name):
    (begun / name).unlink()
    (begun / name).mkdir()
    with pytest.raises(train.checkpoint.CheckpointError) as error:
        train.train(run_options(begun))
    assert str(error.value) == 'cannot write %s: it is a folder' % (begun / name)


def test_a_name_that_mxnet_cannot_write_shows_before_the_training(begun, tmp_path):
    folder = os.fsdecode(os.fsencode(str(tmp_path)) + b'/caf\xe9')
    with pytest.raises(run.OptionError) as error:
        train.train(run_options(folder))
    assert str(error.value) == ('MXNet cannot write to --output-dir %s: the name is not UTF-8'
                                % folder)
