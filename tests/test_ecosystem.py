"""The loss next to parts of MXNet that change all of it: in processes of their own."""
import sys
from pathlib import Path

import pytest

# A net and a loss, each with center loss inside, under automatic mixed precision.
AMP = '''
import sys
sys.path[:0] = sys.argv[1].split(',')
dtype = sys.argv[2]
from center_loss_op.gluon import CenterLoss
import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.contrib import amp
from oracle import center_loss, tolerance
# MXNet's CPU has no float16 FullyConnected; tanh stands for the operators it has.
amp.init(dtype, **({'target_precision_ops': ['tanh'], 'fp32_ops': ['FullyConnected', 'Custom']}
                   if dtype == 'float16' else {}))
class Net(gluon.HybridBlock):
    def __init__(self):
        super().__init__()
        self.embedding = gluon.nn.Dense(3, in_units=5)
        self.classifier = gluon.nn.Dense(4, in_units=3)
    def hybrid_forward(self, F, x):
        embedding = self.embedding(x)
        if dtype == 'float16':
            embedding = F.tanh(embedding)
        # Imperative amp casts no float16 back to float32 on the CPU.
        return self.classifier(F.cast(embedding, 'float32')), embedding
class JointLoss(gluon.HybridBlock):
    def __init__(self):
        super().__init__()
        self.softmax = gluon.loss.SoftmaxCrossEntropyLoss()
        self.center_loss = CenterLoss(4, 3, weight=0.1)
    def hybrid_forward(self, F, scores, embedding, label):
        return self.softmax(scores, label) + self.center_loss(embedding, label)
random = np.random.RandomState(0)
for scaled, hybridize in (True, True), (True, False), (False, True), (False, False):
    net, joint = Net(), JointLoss()
    net.initialize(mx.init.Xavier())
    joint.initialize()
    net.hybridize(hybridize)
    joint.hybridize(hybridize)
    trainer = gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.1},
                            update_on_kvstore=False)
    if scaled:
        amp.init_trainer(trainer)
        assert trainer._amp_loss_scaler.loss_scale > 1
    weights = net.embedding.weight.data().asnumpy()
    for step in range(4):
        label = random.randint(0, 4, 8)
        before = joint.center_loss.centers.data().asnumpy()
        with autograd.record():
            scores, embedding = net(mx.nd.array(random.standard_normal((8, 5))))
            assert embedding.dtype != np.float32
            loss = joint(scores, embedding, mx.nd.array(label))
            if scaled:
                with amp.scale_loss(loss, trainer) as scaled_loss:
                    autograd.backward(scaled_loss)
            else:
                loss.backward()
        trainer.step(8)
        found = embedding.astype('float32').asnumpy()
        np.testing.assert_allclose(joint.center_loss.centers.data().asnumpy(),
                                   center_loss(found, label, before).centers,
                                   **tolerance('float32', found, before))
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


# As after npx.set_np().
NUMPY_INTERFACE = '''
import sys
sys.path[:0] = sys.argv[1].split(',')
from center_loss_op.gluon import CenterLoss, CenterTrainer
import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from oracle import center_loss
mx.npx.set_np()
random = np.random.RandomState(0)
values, classes = random.standard_normal((8, 3)).astype('float32'), random.randint(0, 4, 8)
before = random.standard_normal((4, 3)).astype('float32')
x, weights = mx.np.array(values), random.rand(8).astype('float32')
for weighted, hybridize in (False, False), (True, False), (False, True), (True, True):
    loss = CenterLoss(4, weight=0.1)
    loss.initialize()
    loss.hybridize(hybridize)
    inputs = [x, mx.np.array(classes), mx.np.array(weights)][:2 + weighted]
    loss(*inputs)
    loss.centers.set_data(mx.np.array(before))
    x.attach_grad()
    with autograd.record():
        value = loss(*inputs)
    value.backward()
    assert type(value) is type(x.grad) is type(loss.centers.data()) is mx.np.ndarray
    head = 0.1 * (weights if weighted else np.ones(8))
    want = center_loss(values, classes, before, head, reduction='none', need_top_grad=True)
    for got, wanted in ((value, want.loss * head), (x.grad, want.grad),
                        (loss.centers.data(), want.centers)):
        np.testing.assert_allclose(got.asnumpy(), wanted, rtol=1e-5, atol=1e-6)
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
halves = gluon.utils.split_and_load(x, contexts)
for half in halves:
    half.attach_grad()
with autograd.record():
    losses = [loss(half, mx.np.array(part, ctx=half.ctx))
              for half, part in zip(halves, (classes[:4], classes[4:]))]
autograd.backward(losses)
trainer.step()
for context in contexts:
    np.testing.assert_allclose(loss.centers.data(context).asnumpy(),
                               center_loss(values, classes, np.zeros((4, 3))).centers, rtol=1e-5)
'''


@pytest.mark.slow
def test_numpy_interface(child):
    done = child(NUMPY_INTERFACE, ','.join(sys.path))
    assert done.returncode == 0, done.stderr
