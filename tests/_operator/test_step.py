"""Loss, gradient and update against numbers and the oracle: in C, in Python, on a device."""
from center_loss_op import LabelError

import entries
import hypothesis
import mxnet as mx
import numpy as np
import pytest
from cases import are_good, batch, centers_dtype, passes, random_steps
from entries import Direct, array, custom, imperative, settle
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracle import center_loss, tolerance

pytestmark = pytest.mark.usefixtures('backend')

DTYPES = ['float16', 'float32', 'float64']

# Cases to be checked by hand: features, labels, centers, arguments, and what is expected of
# reduction='none': the losses, the gradient, the centers after the update.
CASES = {
    # c ← 0 + 0.5 · 1 · (2, 4) / (1 + 1)
    'one sample, one class': dict(
        data=[[2, 4]], label=[0], centers=[[0, 0]], arguments={},
        losses=[10], grad=[[2, 4]], moved=[[.5, 1]]),
    # Class 1: c ← 1 + 0.75 · (1 + 3) / (1 + 2)
    'duplicates': dict(
        data=[[2, 0], [4, 0]], label=[1, 1], centers=[[5, 6], [1, 0]], arguments={'alpha': .75},
        losses=[.5, 4.5], grad=[[1, 0], [3, 0]], moved=[[5, 6], [2, 0]]),
    # Two samples that pull in opposite directions leave their center where it is.
    'balance': dict(
        data=[[1], [-1]], label=[0, 0], centers=[[0]], arguments={},
        losses=[.5, .5], grad=[[1], [-1]], moved=[[0]]),
    'absent classes': dict(
        data=[[1, 1], [0, 8]], label=[3, 1], centers=[[.1, .2], [0, 0], [.3, .4], [1, 3]],
        arguments={}, losses=[2, 32], grad=[[0, -2], [0, 8]],
        moved=[[.1, .2], [0, 2], [.3, .4], [1, 2.5]]),
    'already there': dict(
        data=[[3, 4], [3, 4]], label=[0, 0], centers=[[3, 4]], arguments={},
        losses=[0, 0], grad=[[0, 0], [0, 0]], moved=[[3, 4]]),
    # Class 0 counts one sample of three: c ← 0 + 0.5 · 2 / (1 + 1)
    'ignored': dict(
        data=[[2], [7], [9]], label=[0, -1, -1], centers=[[0]], arguments={'use_ignore': True},
        losses=[2, 0, 0], grad=[[2], [0], [0]], moved=[[.5]]),
    'all ignored': dict(
        data=[[2], [7]], label=[-1, -1], centers=[[1]], arguments={'use_ignore': True},
        losses=[0, 0], grad=[[0], [0]], moved=[[1]]),
    # 0 is a class like any other, and here the one to leave out.
    'ignored class': dict(
        data=[[2], [4]], label=[0, 1], centers=[[1], [0]],
        arguments={'use_ignore': True, 'ignore_label': 0},
        losses=[0, 8], grad=[[0], [4]], moved=[[1], [1]]),
    'scale': dict(
        data=[[2, 4]], label=[0], centers=[[0, 0]], arguments={'scale': .25},
        losses=[10], grad=[[.5, 1]], moved=[[.5, 1]]),
    'scale 0': dict(
        data=[[2, 4]], label=[0], centers=[[0, 0]], arguments={'scale': 0},
        losses=[10], grad=[[0, 0]], moved=[[.5, 1]]),
    'alpha 0': dict(
        data=[[2, 4]], label=[0], centers=[[0, 0]], arguments={'alpha': 0},
        losses=[10], grad=[[2, 4]], moved=[[0, 0]]),
    # α = 2 lands on the sample, α = 1000 beyond it: 0 + 1000 · 2 / 2.
    'alpha 2': dict(
        data=[[2, 4]], label=[0], centers=[[0, 0]], arguments={'alpha': 2},
        losses=[10], grad=[[2, 4]], moved=[[2, 4]]),
    'alpha 1000': dict(
        data=[[2]], label=[0], centers=[[0]], arguments={'alpha': 1000},
        losses=[2], grad=[[2]], moved=[[1000]]),
}


def arrays(case, dtype):
    """The features, labels and centers of a case."""
    return (np.array(case['data'], dtype), np.array(case['label'], 'float32'),
            np.array(case['centers'], centers_dtype(dtype)))


@pytest.mark.parametrize('name, dtype', [*[(name, 'float32') for name in CASES],
                                         ('ignored', 'float16'), ('ignored', 'float64')])
def test_case(name, dtype):
    case = CASES[name]
    data, label, centers = arrays(case, dtype)
    got = imperative(data, label, centers, num_class=len(centers), reduction='none',
                     **case['arguments'])
    assert_allclose(got.loss, case['losses'], rtol=1e-6)
    assert_allclose(got.grad, case['grad'], **tolerance(dtype, data, centers))
    assert_allclose(got.centers, case['moved'], rtol=1e-6)
    assert (got.loss.dtype, got.grad.dtype) == (centers.dtype, data.dtype)


@pytest.mark.parametrize('name', CASES)
def test_oracle(name):
    """The oracle, too, is held against the numbers above."""
    case = CASES[name]
    want = center_loss(*arrays(case, 'float64'), reduction='none', **case['arguments'])
    assert_allclose(want.loss, case['losses'])
    assert_allclose(want.grad, case['grad'])
    assert_allclose(want.centers, case['moved'])


# -- at random


def check(got, want, data, centers, arguments, before=None):
    """Loss, gradient and centers are the oracle's, up to rounding in their types.

    `before`: what loss and gradient were added to.
    """
    with np.errstate(all='ignore'):
        # A head gradient of these tests is at most 3.
        weights = (max(1, arguments['scale']), max(1, 3 * arguments['scale']), 1)
        for value, expected, weight, old in zip(got, want, weights, (*(before or (0, 0)), 0)):
            limits = tolerance(value.dtype, data, centers, arguments['alpha'])
            added = np.asarray(old, float)
            rounding = np.finfo(value.dtype).eps * np.abs(added[np.isfinite(added)]).max(initial=0)
            limits['atol'] = limits['atol'] * weight + rounding
            assert_allclose(value, (expected + added).astype(value.dtype), **limits)


@hypothesis.settings(max_examples=2 * hypothesis.settings.default.max_examples)
@hypothesis.given(random_steps(), st.sampled_from(entries.WITH_REDUCTION))
def test_any_step(step, entry):
    """The oracle's numbers, or an exception and centers that have not moved."""
    data, label, centers, arguments = step
    # Without one, MXNet lets no graph with need_top_grad run its backward pass.
    head = np.arange(len(data) if arguments['reduction'] == 'none' else 1) % 4 - 1.0
    head = head if arguments['need_top_grad'] else None
    if are_good(label, **arguments):
        got = entry(data, label, centers, head, **arguments)
        with np.errstate(all='ignore'):
            want = center_loss(data, label, centers, head, **arguments)
        check(got, want, data, centers, arguments)
        assert got.loss.dtype == (data if arguments['scale_output'] else centers).dtype
        return
    with pytest.raises(mx.MXNetError):
        entry(data, label, centers, head, **arguments)
    settle()
    # The queue of a loop that waits for nothing: the centers stay, and the next good batch trains.
    state, features = array(centers), array(data)
    for labels in label, np.zeros(len(data), 'float32'):
        features.attach_grad()
        with mx.autograd.record():
            loss = custom(features, array(labels), state, **arguments)
        loss.backward(None if head is None else array(head.astype(loss.dtype)))
        settle()
    with np.errstate(all='ignore'):
        want = center_loss(data, labels, centers, **arguments).centers
    check([state.asnumpy()], [want], data, centers, {**arguments, 'scale': 1})


@hypothesis.settings(max_examples=2 * hypothesis.settings.default.max_examples)
@hypothesis.given(random_steps(), st.integers(0, 9999))
def test_any_passes(step, seed):
    """A backward pass belongs to the last forward pass, and moves the centers once if that trained.

    The gradient may take the memory of the features. A forward pass that failed is the last one:
    its backward pass fails, too, and neither writes anything.
    """
    data, label, centers, arguments = step
    direct = Direct(data, label, centers, **arguments)
    for memory in (direct.out, *direct.grads):
        memory[:] = 3
    if not are_good(label, **arguments):
        direct.inputs[1][:] = 0
        direct.forward()
        direct.inputs[1] = array(label)
        for call in direct.forward, direct.backward:
            before = direct.values()
            with pytest.raises(LabelError, match=r'^label\[\d+\] is '):
                call()
            for value, old in zip(direct.values(), before):
                assert_array_equal(value, old)
        direct.inputs[1][:] = 0
    kept = moves = None
    for kind, req, label_req, inplace, number in passes(seed):
        loss, grad, now, label_grad = direct.values()
        inputs = direct.inputs[0].asnumpy(), direct.inputs[1].asnumpy(), now
        if kind != 'back':
            kept, moves = (inputs, bool(arguments['alpha'])) if kind == 'train' else (None, False)
            with np.errstate(all='ignore'):
                want = center_loss(*inputs, **arguments)
            direct.forward(req, is_train=kind == 'train')
            want = [result(req, loss, want.loss), grad, now]
            before = loss if req == 'add' else 0, 0
        else:
            if inplace:
                direct.grads[0], req = direct.inputs[0], 'inplace'
                grad = inputs[0]
            head = np.random.RandomState(number).randint(-3, 4, loss.shape)
            with np.errstate(all='ignore'):
                want = center_loss(*(kept or inputs), head, **arguments)
                moved = now + (want.centers - kept[2] if moves else 0)
            direct.backward(req, label_req, head)
            want = [loss, result(req, grad, want.grad), moved]
            before = 0, grad if req == 'add' else 0
            assert_array_equal(direct.values()[3], {
                'write': 0, 'inplace': 0, 'add': label_grad, 'null': label_grad}[label_req])
            moves = False
        check(direct.values()[:3], want, inputs[0] if kept is None else kept[0], now, arguments,
              before)


def result(req, old, value):
    """What is stored: `check` adds what was there before."""
    return old if req == 'null' else value


# N, d, C, classes used. The kernels change their ways with size and number of duplicates.
@pytest.mark.parametrize('size', [(300, 70, 20, 20), (300, 70, 400, 400), (300, 70, 100, 2),
                                  (40, 513, 60, 60), (64, 300, 1500, 1500)], ids=str)
def test_sizes(size):
    data, label, centers = batch(*size[:3], used=size[3])
    arguments = dict(num_class=size[2], alpha=.7, scale=.3)
    got = imperative(data, label, centers, **arguments)
    check(got, center_loss(data, label, centers, **arguments), data, centers, arguments)
    absent = np.setdiff1d(np.arange(len(centers)), label)
    assert_array_equal(got.centers[absent], centers[absent])


@pytest.mark.parametrize('name', ['alpha', 'scale'])
def test_any_finite_rate(name):
    """Also one that no float32 holds: no center becomes infinite."""
    data, label, centers = batch(6, 3, 4)
    for value in 5e-324, 1e-44, 1e-37, 1e37, 1.7e308:
        got = imperative(data, label, centers, num_class=4, **{name: value})
        with np.errstate(over='ignore'):
            want = center_loss(data, label, centers, **{name: value})
        assert_allclose(got.loss, want.loss, rtol=1e-5)
        assert np.isfinite(got.centers).all()
        if value < 1:
            assert_allclose(got.grad, want.grad, **tolerance('float32', data, centers))
            assert_allclose(got.centers, want.centers, **tolerance('float32', data, centers))
