"""Center loss where NumPy cannot reach the memory, as on a GPU.

    CENTER_LOSS_TEST_CTX='gpu(0)' python -m pytest -m device
    CENTER_LOSS_TEST_CTX='gpu(0), gpu(1)' python -m pytest -m device

runs these tests on real devices, and skips them if MXNet finds none. Without the variable they run
on contexts of the CPU that are treated as devices: rows are copied to the host and back.
"""
import os
import re

from center_loss_op import CenterLoss, center_loss, nearest_center
from center_loss_op.gluon import CenterTrainer

import mxnet as mx
import numpy as np
import oracle
import pytest
from cases import batch
from mxnet import autograd
from numpy.testing import assert_allclose

pytestmark = pytest.mark.device
DATA, LABEL, CENTERS = batch(7, 5, 9)


@pytest.fixture(name='contexts')
def fixture_contexts(request):
    """Two contexts; the same one twice if there is one device."""
    wanted = re.findall(r'(\w+)\((\d+)\)', os.environ.get('CENTER_LOSS_TEST_CTX', ''))
    if not wanted:
        request.getfixturevalue('copies')
        return mx.cpu(0), mx.cpu(1)
    for kind, number in wanted:
        if kind == 'gpu' and int(number) >= mx.context.num_gpus():
            pytest.skip(f'MXNet finds {mx.context.num_gpus()} GPUs')
    contexts = [mx.Context(kind, int(number)) for kind, number in wanted]
    return contexts[0], contexts[-1]


def on(context, values, dtype=None):
    return mx.nd.array(values, context, dtype or values.dtype)


def made(contexts, centers=CENTERS, **arguments):
    loss = CenterLoss(len(centers), in_units=centers.shape[1], **arguments)
    loss.initialize(ctx=list(dict.fromkeys(contexts)))
    loss.cast(centers.dtype)
    loss.centers.set_data(mx.nd.array(centers, dtype=centers.dtype))
    return loss


def step(loss, context, data=DATA, label=LABEL, *weight):
    """Loss and gradient of a training step."""
    x = on(context, data)
    x.attach_grad()
    with autograd.record():
        value = loss(x, on(context, label), *(on(context, each) for each in weight))
    value.backward()
    return value.asnumpy(), x.grad.asnumpy()


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
def test_two_steps(contexts, dtype, hybridize):
    data, label, centers = batch(7, 5, 9, dtype)
    loss = made(contexts[:1], centers, alpha=.7, weight=.3)
    if hybridize:
        loss.hybridize()
    rounding = {'float16': 1e-2, 'float32': 1e-5, 'float64': 1e-12}[dtype]
    for _ in range(2):
        value, grad = step(loss, contexts[0], data, label)
        want = oracle.center_loss(data, label, centers, alpha=.7, scale=.3, reduction='none',
                                  scale_output=True)
        assert_allclose(value, want.loss, rounding)
        assert_allclose(grad, want.grad, rounding, rounding)
        centers = loss.centers.data(contexts[0]).asnumpy()
        assert_allclose(centers, want.centers, rounding, rounding)


def test_ignored_labels_and_weights(contexts):
    label, weight = LABEL.copy(), np.arange(7, dtype='float32')
    label[::3] = 255
    loss = made(contexts[:1], use_ignore=True, ignore_label=255)
    value, grad = step(loss, contexts[0], DATA, label, weight)
    want = oracle.center_loss(DATA, label, CENTERS, weight, reduction='none', use_ignore=True,
                              ignore_label=255, need_top_grad=True)
    assert_allclose(value, weight * want.loss, 1e-5)
    assert_allclose(grad, want.grad, 1e-5)
    assert_allclose(loss.centers.data(contexts[0]).asnumpy(), want.centers, 1e-5)


def test_features_that_are_not_finite_and_bad_labels(contexts):
    data, label = DATA.copy(), LABEL.copy()
    data[2, 1] = np.nan
    loss = made(contexts[:1])
    value, _ = step(loss, contexts[0], data)
    assert np.isnan(value[2]) and np.isfinite(np.delete(value, 2)).all()
    want = oracle.center_loss(data, LABEL, CENTERS).centers
    assert_allclose(loss.centers.data(contexts[0]).asnumpy(), want, 1e-5)
    label[4] = 9
    with pytest.raises(mx.MXNetError):
        step(loss, contexts[0], DATA, label)
    assert_allclose(loss.centers.data(contexts[0]).asnumpy(), want, 1e-5)


def test_a_graph_that_adds_to_a_gradient(contexts):
    symbol = center_loss(mx.sym.var('data'), mx.sym.var('label'), 9, scale=.3, name='loss')
    arrays = {'data': on(contexts[0], DATA), 'label': on(contexts[0], LABEL)}
    executor = symbol.bind(contexts[0], arrays, {'data': mx.nd.ones((7, 5), contexts[0])},
                           {'data': 'add', 'label': 'null'}, [on(contexts[0], CENTERS)])
    loss, = executor.forward(is_train=True)
    executor.backward()
    want = oracle.center_loss(DATA, LABEL, CENTERS, scale=.3, reduction='none')
    assert_allclose(loss.asnumpy(), want.loss, 1e-5)
    assert_allclose(executor.grad_dict['data'].asnumpy(), 1 + want.grad, 1e-5)
    assert_allclose(executor.aux_arrays[0].asnumpy(), want.centers, 1e-5)


def test_update(contexts):
    loss = made(contexts[:1], alpha=.9)
    loss.update(on(contexts[0], DATA), on(contexts[0], LABEL))
    assert_allclose(loss.centers.data(contexts[0]).asnumpy(),
                    oracle.center_loss(DATA, LABEL, CENTERS, alpha=.9).centers, 1e-5)


def test_a_trainer_of_two_contexts(contexts):
    loss = made(contexts)
    trainer = CenterTrainer(loss)
    halves = [(DATA[:3], LABEL[:3]), (DATA[3:], LABEL[3:])]
    for context, (data, label) in zip(contexts, halves):
        step(loss, context, data, label)
    trainer.step()
    want = oracle.center_loss(DATA, LABEL, CENTERS).centers
    copies = [copy.asnumpy() for copy in loss.centers.list_data()]
    assert_allclose(copies[0], want, 1e-5)
    np.testing.assert_array_equal(copies[0], copies[-1])


def test_nearest_center(contexts):
    label, distance = nearest_center(on(contexts[0], DATA), on(contexts[0], CENTERS))
    between = np.linalg.norm(DATA[:, None].astype('float64') - CENTERS, axis=2)
    np.testing.assert_array_equal(label.asnumpy(), between.argmin(axis=1))
    assert_allclose(distance.asnumpy(), between.min(axis=1), 1e-5)
    assert label.context == distance.context == contexts[0]
