"""launch_local.py: what appears on the terminal, and when; train_workers.py under it."""
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
LAUNCHER = EXAMPLES / 'launch_local.py'
BAR = ('import sys, time\n'
       'sys.stdout.write("begun\\ndos\\r\\n")\n'
       # At once: the worker is ended as soon as the first state is seen.
       'sys.stderr.write("".join("\\r%d of 10" % done for done in range(10)))\n'
       'sys.stderr.flush()\n'
       'time.sleep(60)\n')


@pytest.fixture(name='launcher')
def start_launcher(tmp_path):
    """Starts the launcher, with a scheduler and a server that only wait, and no MXNet."""
    (tmp_path / 'center_loss_op.py').write_text('import time; time.sleep(600)')
    return lambda *command: subprocess.Popen(
        [sys.executable, str(LAUNCHER), '-n', '2', sys.executable, '-c', *command],
        cwd=str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)


def test_what_is_printed_appears_while_it_runs(launcher):
    """A progress bar too, which writes no newline; and no state of it for each step."""
    with launcher(BAR) as process:
        lines = sorted(process.stdout.readline() for _ in range(6))
        assert process.poll() is None       # the workers sleep
        process.terminate()
        rest = process.communicate(timeout=300)[0]
    for worker, printed in enumerate((lines[:3], lines[3:])):
        assert printed[1:] == [f'[worker {worker}] begun\n', f'[worker {worker}] dos\n']
        assert re.fullmatch(rf'\[worker {worker}\] \d of 10\n', printed[0])
        assert f'[worker {worker}] 9 of 10\n' in rest   # where it stood when it was ended
    assert rest.count('\n') == 2


@pytest.mark.parametrize('ends, code', [('sys.exit(3)', 3), ('os.kill(os.getpid(), 9)', 137)])
def test_a_worker_that_fails_ends_all_others(ends, code, launcher):
    """It is named, and the launcher ends as it did, when all others have ended."""
    with launcher('import os, sys, time\n'
                  'print(os.getpid(), flush=True)\n'
                  'try:\n'
                  '    os.mkdir("first")\n'
                  'except FileExistsError:\n'
                  '    time.sleep(600)     # the other one\n'
                  'time.sleep(1)\n' + ends) as process:
        said, complaint = process.communicate(timeout=300)
    assert process.returncode == code
    assert re.fullmatch(rf'launch_local: worker \d failed with exit code {code}; ending the '
                        r'others\n', complaint)
    for number in re.findall(r'\] (\d+)\n', said):
        with pytest.raises(ProcessLookupError):
            os.kill(int(number), 0)


def test_workers_end_with_the_same_network_and_centers(example):
    done = example('train_workers.py', '--epochs', 1,
                   launch=[sys.executable, LAUNCHER, '-n', '2'])
    found = re.findall(r'\] rank (\d) of 2: 22 steps per epoch, loss [\d.]+, (accuracy .*)',
                       done.stdout)
    assert sorted(rank for rank, _ in found) == ['0', '1']
    (_, one), (_, other) = found
    assert one == other
    assert re.search(r'1/1 \[.*epoch', done.stdout)


@pytest.mark.slow
def test_two_workers_learn_what_one_does(example):
    """The learning rate holds for the batch of all workers, however many there are."""
    one, two = (example('train_workers.py', '--epochs', 4,
                        launch=[sys.executable, LAUNCHER, '-n', workers]).stdout
                for workers in (1, 2))
    losses = [float(re.search(r'loss ([\d.]+)', said).group(1)) for said in (one, two)]
    assert abs(losses[0] - losses[1]) < 0.2 * losses[0]


def test_without_the_launcher_it_says_how_to_start_it(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['train_workers.py'])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(EXAMPLES / 'train_workers.py'))
    assert caught.value.code.startswith(
        'start it with: python examples/launch_local.py -n 2 python ')
