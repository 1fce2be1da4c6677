"""The step in C: which way runs, and what the other tests, run over it as a backend, do not see."""
import ctypes
import shutil
import subprocess
import threading
from unittest import mock

from center_loss_op._operator import arrays, native, operator
from center_loss_op._operator.labels import LabelError

import hypothesis
import mxnet as mx
import numpy as np
import pytest
from cases import batch, passes, random_steps
from compiled import build
from entries import Direct, array, bind, custom
from hypothesis import strategies as st
from mxnet.base import _LIB, check_call
from numpy.testing import assert_allclose, assert_array_equal
from oracle import center_loss, tolerance

# -- which way runs

STEP = '''
import center_loss_op, sys, mxnet as mx
print(center_loss_op._operator.native.which())
x, y, centers = mx.nd.array([[2, 4], [4, 8]]), mx.nd.array([1, 1]), mx.nd.zeros((2, 2))
x.attach_grad()
with mx.autograd.record():
    loss = mx.nd.Custom(x, y, centers, op_type='centerloss', num_class=2, reduction='none')
loss.backward()
mx.nd.waitall()
print(loss.asnumpy().tolist(), x.grad.asnumpy().tolist(), centers.asnumpy().round(6).tolist())
'''
RIGHT = '[10.0, 40.0] [[2.0, 4.0], [4.0, 8.0]] [[0.0, 0.0], [1.0, 2.0]]'


@pytest.mark.parametrize('value, said', [
    pytest.param('0', 'Python (CENTER_LOSS_NATIVE=0)', marks=pytest.mark.slow),
    ('/nowhere.so', 'Python (/nowhere.so: cannot open shared object file'),
    pytest.param('', 'C (', marks=pytest.mark.slow)])
@pytest.mark.usefixtures('natively')
def test_the_environment_decides(value, said, child):
    way, result = child(STEP, CENTER_LOSS_NATIVE=value).stdout.splitlines()
    assert way.startswith(said)
    assert result == RIGHT


@pytest.mark.parametrize('on', [False, True])
@pytest.mark.usefixtures('natively')
def test_switched(on):
    """Python's operator is made in the one, and not in the other."""
    made = mock.Mock(wraps=operator.CenterLossOp)
    with mock.patch.object(operator, 'CenterLossOp', made), native.switched(on):
        custom(*map(array, batch(6, 3, 4)), num_class=4).asnumpy()
    assert made.call_count == (not on)


@pytest.mark.usefixtures('natively')
def test_odd_text():
    """Python reads it, if C does not."""
    loss = custom(*map(array, batch(6, 3, 4)), num_class='+4', scale=' 2', scale_output='1')
    data, label, centers = batch(6, 3, 4)
    want = center_loss(data, label, centers, scale=2, scale_output=True).loss
    assert_allclose(loss.asnumpy(), want, rtol=1e-5)


@pytest.mark.skipif(not shutil.which('ldd'), reason='no ldd')
@pytest.mark.usefixtures('natively')
def test_linked_with_all_that_it_calls():
    """By itself: Python has loaded libm, and more, before this library."""
    done = subprocess.run(['ldd', '-r', native.library()._name], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, universal_newlines=True, check=False)
    assert 'libc.' in done.stdout
    assert 'undefined symbol' not in done.stdout, done.stdout


# -- it does what Python does: shapes, labels and requests at random


def outcome(direct, kind, req, label_req, inplace, head):
    """What a pass gives: arrays, or the text of its error."""
    try:
        if kind != 'back':
            value = direct.forward(req, is_train=kind == 'train')
        else:
            if inplace:
                direct.grads[0] = direct.inputs[0]
            value = direct.backward('inplace' if inplace else req, label_req, head)
    except LabelError as error:
        return str(error)
    return value, direct.out.asnumpy(), direct.centers.asnumpy(), direct.grads[1].asnumpy()


INFINITE = np.array([[1, 2], [np.inf, 3]])
SUBNORMAL = {'num_class': 2, 'alpha': .5, 'scale': 1e-320}


@hypothesis.settings(max_examples=6 * hypothesis.settings.default.max_examples)
@hypothesis.given(random_steps('extreme', ('float32', 'float64'),
                               ('float32', 'float64', 'int32', 'int64')), st.integers(0, 9999))
@hypothesis.example((INFINITE, np.zeros(2), np.ones((2, 2)), SUBNORMAL), 0)
@hypothesis.example((INFINITE, np.zeros(2), np.ones((2, 2)),
                     {**SUBNORMAL, 'scale_output': True}), 0)
@pytest.mark.parametrize('is_host_memory', [arrays.is_host_memory, lambda context: False],
                         ids=['memory', 'copies'])
@pytest.mark.usefixtures('natively')
def test_same_as_python(is_host_memory, step, seed):
    """Pass by pass, on the memory of a CPU and, as on a device, on copies."""
    data, label, centers, arguments = step
    one = Direct(data, label, centers, **arguments)
    with native.switched(False), mock.patch(
            'center_loss_op._operator.arrays.is_host_memory', is_host_memory):
        other = Direct(data, label, centers, **arguments)
    clean = np.where(np.isfinite(data), data, 0)
    for kind, req, label_req, inplace, number in passes(seed):
        got, want = (outcome(direct, kind, req, label_req, inplace, number % 7 / 2 - 1.5)
                     for direct in (one, other))
        assert isinstance(got, str) == isinstance(want, str)
        if isinstance(got, str):
            assert got == want
            continue
        for value, expected in zip(got, want):
            # Added to itself, a value can be some times what a pass gives.
            limits = tolerance(data.dtype, clean, centers, min(arguments['alpha'], 2))
            largest = np.abs(np.where(np.isfinite(expected), expected, 0)).max()
            assert_allclose(value, expected, rtol=8 * limits['rtol'],
                            atol=8 * limits['rtol'] * max(largest, 1))


# -- many updates at once


def back(direct):
    direct.operator.backward(['write', 'null'], [direct.out], direct.inputs, [direct.out],
                             direct.grads, [direct.centers])


@pytest.mark.usefixtures('natively')
def test_updates_of_one_set_of_centers_take_turns():
    """Whole numbers add up exactly, in any order; none is lost, whoever computes it."""
    size, number = 1 << 20, 8
    data = np.arange(size, dtype='float32')[None] % 7
    centers = mx.nd.zeros((1, size))
    steps = []
    for which in range(number):
        with native.switched(which % 2 == 0):
            steps.append(Direct(data, np.zeros(1, 'float32'), np.zeros((1, size), 'float32'),
                                num_class=1, alpha=2))
    for step in steps:
        step.centers = centers
        step.forward()
    threads = [threading.Thread(target=back, args=[step]) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_array_equal(centers.asnumpy(), number * data)


@pytest.mark.usefixtures('natively')
def test_updates_of_others_do_not_wait():
    """A step is done while other centers than its own are in use."""
    direct, claim = Direct(*batch(6, 3, 4), num_class=4), (ctypes.c_void_p * 2)()
    direct.forward()
    thread = threading.Thread(target=back, args=[direct])
    native.library().center_loss_claim(claim, ctypes.c_void_p(1))
    thread.start()
    thread.join(60)
    waits = thread.is_alive()
    native.library().center_loss_release(claim)
    thread.join()
    assert not waits


@pytest.mark.usefixtures('natively')
def test_steps_go_on_while_python_is_locked():
    """50 steps are queued, and done while this thread holds Python's lock."""
    data, label, centers = np.full((4, 3), 8, 'float32'), np.zeros(4, 'float32'), np.zeros(
        (1, 3), 'float32')
    node = mx.sym.Custom(mx.sym.var('data'), mx.sym.var('label'), op_type='centerloss',
                         num_class=1)
    executor = bind(node, data, label, centers)
    mx.nd.waitall()
    address = ctypes.c_void_p()
    check_call(_LIB.MXNDArrayGetData(executor.aux_arrays[0].handle, ctypes.byref(address)))
    memory = np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (3,))
    for _ in range(50):
        executor.forward(is_train=True)
        executor.backward()
    ctypes.PyDLL(None).usleep(500000)
    seen = memory.copy()
    mx.nd.waitall()
    assert_array_equal(seen, memory)
    assert_allclose(memory, 8, rtol=1e-6)  # c ← c + (8 − c) · 0.5 · 4 / 5, 50 times


# -- an allocation that fails

FAILING = '''
#include <stddef.h>
void *no_calloc(size_t n, size_t size) { return NULL; }
void *no_malloc(size_t size) { return NULL; }
int no_posix_memalign(void **memory, size_t alignment, size_t size) { return 12; }
'''


@pytest.mark.parametrize('functions', [
    pytest.param(['calloc'], marks=pytest.mark.slow),
    pytest.param(['posix_memalign'], marks=pytest.mark.slow), ['posix_memalign', 'malloc']])
def test_no_memory(functions, child, tmp_path):
    """Python computes the step; if not even what Python needs can be had: an error, no crash."""
    (tmp_path / 'fail.c').write_text(FAILING)
    library = build(tmp_path, *(f'-D{name}=no_{name}' for name in functions), tmp_path / 'fail.c')
    done = child(STEP, CENTER_LOSS_NATIVE=library)
    if 'malloc' in functions:
        assert done.returncode == 1 and 'MXNetError' in done.stderr
    else:
        assert done.stdout.splitlines() == [f'C ({library})', RIGHT], done.stderr


# -- edges


@pytest.mark.usefixtures('backend')
def test_many_small_pulls_move_a_center():
    """Each is less than the center can show; their sum is not."""
    centers, eps = np.ones((1, 2), 'float32'), np.finfo('float32').eps
    data = np.full((400, 2), 1 + 64 * eps, 'float32')
    direct = Direct(data, np.zeros(400, 'float32'), centers, num_class=1)
    direct.forward()
    direct.backward()
    want = center_loss(data, np.zeros(400), centers).centers
    assert (direct.centers.asnumpy() > 1).all()
    assert_allclose(direct.centers.asnumpy(), want, rtol=eps)


@pytest.mark.parametrize('way', ['natively', 'in_python'])
def test_an_empty_batch(way, request):
    request.getfixturevalue(way)
    with mx.util.np_shape(True):
        data, centers = mx.nd.zeros((0, 3)), mx.nd.ones((4, 3))
        data.attach_grad()
        with mx.autograd.record():
            loss = custom(data, mx.nd.zeros((0,)), centers, num_class=4)
        loss.backward()
        mx.nd.waitall()
        assert_array_equal(loss.asnumpy(), [0])
        assert_array_equal(centers.asnumpy(), 1)
