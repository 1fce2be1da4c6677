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

import hypothesis
import mxnet as mx
import numpy as np
import oracle
import pytest
from cases import batch
from entries import settle
from hypothesis import strategies as st
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


def on(context, values):
    return mx.nd.array(values, context, values.dtype)


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


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=20)
def test_any_step(contexts, data):
    """Of any dtype, with ignored and bad labels, weights, and features that are not finite."""
    draw = data.draw
    dtype = draw(st.sampled_from(['float16', 'float32', 'float64']))
    x, label, centers = batch(7, 5, 9, dtype, seed=draw(st.integers(0, 99)))
    if draw(st.booleans()):
        x[2, 1] = np.nan
    arguments = dict(use_ignore=draw(st.booleans()), ignore_label=3, alpha=.7)
    loss = made(contexts[:1], centers, weight=.3, **arguments)
    loss.hybridize(draw(st.booleans()))
    weight = np.arange(7, dtype=dtype) if draw(st.booleans()) else np.ones(7, dtype)
    rounding = {'float16': 1e-2, 'float32': 1e-5, 'float64': 1e-12}[dtype]
    for bad in draw(st.lists(st.booleans(), max_size=2)) + [False]:
        if bad:
            with pytest.raises(mx.MXNetError):
                step(loss, contexts[0], x, np.where(np.arange(7) == 4, 9, label), weight)
            settle()
        else:
            found = step(loss, contexts[0], x, label, weight)
            want = oracle.center_loss(x, label, centers, weight, scale=.3, reduction='none',
                                      scale_output=True, need_top_grad=True, **arguments)
            assert_allclose(found[0], weight * want.loss, rounding, rounding)
            assert_allclose(found[1], want.grad, rounding, rounding)
            centers = want.centers
        assert_allclose(loss.centers.data(contexts[0]).asnumpy(), centers, rounding, rounding)


def test_a_graph_that_adds_to_a_gradient(contexts):
    symbol = center_loss(mx.sym.var('data'), mx.sym.var('label'), 9, scale=.3, name='loss')
    arrays = {'data': on(contexts[0], DATA), 'label': on(contexts[0], LABEL)}
    executor = symbol.bind(contexts[0], arrays, {'data': mx.nd.ones((7, 5), contexts[0])},
                           {'data': 'add', 'label': 'null'}, [on(contexts[0], CENTERS)])
    executor.forward(is_train=True)
    executor.backward()
    want = oracle.center_loss(DATA, LABEL, CENTERS, scale=.3, reduction='none')
    assert_allclose(executor.grad_dict['data'].asnumpy(), 1 + want.grad, 1e-5)
    assert_allclose(executor.aux_arrays[0].asnumpy(), want.centers, 1e-5)


def test_update_and_a_trainer_of_two_contexts(contexts):
    loss = made(contexts)
    for context in dict.fromkeys(contexts):
        loss.update(on(context, DATA), on(context, LABEL))
    moved = oracle.center_loss(DATA, LABEL, CENTERS).centers
    trainer = CenterTrainer(loss)
    for context, rows in zip(contexts, (slice(3), slice(3, None))):
        step(loss, context, DATA[rows], LABEL[rows])
    trainer.step()
    copies = [copy.asnumpy() for copy in loss.centers.list_data()]
    assert_allclose(copies[0], oracle.center_loss(DATA, LABEL, moved).centers, 1e-5)
    np.testing.assert_array_equal(copies[0], copies[-1])


def test_nearest_center(contexts):
    label, distance = nearest_center(on(contexts[0], DATA), on(contexts[0], CENTERS))
    between = np.linalg.norm(DATA[:, None].astype('float64') - CENTERS, axis=2)
    np.testing.assert_array_equal(label.asnumpy(), between.argmin(axis=1))
    assert_allclose(distance.asnumpy(), between.min(axis=1), 1e-5)
    assert label.context == distance.context == contexts[0]
