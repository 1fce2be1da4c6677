"""Where NumPy cannot reach the memory: how many numbers pass between a device and the host."""
from center_loss_op.gluon import CenterTrainer

import mxnet as mx
import pytest
from cases import batch
from entries import array, block, run_block
from numpy.testing import assert_allclose
from oracle import center_loss

SAMPLES, SIZE, CLASSES = 6, 3, 5000


@pytest.fixture
def passed(copies, monkeypatch):
    """How many numbers have passed, by the function that passes them."""
    counts = {'asnumpy': 0, '_sync_copyfrom': 0}

    def counted(name, function):
        def count(self, *args):
            counts[name] += self.size
            return function(self, *args)
        return count
    for name in counts:
        monkeypatch.setattr(mx.nd.NDArray, name, counted(name, getattr(mx.nd.NDArray, name)))
    return counts


@pytest.mark.parametrize('req', ['write', 'add'])
def test_a_step(passed, req):
    data, label, centers = batch(SAMPLES, SIZE, CLASSES)
    x, y, c = map(array, (data, label, centers))
    x.attach_grad(req)
    passed.update(asnumpy=0, _sync_copyfrom=0)
    with mx.autograd.record():
        loss = mx.nd.Custom(x, y, c, op_type='centerloss', num_class=CLASSES)
    loss.backward()
    mx.nd.waitall()
    # Features, centers twice, and a gradient to add to; labels.
    assert passed['asnumpy'] <= (3 + (req == 'add')) * SAMPLES * SIZE + SAMPLES
    # Gradient, centers; their numbers three times; the loss.
    assert passed['_sync_copyfrom'] <= 2 * SAMPLES * SIZE + 3 * SAMPLES + 1
    want = center_loss(data, label, centers)
    assert_allclose(x.grad.asnumpy(), want.grad, rtol=1e-5)
    assert_allclose(c.asnumpy(), want.centers, rtol=1e-5)


def test_a_step_of_a_trainer(passed):
    data, label, centers = batch(SAMPLES, SIZE, CLASSES)
    loss = block(centers)
    trainer = CenterTrainer(loss)
    run_block(loss, data, label)
    trainer.step()      # makes all copies of the centers equal
    before = loss.centers.data().asnumpy()
    run_block(loss, data, label)
    passed.update(asnumpy=0, _sync_copyfrom=0)
    trainer.step()
    assert sum(passed.values()) < 15 * SAMPLES * SIZE < CLASSES * SIZE
    assert_allclose(loss.centers.data().asnumpy(), center_loss(data, label, before).centers,
                    rtol=1e-5)
