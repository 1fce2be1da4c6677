"""Processes that end, fork or start others while operators are queued: none hangs.

Each case is a program of its own with a time limit; `-m soak` repeats them.
"""
from center_loss_op._mxnet.compat import RESTORED

import pytest

LIMIT = 150  # seconds; a run takes two or three on an idle machine

HEAD = '''
import os, subprocess, sys, threading
import center_loss_op
import mxnet as mx
import numpy as np

data = mx.nd.random.normal(shape=(256, 512))
label, centers = mx.nd.zeros(256), mx.nd.zeros((10, 512))
results = []

def steps(number=3):
    # Autograd notes in each array where it was used last: two threads that record must not share
    # any, or they can crash with an empty custom operator, too.
    own = [array.copy() for array in (data, label, centers)]
    own[0].attach_grad()
    for _ in range(number):
        with mx.autograd.record():
            loss = mx.nd.Custom(*own, op_type='centerloss', num_class=10)
        loss.backward()
    return loss

def infer(number=20):
    for _ in range(number):
        loss = mx.nd.Custom(data, label, centers, op_type='centerloss', num_class=10)
    return loss

def threads(target, *args):
    started = [threading.Thread(target=target, args=args) for _ in range(4)]
    for thread in started:
        thread.start()
    return started

def good():
    return np.isfinite(steps().asnumpy()).all()
'''

ENDS = {
    'return': 'steps()',
    'inference': 'infer()',
    'exception': 'steps(); raise SystemError("meant")',
    'exit in a thread': '''
def run():
    steps()
    sys.exit(0)
threading.Thread(target=run).start()
steps()
''',
    'daemon thread': 'threading.Thread(target=steps, args=(10,), daemon=True).start(); steps()',
    'threads that infer': 'threads(infer); infer()',
    'bad label': 'label[:] = 99; steps()',
    'module': '''
node = mx.sym.Custom(mx.sym.Variable('data'), mx.sym.Variable('label'), op_type='centerloss',
                     num_class=10)
executor = node.simple_bind(mx.cpu(), data=(256, 512), label=(256,))
for _ in range(5):
    executor.forward(is_train=True)
    executor.backward()
''',
}

FORKS = {
    'fork': '''
for busy in True, False:
    if busy:
        steps()
    child = os.fork()
    if child == 0:
        os._exit(0 if good() else 1)
    if busy:
        steps()
    assert os.waitpid(child, 0)[1] == 0
    assert good()
''',
    'process': '''
import multiprocessing
steps()
process = multiprocessing.get_context('fork').Process(target=good)
process.start()
steps()
process.join()
assert process.exitcode == 0
assert good()
''',
    'data loader': '''
images = mx.gluon.data.ArrayDataset(np.ones((64, 512), np.float32), np.zeros(64, np.float32))
for _ in range(2):
    steps()
    for data, label in mx.gluon.data.DataLoader(images, batch_size=16, num_workers=2):
        data.attach_grad()
        steps(1)
assert good()
''',
    # Python forks for the last two without its handlers of forks.
    'subprocess': '''
for options in {}, {'extra_groups': []}, {'user': os.getuid()}:
    for _ in range(5):
        steps()
        subprocess.run([sys.executable, '-c', ''], check=True,
                       **(options if sys.version_info >= (3, 9) else {}))
assert good()
''',
    'spawned process': '''
import multiprocessing
for _ in range(3):
    steps()
    process = multiprocessing.get_context('spawn').Process(target=print)
    process.start()
    process.join()
    assert process.exitcode == 0
assert good()
''',
    'threads that share the centers': '''
expected = infer().asnumpy()
started = threads(lambda: results.append(infer().asnumpy()))
for thread in started:
    thread.join()
assert len(results) == 4 and all((one == expected).all() for one in results)
assert (centers.asnumpy() == 0).all()
''',
}

SETTINGS = {
    'usual': {},
    # One thread of OpenMP: with more, a forked child waits for threads that it does not have, with
    # MXNet's own operators as well.
    'naive engine': {'MXNET_ENGINE_TYPE': 'NaiveEngine', 'OMP_NUM_THREADS': '1'},
    'one worker': {'MXNET_CPU_WORKER_NTHREADS': '1'},
    'pooled engine': {'MXNET_ENGINE_TYPE': 'ThreadedEngine'},
}


def check(child, name, settings='usual', times=1):
    """Run a program: it ends, and with the exit code it should."""
    # This engine runs an operator at once, so its error ends the program.
    fails = name == 'exception' or (name, settings) == ('bad label', 'naive engine')
    for _ in range(times):
        done = child(HEAD + {**ENDS, **FORKS}[name], timeout=LIMIT, **SETTINGS[settings])
        assert done.returncode == (1 if fails else 0), done.stdout + done.stderr


# Of each kind one runs in the quick tests.
@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[] if name in ('return', 'module', 'fork') else pytest.mark.slow)
    for name in (*ENDS, *FORKS)])
def test_no_hang(name, child):
    check(child, name)


@pytest.mark.slow
@pytest.mark.parametrize('settings', ['naive engine', 'one worker', 'pooled engine'])
@pytest.mark.parametrize('name', ['return', 'bad label', 'module', 'fork'])
def test_no_hang_on_other_engines(name, settings, child):
    check(child, name, settings)


@pytest.mark.slow
@pytest.mark.skipif(RESTORED, reason='MXNet alone cannot be imported with this NumPy')
@pytest.mark.parametrize('native', [True, False])
def test_exit_handler_registered_between_the_imports(native, child):
    for _ in range(4):
        done = child('import atexit, mxnet\natexit.register(lambda: steps())\n' + HEAD,
                     timeout=LIMIT, **({} if native else {'CENTER_LOSS_NATIVE': 0}))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.soak
@pytest.mark.parametrize('settings', SETTINGS)
@pytest.mark.parametrize('name', [*ENDS, *FORKS])
def test_many_times(name, settings, child):
    if (name, settings) == ('daemon thread', 'naive engine'):
        pytest.skip('this engine computes in the daemon thread, which Python ends in its midst')
    check(child, name, settings, 20 if settings == 'usual' or name == 'module' else 5)
