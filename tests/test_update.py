"""Centers of features that no gradient flows to: CenterLoss.update, and what is said without it."""
import gc

from center_loss_op._operator import step
from center_loss_op.gluon import CenterLoss, CenterTrainer
from center_loss_op.symbol import center_loss

import mxnet as mx
import numpy as np
import oracle
import pytest
from entries import array
from mxnet import autograd
from numpy.testing import assert_allclose

RANDOM = np.random.RandomState(7)
DATA = RANDOM.randn(6, 3).astype('float32')
LABEL = np.array([0, 1, 1, 2, 0, 0], 'float32')
STATIC = dict(static_alloc=True, static_shape=True)


def made(hybridize=None, **arguments):
    loss = CenterLoss(4, **arguments)
    loss.initialize()
    if hybridize:
        loss.hybridize(**hybridize)
    return loss


# -- CenterLoss.update; test_gluon.py has it among random steps


def test_numpy_arrays():
    with mx.util.np_shape(True), mx.util.np_array(True):
        loss = made(in_units=3)
        loss.update(mx.np.array(DATA), mx.np.array(LABEL))
        want = oracle.center_loss(DATA, LABEL, np.zeros((4, 3))).centers
        assert_allclose(loss.centers.data().asnumpy(), want, rtol=1e-5)


def test_each_context_moves_its_own():
    contexts = [mx.cpu(0), mx.cpu(1)]
    loss = CenterLoss(4, 3)
    loss.initialize(ctx=contexts)
    for context, factor in zip(contexts, (1, 2)):
        loss.update(mx.nd.array(DATA * factor, ctx=context), mx.nd.array(LABEL, ctx=context))
        want = oracle.center_loss(DATA * factor, LABEL, np.zeros((4, 3))).centers
        assert_allclose(loss.centers.data(context).asnumpy(), want, rtol=1e-5)


def test_while_recording():
    """Nothing of it enters the loss that is being recorded."""
    loss, x = made(in_units=3), array(DATA)
    x.attach_grad()
    with autograd.record():
        value = (x * x).sum()
        loss.update(x, array(LABEL))
    value.backward()
    assert_allclose(x.grad.asnumpy(), 2 * DATA)
    assert loss.centers.data().asnumpy().any()


@pytest.mark.parametrize('samples', [1, 20])
def test_start_and_limit_of_convergence(samples):
    """With α = 1 a center at 0 becomes n / (1 + n) of the mean. A center is multiplied by
    1 − α n / (1 + n) with each step to 0: above 2 (1 + n) / n it grows without end."""
    loss = CenterLoss(1, 1, alpha=1)
    loss.initialize()
    loss.update(mx.nd.ones((samples, 1)), mx.nd.zeros(samples))
    assert_allclose(loss.centers.data().asscalar(), samples / (1 + samples), rtol=1e-6)
    limit = 2 * (1 + samples) / samples
    for alpha, (low, high) in (limit * 0.95, (0, 0.1)), (limit * 1.05, (100, np.inf)):
        loss.alpha = alpha
        loss.centers.set_data(mx.nd.ones((1, 1)))
        for _ in range(100):
            loss.update(mx.nd.zeros((samples, 1)), mx.nd.zeros(samples))
        assert low < abs(loss.centers.data().asscalar()) < high


# -- what is said where nothing moves


def frozen(loss, x, label):
    return loss(x, label)


def detached(loss, x, label):
    x.attach_grad()
    return loss((2 * x).detach(), label) + x.sum()


def blocked(loss, x, label):
    x.attach_grad()
    return loss(mx.nd.BlockGrad(2 * x), label) + x.sum()


def not_added(loss, x, label):
    x.attach_grad()
    loss(x, label)
    return x.sum()


def train(loss, forward, steps):
    for _ in range(steps):
        x = array(DATA)
        with autograd.record():
            value = forward(loss, x, array(LABEL))
        if forward is not frozen:
            value.backward()
    del value
    mx.nd.waitall()
    gc.collect()  # an operator is freed with the cycle that MXNet ties it into


@pytest.mark.parametrize('forward, hybridize', [
    (frozen, None), (frozen, STATIC), (detached, None), (blocked, STATIC), (not_added, None)])
def test_one_warning_where_no_backward_pass_comes_by(forward, hybridize, log):
    loss = made(hybridize, in_units=3, alpha=RANDOM.rand())  # arguments that no other test has
    for _ in range(3):      # none for a few with backward passes between
        train(loss, not_added, step.MANY_WITHOUT_BACKWARD // 2)
        train(loss, lambda *args: (args[1].attach_grad(), loss(*args[1:]))[1], 1)
    assert not log()
    loss.centers.set_data(mx.nd.zeros((4, 3)))
    train(loss, forward, 3 * step.MANY_WITHOUT_BACKWARD)
    assert not loss.centers.data().asnumpy().any()
    assert log().count('had no backward pass') == 1
    assert 'CenterLoss.update(embedding, label)' in log() and 'attach_grad' in log()


def test_no_warning_for_inference_or_frozen_centers(log):
    loss = made(in_units=3, alpha=RANDOM.rand())
    for _ in range(3 * step.MANY_WITHOUT_BACKWARD):
        loss(array(DATA), array(LABEL)).wait_to_read()
    train(made(in_units=3, alpha=0), frozen, 3 * step.MANY_WITHOUT_BACKWARD)
    assert not log()


def fitted(log, embedding, **arguments):
    label = mx.sym.var('softmax_label')
    scores = mx.sym.FullyConnected(embedding, num_hidden=4, name='scores')
    net = mx.mod.Module(mx.sym.Group([
        mx.sym.SoftmaxOutput(scores, label, name='softmax'),
        center_loss(embedding, label, 4, alpha=RANDOM.rand(), name='c')]), **arguments)
    net.fit(mx.io.NDArrayIter(DATA, LABEL), num_epoch=2 * step.MANY_WITHOUT_BACKWARD,
            eval_metric=mx.metric.Accuracy(output_names=['softmax_output']))
    return log()


def embedding(**arguments):
    return mx.sym.FullyConnected(mx.sym.var('data'), num_hidden=3, name='embedding', **arguments)


def test_fixed_parameters_of_a_module(log):
    text = fitted(log, embedding(), fixed_param_names=['embedding_weight', 'embedding_bias'])
    assert text.count('had no backward pass') == 1 and 'fixed_param_names' in text


def test_the_way_out_of_fixed_parameters(log):
    """What the warning advises for a Module."""
    label, features = mx.sym.var('softmax_label'), embedding()
    net = mx.mod.Module(center_loss(features, label, 4, name='c'),
                        fixed_param_names=['embedding_weight', 'embedding_bias'])
    batches = mx.io.NDArrayIter(DATA, LABEL)
    net.bind(batches.provide_data, batches.provide_label, inputs_need_grad=True)
    net.fit(batches, num_epoch=2 * step.MANY_WITHOUT_BACKWARD, eval_metric=mx.metric.Loss())
    assert net.get_params()[1]['c_center_bias'].asnumpy().any()
    assert not log()


def test_a_trainer_whose_step_is_never_called(log):
    loss = made(in_units=3)
    _trainer = CenterTrainer(loss)
    for _ in range(100):
        loss.update(array(DATA), array(LABEL))
    mx.nd.waitall()
    assert log().count('no step of its CenterTrainer') == 1
