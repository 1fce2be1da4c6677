"""Both training examples, killed and interrupted: they end as if nothing had happened."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, os.pardir, 'experiments')
SCRIPTS = ('train.py', 'train_symbol.py')
EPOCHS, STEPS = 8, 22
LAST = 'step-%08d' % (EPOCHS * STEPS)


class Run:
    """A process that runs a training script on digits."""

    def __init__(self, script, folder, *arguments, epochs=EPOCHS):
        command = [sys.executable, os.path.join(EXAMPLES, script), '--epochs', str(epochs),
                   '--output-dir', str(folder), *arguments]
        self.folder = folder / 'checkpoints'
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)

    def end(self, timeout=180):
        """(return code, stderr) when it has ended."""
        _, errors = self.process.communicate(timeout=timeout)
        return self.process.returncode, errors

    def wait_for(self, condition, timeout=120):
        """Wait until a checkpoint folder's name meets the condition, or the process has ended."""
        until = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < until:
            try:
                if any(map(condition, os.listdir(str(self.folder)))):
                    return
            except FileNotFoundError:
                pass
            time.sleep(0.0003)

    def stop(self, number):
        """Send a signal: (return code, stderr)."""
        self.process.send_signal(number)
        return self.end()


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


@pytest.fixture(name='whole', scope='module', params=SCRIPTS)
def whole_run(request, tmp_path_factory):
    """(script, output folder) of a run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp('whole')
    code, errors = Run(request.param, folder).end()
    assert code == 0, errors
    return request.param, folder


@pytest.mark.parametrize('kills', [3, pytest.param(20, marks=pytest.mark.soak)])
def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(whole, tmp_path, kills):
    """SIGKILL between two checkpoints and, every other time, while one is being written."""
    script, folder = whole
    seed = int.from_bytes(os.urandom(4), 'big')
    print('random.seed(%d)' % seed)
    chance = random.Random(seed)
    done = unfinished = 0
    while done < kills:
        run = Run(script, tmp_path, '--resume')
        before = set(os.listdir(str(run.folder))) if run.folder.exists() else set()
        if done % 2:
            run.wait_for(lambda name: name.startswith('.unfinished-') and name not in before)
            time.sleep(chance.uniform(0, 0.01))
        else:
            run.wait_for(lambda name: name.startswith('step-') and name not in before)
            time.sleep(chance.uniform(0, 0.5))
        code, errors = run.stop(signal.SIGKILL)
        assert code in (0, -signal.SIGKILL), errors
        if code:
            done += 1
            unfinished += any(name.startswith('.unfinished-')
                              for name in os.listdir(str(run.folder)))
        else:   # it has ended before the kill, so the next one begins
            assert bits(tmp_path) == bits(folder)
            shutil.rmtree(str(tmp_path))
            tmp_path.mkdir()
    print('%d of %d kills hit the writing of a checkpoint' % (unfinished, done))
    code, errors = Run(script, tmp_path, '--resume').end()
    assert code == 0, errors
    assert bits(tmp_path) == bits(folder)


def test_interrupted_runs_save_say_so_and_go_on(whole, tmp_path):
    """SIGTERM, then SIGINT, in the middle of epochs; then to the end."""
    script, folder = whole
    for number, usual_code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        run = Run(script, tmp_path, '--resume')
        before = set(os.listdir(str(run.folder))) if run.folder.exists() else set()
        run.wait_for(lambda name: name.startswith('step-') and name not in before)
        time.sleep(0.05)
        code, errors = run.stop(number)
        assert code == usual_code, errors
        last = max(name for name in os.listdir(str(run.folder)) if name.startswith('step-'))
        assert errors.rstrip().split('\n')[-1] == (
            '%s: saved %s, continue with --resume' % (number.name, run.folder / last))
        assert 'Traceback' not in errors
    code, errors = Run(script, tmp_path, '--resume').end()
    assert code == 0, errors
    assert 'continuing from %s' % (run.folder / last) in errors
    assert bits(tmp_path) == bits(folder)


def test_a_corrupt_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(whole, tmp_path):
    script, folder = whole
    shutil.copytree(str(folder / 'checkpoints'), str(tmp_path / 'checkpoints'))
    before, last = sorted((tmp_path / 'checkpoints').iterdir())
    model = last / 'model-0000.params'
    model.write_bytes(model.read_bytes()[:1000])
    code, errors = Run(script, tmp_path, '--resume').end()
    assert code == 0, errors
    assert ('checkpoint %s is corrupt: the checksum of model-0000.params is not that in '
            'SHA256SUMS; continuing from the one before it, %s\n' % (last, before)) in errors
    assert 'continuing from %s\n' % before in errors
    assert bits(tmp_path) == bits(folder)


def test_a_finished_run_is_only_evaluated_again(whole, tmp_path):
    script, folder = whole
    shutil.copytree(str(folder / 'checkpoints'), str(tmp_path / 'checkpoints'))
    checkpoints = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.params')}
    code, errors = Run(script, tmp_path, '--resume').end()
    assert code == 0, errors
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.params')} == checkpoints
    assert bits(tmp_path) == bits(folder)


def test_another_run_is_not_resumed(whole):
    script, folder = whole
    code, errors = Run(script, folder, '--resume', '--seed', '5').end()
    assert code == 1
    assert errors.rstrip().split('\n')[-1] == (
        '%s: error: %s was written with --seed 0, got 5: give the same to resume, or another '
        '--output-dir' % (script, folder / 'checkpoints' / LAST))


def test_without_resume_a_run_begins_anew_and_keeps_what_was_there(tmp_path):
    for arguments in (), ('--seed', '1'):
        code, errors = Run('train.py', tmp_path, *arguments, epochs=1).end()
        assert code == 0, errors
    assert ('the checkpoints of an earlier run are in %s now' % (tmp_path / 'checkpoints-earlier')
            in errors)
    seeds = {name: json.loads((tmp_path / name / ('step-%08d' % STEPS) / 'state.json').read_text())
                   ['options']['seed'] for name in ('checkpoints', 'checkpoints-earlier')}
    assert seeds == {'checkpoints': 1, 'checkpoints-earlier': 0}
