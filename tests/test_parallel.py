"""All copies of the centers are one, whatever devices and workers the batch is split over."""
import os
import subprocess
import sys
import time

import mxnet as mx
import numpy as np
import pytest
from parallel_worker import BATCH, CLASSES, RUNS, SIZE, bounds, naive_centers

import center_loss_op
from center_loss_op.parallel import Gatherer

HERE = os.path.dirname(os.path.abspath(__file__))
WORKER = os.path.join(HERE, 'parallel_worker.py')
LAUNCHER = os.path.join(HERE, '..', 'examples', 'launch_local.py')


def launch(*command, timeout=120):
    """Run `command` in two workers."""
    return subprocess.run([sys.executable, LAUNCHER, '-n', '2', sys.executable, *command],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                          universal_newlines=True, check=False)


def check_one_set(copies):
    """Bit-identical to each other, and what the naive oracle says of the global batches."""
    for copy in copies[1:]:
        np.testing.assert_array_equal(copy.view(np.uint32), copies[0].view(np.uint32))
    np.testing.assert_allclose(copies[0], naive_centers(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('api', RUNS)
@pytest.mark.parametrize('slices', [[64], [32, 32], [10, 1, 50, 3]], ids=str)
def test_contexts(api, slices):
    check_one_set(RUNS[api](bounds(slices)))


def test_an_empty_slice_is_fine():
    check_one_set(RUNS['gluon'](bounds([10, 0, 50, 4])))


@pytest.mark.parametrize('api', RUNS)
def test_one_context_without_a_trainer_is_the_same(api):
    check_one_set(RUNS[api](bounds([64]), synchronize=False))


@pytest.mark.parametrize('api', RUNS)
def test_without_the_trainer_the_copies_differ(api):
    one, other = RUNS[api](bounds([32, 32]), synchronize=False)
    assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize('api', RUNS)
@pytest.mark.parametrize('contexts', [1, 2])
def test_two_workers(api, contexts, tmp_path):
    done = launch(WORKER, api, str(tmp_path), '--contexts', str(contexts))
    assert done.returncode == 0, done.stdout
    copies = []
    for rank in range(2):
        with np.load(str(tmp_path / ('%d.npz' % rank))) as arrays:
            copies += arrays.values()
    assert len(copies) == 2 * contexts
    check_one_set(copies)


def test_two_workers_without_the_trainer_differ(tmp_path):
    done = launch(WORKER, 'gluon', str(tmp_path), '--alone')
    assert done.returncode == 0, done.stdout
    one, other = (np.load(str(tmp_path / ('%d.npz' % rank)))['arr_0'] for rank in range(2))
    assert np.abs(one - other).max() > 0.1


def test_a_worker_that_dies_ends_the_launcher(tmp_path):
    script = tmp_path / 'dies.py'
    script.write_text(
        'import os, signal, time\n'
        'import center_loss_op, mxnet as mx\n'
        'store = mx.kv.create("dist_sync")\n'
        'store.init("a", mx.nd.zeros(3))\n'
        'if store.rank == 1:\n'
        '    print("dying:", os.environ["DMLC_ROLE"], flush=True)\n'
        '    os.kill(os.getpid(), signal.SIGKILL)\n'
        'for _ in range(1000):\n'
        '    out = mx.nd.zeros(3)\n'
        '    store.pushpull("a", mx.nd.ones(3), out=out)\n'
        '    out.wait_to_read()  # waits for the dead one\n')
    before = time.monotonic()
    done = launch(str(script))
    assert time.monotonic() - before < 30
    assert done.returncode == 128 + 9
    dead = next(line for line in done.stdout.splitlines() if 'dying' in line)
    name = dead[1:dead.index(']')]
    assert 'launch_local: %s failed with exit code 137' % name in done.stdout


def test_the_exit_code_of_a_worker_is_the_launchers():
    done = launch('-c', 'import sys; print("hello"); sys.exit(3)')
    assert done.returncode == 3
    assert '] hello' in done.stdout


def test_a_server_that_runs_the_optimizer_is_named(tmp_path):
    script = tmp_path / 'on_server.py'
    script.write_text(
        'import sys; sys.path.insert(0, %r)\n'
        'import center_loss_op, mxnet as mx\n'
        'store = mx.kv.create("dist_sync")\n'
        'store.set_optimizer(mx.optimizer.SGD())\n'
        'loss = center_loss_op.gluon.CenterLoss(3, in_units=2)\n'
        'loss.initialize()\n'
        'trainer = center_loss_op.gluon.CenterTrainer(loss, store)\n'
        'before = loss.centers.data().asnumpy()\n'
        'try:\n'
        '    trainer.step()\n'
        'except RuntimeError as error:\n'
        '    print(error, (loss.centers.data().asnumpy() == before).all())\n' % HERE)
    done = launch(str(script))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count('update_on_kvstore=False') == 2
    assert done.stdout.count('True') == 2


class FakeStore:
    type = 'dist_async'


def test_a_store_that_cannot_sum_is_refused():
    with pytest.raises(ValueError, match="'dist_async'.*sum over all workers.*'dist_sync'"):
        Gatherer('refused', FakeStore())


@pytest.mark.parametrize('trainer', [
    lambda: center_loss_op.gluon.CenterTrainer(center_loss_op.gluon.CenterLoss(2), 'dist_sync'),
    lambda: center_loss_op.module.CenterTrainer('k', 'dist_sync')])
def test_a_second_distributed_store_would_hang_and_is_refused(trainer):
    with pytest.raises(ValueError, match='one distributed store.*give it to both trainers'):
        trainer()


def backward(loss, context=mx.cpu(0)):
    data = mx.nd.ones((4, 2), ctx=context)
    data.attach_grad()
    with mx.autograd.record():
        value = loss(data, mx.nd.array([0, 1, 1, 2], ctx=context))
    value.backward()
    mx.nd.waitall()


def test_samples_add_up_over_passes_until_the_step():
    """Two passes, then one step: equation 4 over both, by hand."""
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2, alpha=0.5)
    loss.initialize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    backward(loss)
    backward(loss)
    assert not loss.centers.data().asnumpy().any()
    trainer.step()
    # Each class: 0.5 * n * (1 - 0) / (1 + n) with n = 2, 4, 2.
    np.testing.assert_allclose(loss.centers.data().asnumpy(),
                               [[1 / 3] * 2, [2 / 5] * 2, [1 / 3] * 2], rtol=1e-6)


def test_a_step_without_samples_is_named():
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2)
    loss.initialize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    with pytest.raises(RuntimeError, match='no backward pass of key.*before the first forward'):
        trainer.step()


def test_a_batch_of_ignored_samples_is_fine():
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2, use_ignore=True, ignore_label=1)
    loss.initialize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    for label, moved in ([1, 1, 1, 1], False), ([0, 1, 1, 1], True):
        data = mx.nd.ones((4, 2))
        data.attach_grad()
        with mx.autograd.record():
            value = loss(data, mx.nd.array(label))
        value.backward()
        trainer.step()
        assert loss.centers.data().asnumpy().any() == moved


def test_a_key_that_nobody_serves_is_named(caplog):
    data, label = mx.nd.ones((4, 2)), mx.nd.zeros(4)
    data.attach_grad()
    with mx.autograd.record():
        value = mx.nd.Custom(data, label, mx.nd.zeros((3, 2)), op_type='centerloss', num_class=3,
                             key='nobody')
    value.backward()
    with pytest.raises(mx.MXNetError):
        data.grad.wait_to_read()
    mx.nd.waitall()
    assert "nothing moves the centers of key='nobody': create its CenterTrainer" in caplog.text


def test_hoarding_is_named(caplog, monkeypatch):
    monkeypatch.setattr(center_loss_op.parallel, '_TOO_MANY', 3)
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2)
    loss.initialize()
    center_loss_op.gluon.CenterTrainer(loss)
    for _ in range(3):
        backward(loss)
    with pytest.raises(mx.MXNetError):
        backward(loss)
    assert '3 backward passes' in caplog.text and 'call its step() once' in caplog.text


def test_a_module_without_the_key_is_named():
    module = mx.mod.Module(mx.sym.SoftmaxOutput(mx.sym.Variable('data'), name='softmax'))
    with pytest.raises(ValueError, match="no center loss of key='faces'"):
        center_loss_op.module.CenterTrainer('faces').step(module)


def test_labels_that_the_store_would_round_are_refused():
    classes = 2 ** 24 + 2
    loss = center_loss_op.gluon.CenterLoss(classes, in_units=1)
    loss.initialize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    with pytest.raises(ValueError, match='%d classes of float32' % classes):
        trainer.step()


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
def test_dtypes(dtype):
    loss = center_loss_op.gluon.CenterLoss(CLASSES, in_units=SIZE)
    loss.initialize()
    loss.cast(dtype)
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    data = mx.nd.ones((BATCH, SIZE), dtype=dtype)
    data.attach_grad()
    with mx.autograd.record():
        value = loss(data, mx.nd.zeros(BATCH))
    value.backward()
    trainer.step()
    expected = np.zeros((CLASSES, SIZE))
    expected[0] = 0.5 * BATCH / (1 + BATCH)
    np.testing.assert_allclose(loss.centers.data().asnumpy(), expected, rtol=1e-6)
