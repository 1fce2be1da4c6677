"""What a user writes first: the names that an import brings, and what an error says to write."""
from center_loss_op.gluon import CenterLoss

import mxnet as mx
import numpy as np
import pytest
from entries import array, custom
from mxnet import autograd, gluon
from numpy.testing import assert_allclose

DATA = np.array([[2, 0], [0, 2], [1, 1]], 'float32')
LABEL = np.array([0, 1, 1], 'float32')


def test_import_of_everything_replaces_nothing_of_mxnets(child):
    done = child('import center_loss_op, mxnet as mx\nfrom mxnet import gluon, module, symbol\n'
                 'from center_loss_op import *\n'
                 'assert (gluon, module, symbol) == (mx.gluon, mx.module, mx.symbol)\n'
                 'gluon.Trainer, nearest_center, legacy')
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('label, arguments, hint', [
    (-1, {}, 'set use_ignore=True'), (255, {'ignore_label': 255}, 'set use_ignore=True'),
    (-1, {'ignore_label': 255}, None), (-1, {'use_ignore': True, 'ignore_label': 255}, None)])
def test_the_label_to_ignore_where_nothing_is_ignored(label, arguments, hint, log):
    with pytest.raises(mx.MXNetError):
        custom(array(DATA), mx.nd.array([0, label, 1]), mx.nd.zeros((2, 2)), num_class=2,
               **arguments).asnumpy()
    assert 'label[1] is %d' % label in log()
    assert ('use_ignore' in log()) == bool(hint)


@pytest.mark.parametrize('name', ['data', 'label', 'center_bias'])
def test_arrays_by_name(name, log):
    with pytest.raises(mx.MXNetError):
        mx.nd.Custom(**{name: array(DATA)}, op_type='centerloss', num_class=2)
    assert name + ' is an array, and mx.nd.Custom takes arrays by their position' in log()


class Net(gluon.HybridBlock):
    """Embedding and scores; MXNet has no float16 product on the CPU."""

    def __init__(self):
        super().__init__()
        self.factor = self.params.get('factor', shape=(1, 2), init='ones')

    def hybrid_forward(self, F, x, factor):
        return F.broadcast_mul(x, factor), 0 * F.broadcast_mul(x, factor)


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
def test_the_sum_of_losses_of_a_cast_net(dtype, hybridize):
    """As the README writes it; float64 centers have to be asked for."""
    net, softmax_loss, loss = Net(), gluon.loss.SoftmaxCrossEntropyLoss(), CenterLoss(2, weight=.1)
    for block in (net, loss):
        block.initialize()
        block.hybridize(hybridize)
    net.cast(dtype)
    if dtype == 'float64':
        loss.cast(dtype)
    x, label = array(DATA.astype(dtype)), array(LABEL)
    with autograd.record():
        embedding, scores = net(x)
        total = softmax_loss(scores, label) + loss(embedding, label)
    total.backward()
    # By hand: the embedding is the data, and all scores are equal.
    assert_allclose(total.asnumpy(), np.log(2) + 0.1 * np.array([2, 2, 1]), rtol=1e-3)
    assert total.dtype == np.dtype(dtype)
    assert_allclose(net.factor.grad().asnumpy(), [[.1 * (4 + 0 + 1), .1 * (0 + 4 + 1)]], rtol=1e-3)
    assert_allclose(loss.centers.data().asnumpy(), [[.5, 0], [1 / 6, .5]], rtol=1e-3)


@pytest.mark.parametrize('call', [lambda loss: loss, lambda loss: loss.update])
@pytest.mark.parametrize('embedding, label', [(DATA, LABEL), (array(DATA), [0, 1, 1])])
def test_other_arrays_than_mxnets(call, embedding, label):
    with pytest.raises(TypeError, match='embedding and label must be NDArrays'):
        call(CenterLoss(2))(embedding, label)
