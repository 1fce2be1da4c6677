"""The loss beside the rest of Gluon: a small net with a classifier, trained in each way."""
import sys
from pathlib import Path

from center_loss_op.gluon import CenterLoss

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from oracle import center_loss as oracle
from oracle import tolerance

SAMPLES, SIZE, EMBEDDING, CLASSES, WEIGHT = 8, 5, 3, 4, 0.1


class Net(gluon.HybridBlock):
    """Returns scores and embedding; the loss is a child, so that it is saved with the net."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.embedding = gluon.nn.Dense(EMBEDDING, in_units=SIZE)
            self.classifier = gluon.nn.Dense(CLASSES, in_units=EMBEDDING)
            self.center_loss = CenterLoss(CLASSES, EMBEDDING, weight=WEIGHT)

    def hybrid_forward(self, F, x):
        embedding = self.embedding(x)
        return self.classifier(embedding), embedding


class JointLoss(gluon.loss.Loss):
    """Softmax cross entropy and center loss."""

    def __init__(self, center_loss):
        super().__init__(weight=None, batch_axis=0)
        self.softmax = gluon.loss.SoftmaxCrossEntropyLoss()
        self.center_loss = center_loss

    def hybrid_forward(self, F, outputs, label):
        scores, embedding = outputs
        return self.softmax(scores, label) + self.center_loss(embedding, label)


def made_net(seed=0):
    mx.random.seed(seed)
    net = Net()
    net.initialize(mx.init.Xavier())
    return net


def batch(seed=0, samples=SAMPLES):
    rng = np.random.RandomState(seed)
    return (mx.nd.array(rng.standard_normal((samples, SIZE))),
            mx.nd.array(rng.randint(0, CLASSES, samples)))


def centers_of(net):
    return net.center_loss.centers.data().asnumpy()


def trainer_of(net, **arguments):
    return gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.1}, **arguments)


def check_centers(net, embedding, label, before):
    embedding, label = embedding.asnumpy(), label.asnumpy()
    np.testing.assert_allclose(centers_of(net), oracle(embedding, label, before).centers,
                               **tolerance('float32', embedding, before))


# amp.init patches MXNet for the rest of the process.
AMP = '''
import sys
sys.path[:0] = sys.argv[1].split(',')
dtype = sys.argv[2]
import center_loss_op
from mxnet import autograd
from mxnet.contrib import amp
from test_ecosystem import *
# MXNet's CPU has no float16 FullyConnected; tanh stands for the operators it has.
amp.init(dtype, **({'target_precision_ops': ['tanh'], 'fp32_ops': ['FullyConnected', 'Custom']}
                   if dtype == 'float16' else {}))
class HalfNet(Net):
    def hybrid_forward(self, F, x):
        embedding = self.embedding(x)
        if dtype == 'float16':
            embedding = F.tanh(embedding)
        # Imperative amp casts no float16 back to float32 on the CPU.
        return self.classifier(F.cast(embedding, 'float32')), embedding
for scaled, hybridize in (True, True), (True, False), (False, True), (False, False):
    net = HalfNet()
    net.initialize(mx.init.Xavier())
    trainer, joint = trainer_of(net, update_on_kvstore=False), JointLoss(net.center_loss)
    if scaled:
        amp.init_trainer(trainer)
        assert trainer._amp_loss_scaler.loss_scale > 1
    if hybridize:
        net.hybridize()
        joint.hybridize()
    weights = net.embedding.weight.data().asnumpy()
    for step in range(4):
        data, label = batch(step)
        before = centers_of(net)
        with autograd.record():
            scores, embedding = net(data)
            assert embedding.dtype != np.float32
            loss = joint((scores, embedding), label)
            if scaled:
                with amp.scale_loss(loss, trainer) as scaled_loss:
                    autograd.backward(scaled_loss)
            else:
                loss.backward()
        trainer.step(SAMPLES)
        check_centers(net, embedding.astype('float32'), label, before)
    assert centers_of(net).any()
    print(scaled, hybridize, abs(net.embedding.weight.data().asnumpy() - weights).max())
'''


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float16', pytest.param('bfloat16', marks=pytest.mark.skipif(
    'avx512' not in Path('/proc/cpuinfo').read_text(), reason='MXNet has bfloat16 with AVX-512'))])
def test_mixed_precision(child, dtype):
    done = child(AMP, ','.join(sys.path), dtype)
    assert done.returncode == 0, done.stderr
    moved = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(moved) == 4 and min(moved) > 0.005  # each net trained, scaled or not


def test_summary(capsys):
    net = made_net()
    net.center_loss.summary(net(batch()[0])[1], batch()[1])
    lines = capsys.readouterr().out.splitlines()
    total, = [line.split()[-1] for line in lines if 'Non-trainable params' in line]
    assert int(total) == CLASSES * EMBEDDING


# npx.set_np changes MXNet for the whole process.
NUMPY_INTERFACE = '''
import sys
sys.path[:0] = sys.argv[1].split(',')
import center_loss_op
from test_ecosystem import *
from center_loss_op import nearest_center
from mxnet import autograd
from center_loss_op.gluon import CenterTrainer
mx.npx.set_np()
rng = np.random.RandomState(0)
values, classes = rng.standard_normal((8, 3)).astype('float32'), rng.randint(0, 4, 8)
before = rng.standard_normal((4, 3)).astype('float32')
x = mx.np.array(values)
weighted = [rng.rand(8).astype('float32')]
for weights, hybridize in ([], False), (weighted, False), ([], True), (weighted, True):
    loss = CenterLoss(4, weight=WEIGHT)
    loss.initialize()
    if hybridize:
        loss.hybridize()
    for label in mx.np.array(classes), mx.np.array(classes[:, None], dtype='float32'):
        inputs = [x, label] + [mx.np.array(values) for values in weights]
        loss(*inputs)
        loss.centers.set_data(mx.np.array(before))
        x.attach_grad()
        with autograd.record():
            value = loss(*inputs)
        value.backward()
        assert type(value) is type(x.grad) is type(loss.centers.data()) is mx.np.ndarray
        head = WEIGHT * (weights[0] if weights else np.ones(8))
        expected = oracle(values, classes, before, head, reduction='none', need_top_grad=True)
        for got, wanted in ((value, expected.loss * head), (x.grad, expected.grad),
                            (loss.centers.data(), expected.centers)):
            np.testing.assert_allclose(got.asnumpy(), wanted, rtol=1e-5, atol=1e-6)
label, distance = nearest_center(loss.centers.data(), loss.centers.data())
assert type(label) is type(distance) is mx.np.ndarray
np.testing.assert_array_equal(label.asnumpy(), range(4))
np.testing.assert_array_equal(distance.asnumpy(), 0)
assert nearest_center(x[0:0], loss.centers.data())[0].shape == (0,)
# MXNet's load_parameters takes no mx.np arrays for a block without children.
net, other = gluon.nn.HybridSequential(), gluon.nn.HybridSequential()
net.add(loss)
other.add(CenterLoss(4, in_units=3))
net.save_parameters('net.params')
other.load_parameters('net.params')
assert (other[0].centers.data() == loss.centers.data()).all()
# Two contexts as one.
contexts = [mx.cpu(0), mx.cpu(1)]
loss = CenterLoss(4, in_units=3)
loss.initialize(ctx=contexts)
trainer = CenterTrainer(loss)
parts = gluon.utils.split_and_load(x, contexts)
for part in parts:
    part.attach_grad()
with autograd.record():
    losses = [loss(part, mx.np.array(half, ctx=part.ctx))
              for part, half in zip(parts, (classes[:4], classes[4:]))]
autograd.backward(losses)
trainer.step()
for context in contexts:
    np.testing.assert_allclose(loss.centers.data(context).asnumpy(),
                               oracle(values, classes, np.zeros((4, 3))).centers, rtol=1e-5)
data, label = mx.sym.var('data').as_np_ndarray(), mx.sym.var('label').as_np_ndarray()
try:
    mx.sym.Custom(data, label, op_type='centerloss', num_class=4)
except TypeError as error:
    print(error)
'''


@pytest.mark.slow
def test_numpy_interface(child):
    done = child(NUMPY_INTERFACE, ','.join(sys.path))
    assert done.returncode == 0, done.stderr
    # A symbol graph is legacy to MXNet, and it says what to do.
    assert 'as_nd_ndarray()' in done.stdout
