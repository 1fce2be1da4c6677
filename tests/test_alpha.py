"""α and λ, set while training: eager, hybridized, in other blocks, with a trainer, in a Module.

By hand: from a center at 0, one sample [4] of a class moves it by α · 4 / 2.
"""
from center_loss_op import module as center_module
from center_loss_op.gluon import CenterLoss, CenterTrainer
from center_loss_op.symbol import center_loss

import mxnet as mx
import numpy as np
import pytest
from entries import Inside
from mxnet import autograd
from numpy.testing import assert_allclose

FEATURE, LABEL = mx.nd.array([[4]]), mx.nd.array([0])
HYBRIDIZE = pytest.mark.parametrize('hybridize', [
    {}, dict(static_alloc=False), dict(static_alloc=True, static_shape=True)])


def step_from_zero(net, loss):
    """The loss, and its gradient."""
    loss.centers.set_data(mx.nd.zeros((2, 1)))
    feature = FEATURE.copy()
    feature.attach_grad()
    with autograd.record():
        value = net(feature, LABEL)
    value.backward()
    return value.asscalar(), feature.grad.asscalar()


def moved(net, loss, trainer=None):
    """The center after a step from 0."""
    step_from_zero(net, loss)
    if trainer:
        trainer.step()
    return loss.centers.data()[0].asscalar()


@HYBRIDIZE
@pytest.mark.parametrize('around', [lambda loss: loss, Inside, lambda loss: Inside(Inside(loss))])
def test_between_steps(around, hybridize):
    loss = CenterLoss(2, 1, alpha=0.5)
    net = around(loss)
    net.initialize()
    if hybridize:
        net.hybridize(**hybridize)
    assert moved(net, loss) == 1
    for alpha in (1, 0.25, 0, 0.5):
        loss.alpha = alpha
        assert loss.alpha == alpha
        assert moved(net, loss) == 2 * alpha
    loss.alpha = np.float32(1)
    assert moved(net, loss) == 2


@HYBRIDIZE
def test_weight_between_steps(hybridize):
    """λ, too: by hand, ½ · 4² and its gradient, weighed."""
    loss = CenterLoss(2, 1, weight=0.5)
    net = Inside(loss)
    net.initialize()
    if hybridize:
        net.hybridize(**hybridize)
    for weight in (0.5, 2, 0, None):
        loss.weight = weight
        factor = 1 if weight is None else weight
        assert step_from_zero(net, loss) == (8 * factor, 4 * factor)
    with pytest.raises(ValueError, match='^weight must be a finite number >= 0, got -1'):
        loss.weight = -1
    assert loss.weight is None


def test_is_exported(tmp_path):
    """The graph that is written has the α of now."""
    loss = CenterLoss(2, 1)
    net = Inside(loss)
    net.initialize()
    net.hybridize()
    net(FEATURE, LABEL)
    loss.alpha = 0.125
    net(FEATURE, LABEL)
    net.export(str(tmp_path / 'net'))
    assert '"alpha": "0.125"' in (tmp_path / 'net-symbol.json').read_text()


@HYBRIDIZE
def test_with_a_trainer(hybridize):
    """Which may come after the first forward pass of a hybridized net around the loss."""
    loss = CenterLoss(2, 1)
    net = Inside(loss)
    net.initialize()
    if hybridize:
        net.hybridize(**hybridize)
    assert moved(net, loss) == 1
    trainer = CenterTrainer(loss)
    assert moved(net, loss, trainer) == 1
    loss.alpha = 0.25
    assert moved(net, loss, trainer) == 0.5


@pytest.mark.parametrize('given, error', [(-1, ValueError), (float('nan'), ValueError),
                                          ('fast', TypeError), (None, TypeError)])
def test_is_checked(given, error):
    loss = CenterLoss(2, 1)
    with pytest.raises(error, match='^alpha must be a finite number >= 0, got '):
        loss.alpha = given
    assert loss.alpha == 0.5


def test_in_a_module():
    """A CenterTrainer's α, between epochs."""
    data, label = mx.sym.var('data'), mx.sym.var('label')
    features = mx.sym.FullyConnected(data, num_hidden=1, no_bias=True, name='features')
    loss = center_loss(features, label, 2, scale=0, key='alpha', name='c')
    net = mx.mod.Module(loss, label_names=['label'])
    trainer = center_module.CenterTrainer('alpha')
    assert trainer.alpha is None
    read = []

    def at_the_end(epoch, symbol, arguments, states):
        read.append(states['c_center_bias'][0].asscalar())
        trainer.alpha = 0.25

    net.fit(mx.io.NDArrayIter(FEATURE, LABEL, label_name='label'), num_epoch=2,
            initializer=mx.init.One(), eval_metric=mx.metric.Loss(), batch_end_callback=trainer,
            epoch_end_callback=at_the_end)
    # With the node's 0.5 from 0, then with 0.25 from there.
    assert_allclose(read, [1, 1 + 0.25 * 3 / 2])


@pytest.mark.parametrize('samples', [1, 20])
def test_limit_of_convergence(samples):
    """The center of n samples at 0 is multiplied by 1 − α n / (1 + n): above 2 (1 + n) / n it
    grows without end."""
    def after_100_steps(alpha):
        loss = CenterLoss(1, 1, alpha=alpha, center_initializer='ones')
        loss.initialize()
        for _ in range(100):
            loss.update(mx.nd.zeros((samples, 1)), mx.nd.zeros(samples))
        return abs(loss.centers.data().asscalar())
    limit = 2 * (1 + samples) / samples
    assert after_100_steps(limit * 0.95) < 0.1
    assert after_100_steps(limit * 1.05) > 100
