"""The loss next to parts of MXNet that change all of it."""
import sys
from pathlib import Path

from center_loss_op.gluon import CenterLoss, CenterTrainer

import mxnet as mx
import numpy as np
import pytest
from cases import batch
from entries import Inside
from mxnet import autograd
from oracle import center_loss

# A net and a loss, each with center loss inside, under automatic mixed precision, which changes the
# whole process.
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
for scaled, hybridize in (True, True), (False, False):
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
    assert len(moved) == 2 and min(moved) > 0.005  # each net trained, scaled or not


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('hybridize', [False, True])
def test_numpy_interface(weighted, hybridize, tmp_path):
    """As after npx.set_np(): a step, an update, and files."""
    values, classes, before = batch(8, 3, 4)
    weights = np.random.RandomState(0).rand(8).astype('float32')
    with mx.util.np_shape(True), mx.util.np_array(True):
        net, other = Inside(CenterLoss(4, weight=0.1)), Inside(CenterLoss(4, in_units=3))
        net.initialize()
        net.hybridize(hybridize)
        x, *rest = map(mx.np.array, (values, classes, weights)[:2 + weighted])
        net(x, *rest)
        centers = net.loss.centers
        centers.set_data(mx.np.array(before))
        x.attach_grad()
        with autograd.record():
            value = net(x, *rest)
        value.backward()
        assert type(value) is type(x.grad) is type(centers.data()) is mx.np.ndarray
        head = 0.1 * (weights if weighted else np.ones(8))
        want = center_loss(values, classes, before, head, reduction='none', need_top_grad=True)
        for got, wanted in (value, want.loss * head), (x.grad, want.grad), (
                centers.data(), want.centers):
            np.testing.assert_allclose(got.asnumpy(), wanted, rtol=1e-5, atol=1e-6)
        # MXNet's load_parameters takes no mx.np arrays for a block without children.
        net.save_parameters(str(tmp_path / 'net.params'))
        other.load_parameters(str(tmp_path / 'net.params'))
        assert (other.loss.centers.data() == centers.data()).all()
        net.loss.update(x, rest[0])
        np.testing.assert_allclose(
            centers.data().asnumpy(), center_loss(values, classes, want.centers).centers, rtol=1e-5)


def test_a_trainer_of_numpy_arrays():
    values, classes, _ = batch(8, 3, 4)
    contexts = [mx.cpu(0), mx.cpu(1)]
    with mx.util.np_shape(True), mx.util.np_array(True):
        loss = CenterLoss(4, in_units=3)
        loss.initialize(ctx=contexts)
        trainer = CenterTrainer(loss)
        for rows, context in zip((slice(4), slice(4, 8)), contexts):
            loss.update(*(mx.np.array(part[rows], ctx=context) for part in (values, classes)))
        trainer.step()
        for copy in loss.centers.list_data():
            np.testing.assert_allclose(
                copy.asnumpy(), center_loss(values, classes, np.zeros((4, 3))).centers, rtol=1e-5)
