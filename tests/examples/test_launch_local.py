"""launch_local.py: what appears on the terminal, and when; train_workers.py under it."""
import re
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


def test_what_is_printed_appears_while_it_runs():
    """A progress bar too, which writes no newline; and no state of it for each step."""
    command = [sys.executable, str(LAUNCHER), '-n', '1', sys.executable, '-c', BAR]
    with subprocess.Popen(command, stdout=subprocess.PIPE, universal_newlines=True) as launcher:
        lines = [launcher.stdout.readline() for _ in range(3)]
        assert launcher.poll() is None      # the worker sleeps
        launcher.terminate()
        rest = launcher.communicate(timeout=300)[0]
    assert sorted(lines)[1:] == ['[worker 0] begun\n', '[worker 0] dos\n']
    assert re.fullmatch(r'\[worker 0\] \d of 10\n', min(lines))
    assert rest == '[worker 0] 9 of 10\n'   # where it stood when it was ended


@pytest.mark.parametrize('ends, code', [('sys.exit(3)', 3), ('os.kill(os.getpid(), 9)', 137)])
def test_a_worker_that_fails_ends_all_others(ends, code, tmp_path):
    """It is named, and the launcher ends as it did."""
    worker = ('import os, sys, time\n'
              'try:\n'
              '    os.mkdir(sys.argv[1])\n'
              'except FileExistsError:\n'
              '    time.sleep(600)     # the other one\n' + ends)
    done = subprocess.run([sys.executable, str(LAUNCHER), '-n', '2', sys.executable, '-c', worker,
                           str(tmp_path / 'first')], stderr=subprocess.PIPE, timeout=120,
                          universal_newlines=True, check=False)
    assert done.returncode == code
    assert re.fullmatch(rf'launch_local: worker \d failed with exit code {code}; ending the '
                        r'others\n', done.stderr)


def test_workers_end_with_the_same_network_and_centers(example):
    done = example('train_workers.py', '--epochs', 2,
                   launch=[sys.executable, LAUNCHER, '-n', '2'])
    found = re.findall(r'\] rank (\d) of 2: 22 steps per epoch, loss [\d.]+, (accuracy .*)',
                       done.stdout)
    assert sorted(rank for rank, _ in found) == ['0', '1']
    (_, one), (_, other) = found
    assert one == other
    assert re.search(r'2/2 \[.*epoch', done.stdout)


@pytest.mark.slow
def test_two_workers_learn_what_one_does(example):
    """The learning rate holds for the batch of all workers, however many there are."""
    one, two = (example('train_workers.py', '--epochs', 4,
                        launch=[sys.executable, LAUNCHER, '-n', workers]).stdout
                for workers in (1, 2))
    losses = [float(re.search(r'loss ([\d.]+)', said).group(1)) for said in (one, two)]
    assert abs(losses[0] - losses[1]) < 0.2 * losses[0]


def test_without_the_launcher_it_says_how_to_start_it(example):
    done = example('train_workers.py', status=1)
    assert done.stderr.startswith('start it with: python examples/launch_local.py -n 2 python ')
