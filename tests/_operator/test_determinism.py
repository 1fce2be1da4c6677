"""The same inputs give the same bits: over runs, threads and MXNet's engines."""
import platform

from center_loss_op._operator import native

import pytest
from compiled import build

TRAINING = '''
import hashlib, sys
import center_loss_op
import mxnet as mx
import numpy as np
from mxnet import autograd

backend, steps = sys.argv[1], int(sys.argv[2])
assert center_loss_op._operator.native.running() == (backend == 'native')
if backend == 'copies':
    center_loss_op._operator.arrays.is_host_memory = lambda context: False

def bits(*arrays):
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.asnumpy().tobytes())
    return digest.hexdigest()

random = np.random.RandomState(7)
# N, d, C: few and many, once a class and often.
for samples, size, classes in ((128, 2, 10), (256, 512, 1000), (512, 512, 10), (300, 70, 40)):
    for dtype in ('float16', 'float32', 'float64'):
        centers = mx.nd.array(random.randn(classes, size),
                              dtype='float64' if dtype == 'float64' else 'float32')
        for reduction in ('mean', 'none'):
            data = mx.nd.array(random.randn(samples, size), dtype=dtype)
            label = mx.nd.array(random.randint(0, classes, samples))
            data.attach_grad()
            for _ in range(steps):
                with autograd.record():
                    loss = mx.nd.Custom(data, label, centers, op_type='centerloss', alpha=.3,
                                        num_class=classes, reduction=reduction)
                loss.backward()
                mx.nd.waitall()
                print(bits(loss, data.grad, centers))

'''

# Where the bits of a run must not depend on it: threads of the linear algebra, MXNet's engine,
# its workers.
SETTINGS = [
    {'OMP_NUM_THREADS': 1}, {'OMP_NUM_THREADS': 2},
    {'OMP_NUM_THREADS': 2, 'MXNET_CPU_WORKER_NTHREADS': 2, 'MXNET_CUSTOM_OP_NUM_THREADS': 2},
    {'OMP_NUM_THREADS': 1, 'MXNET_ENGINE_TYPE': 'NaiveEngine'},
    {'OMP_NUM_THREADS': 2, 'MXNET_ENGINE_TYPE': 'ThreadedEngine'}]


def outcome(child, backend, setting, steps=2, library='1'):
    """What a process of its own prints: digests of every result."""
    settings = dict(setting, OPENBLAS_NUM_THREADS=setting['OMP_NUM_THREADS'],
                    CENTER_LOSS_NATIVE=library if backend == 'native' else '0')
    result = child(TRAINING, backend, steps, timeout=600, **settings)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.splitlines()


@pytest.mark.usefixtures('natively')
def test_same_bits_run_after_run(child):
    runs = [outcome(child, 'native', SETTINGS[which]) for which in (0, 2)]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == len(runs[0]) == 4 * 3 * 2 * 2


@pytest.mark.parametrize('backend, steps', [
    pytest.param(backend, steps, marks=mark) for backend in ('native', 'python')
    for steps, mark in ((2, pytest.mark.slow), (60, pytest.mark.soak))])
def test_same_bits_in_every_setting(backend, steps, child):
    if backend == 'native' and not native.running():
        pytest.skip('a step runs in %s' % native.which())
    want = outcome(child, backend, SETTINGS[0], steps)
    for setting in SETTINGS:
        assert outcome(child, backend, setting, steps) == want, setting


@pytest.mark.slow
def test_same_bits_of_copies(child):
    assert outcome(child, 'copies', SETTINGS[2], 1) == outcome(child, 'python', SETTINGS[0], 1)


@pytest.mark.slow
@pytest.mark.usefixtures('natively')
def test_same_bits_of_the_simplest_processor(child, tmp_path):
    """The compiler's code for the least that a processor can do gives what this one's does."""
    library = build(tmp_path, '-DCENTER_LOSS_ONE_PROCESSOR', '-march=x86-64'
                    if platform.machine() == 'x86_64' else '-O2')
    runs = [outcome(child, 'native', SETTINGS[0], 1, which) for which in ('1', str(library))]
    assert runs[0] == runs[1]
