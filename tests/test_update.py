"""Centers of features that no gradient flows to: CenterLoss.update, and what is said without it."""
import gc

from center_loss_op._operator.step import MANY_WITHOUT_BACKWARD
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


def made(**arguments):
    loss = CenterLoss(4, 3, **arguments)
    loss.initialize()
    return loss


# -- CenterLoss.update; test_gluon.py has it among random steps


def test_numpy_arrays():
    with mx.util.np_shape(True), mx.util.np_array(True):
        loss = made()
        loss.update(mx.np.array(DATA), mx.np.array(LABEL))
        want = oracle.center_loss(DATA, LABEL, np.zeros((4, 3))).centers
        assert_allclose(loss.centers.data().asnumpy(), want, rtol=1e-5)


def test_while_recording():
    """Nothing of it enters the loss that is being recorded."""
    loss, x = made(), array(DATA)
    x.attach_grad()
    with autograd.record():
        value = (x * x).sum()
        loss.update(x, array(LABEL))
    value.backward()
    assert_allclose(x.grad.asnumpy(), 2 * DATA)
    assert loss.centers.data().asnumpy().any()


# -- what is said if nothing moves


def frozen(loss, x, label):
    return loss(x, label)


def detached(loss, x, label):
    x.attach_grad()
    return loss((2 * x).detach(), label) + x.sum()


def not_added(loss, x, label):
    x.attach_grad()
    loss(x, label)
    return x.sum()


def trained(loss, x, label):
    x.attach_grad()
    return loss(x, label)


def train(steps, *pairs):
    """Steps of some (forward, loss) in turns."""
    for _ in range(steps):
        for forward, loss in pairs:
            x = array(DATA)
            with autograd.record():
                value = forward(loss, x, array(LABEL))
            if forward is not frozen:
                value.backward()
            del value
    mx.nd.waitall()
    gc.collect()  # an operator is freed with the cycle that MXNet ties it into


@pytest.mark.parametrize('forward, hybridize', [
    (frozen, False), (frozen, True), (detached, True), (not_added, False)])
@pytest.mark.usefixtures('backend')
def test_one_warning_if_no_backward_pass_comes(forward, hybridize, log):
    loss = made(alpha=RANDOM.rand())  # arguments that no other test has
    loss.hybridize(hybridize, static_alloc=True, static_shape=True)
    for _ in range(3):      # none for a few with backward passes between
        train(MANY_WITHOUT_BACKWARD // 2, (not_added, loss))
        train(1, (trained, loss))
    assert not log()
    loss.centers.set_data(mx.nd.zeros((4, 3)))
    # Backward passes of another loss do not hide it, whatever its arguments.
    train(3 * MANY_WITHOUT_BACKWARD, (forward, loss), (trained, made(alpha=loss.alpha)))
    assert not loss.centers.data().asnumpy().any()
    train(1, (trained, loss))
    train(MANY_WITHOUT_BACKWARD, (forward, loss))
    assert log().count('had no backward pass') == 1
    assert 'CenterLoss.update(embedding, label)' in log() and 'attach_grad' in log()


@pytest.mark.usefixtures('backend')
def test_no_warning_for_inference_or_frozen_centers(log):
    loss = made(alpha=RANDOM.rand())
    for _ in range(3 * MANY_WITHOUT_BACKWARD):
        loss(array(DATA), array(LABEL)).wait_to_read()
    train(3 * MANY_WITHOUT_BACKWARD, (frozen, made(alpha=0)))
    assert not log()


@pytest.mark.parametrize('way_out', [False, True])
def test_fixed_parameters_of_a_module(way_out, log):
    """The warning, and what it advises for a Module."""
    label = mx.sym.var('softmax_label')
    features = mx.sym.FullyConnected(mx.sym.var('data'), num_hidden=3, name='embedding')
    net = mx.mod.Module(center_loss(features, label, 4, alpha=RANDOM.rand(), name='c'),
                        fixed_param_names=['embedding_weight', 'embedding_bias'])
    batches = mx.io.NDArrayIter(DATA, LABEL)
    net.bind(batches.provide_data, batches.provide_label, inputs_need_grad=way_out)
    net.fit(batches, num_epoch=2 * MANY_WITHOUT_BACKWARD, eval_metric=mx.metric.Loss())
    assert net.get_params()[1]['c_center_bias'].asnumpy().any() == way_out
    assert log().count('had no backward pass') == log().count('inputs_need_grad') == (not way_out)


def test_a_trainer_whose_step_is_never_called(log):
    loss = made()
    _trainer = CenterTrainer(loss)
    for _ in range(100):
        loss.update(array(DATA), array(LABEL))
    mx.nd.waitall()
    assert log().count('no step of its CenterTrainer') == 1
