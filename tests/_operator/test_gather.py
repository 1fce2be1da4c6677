"""All copies of the centers are one, whatever devices and workers the batch is split over."""
import copy
import os
import subprocess
import sys
import time

import center_loss_op
from center_loss_op._operator.gather import Gatherer
from center_loss_op.symbol import center_loss

import horovod_worker
import hypothesis
import mxnet as mx
import numpy as np
import oracle
import pytest
from entries import settle
from hypothesis import strategies as st
from parallel_worker import BATCH, CLASSES, RUNS, SIZE, bounds, check_one_set

HERE = os.path.dirname(os.path.abspath(__file__))
WORKER = os.path.join(HERE, '..', 'helpers', 'parallel_worker.py')
TRAINING = os.path.join(HERE, '..', 'helpers', 'horovod_worker.py')
LAUNCHER = os.path.join(HERE, '..', '..', 'examples', 'launch_local.py')


def launch(*command, timeout=120):
    """Run `command` in two workers."""
    return subprocess.run([sys.executable, LAUNCHER, '-n', '2', sys.executable, *command],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                          universal_newlines=True, check=False)


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


@pytest.mark.parametrize('api', [
    pytest.param(api, marks=[pytest.mark.slow] * (api == 'buckets')) for api in RUNS])
@pytest.mark.parametrize('contexts', [pytest.param(1, marks=pytest.mark.slow), 2])
def test_two_workers(api, contexts, tmp_path):
    done = launch(WORKER, api, str(tmp_path), '--contexts', str(contexts))
    assert done.returncode == 0, done.stdout
    copies = []
    for rank in range(2):
        with np.load(str(tmp_path / ('%d.npz' % rank))) as arrays:
            copies += arrays.values()
    assert len(copies) == 2 * contexts
    check_one_set(copies)


@pytest.mark.slow
@pytest.mark.parametrize('contexts', [1, 2])
def test_all_parameters_of_module_fit_are_those_of_one_process(contexts, tmp_path):
    """Weights, and the centers of two losses."""
    done = launch(TRAINING, 'module', str(tmp_path), '--contexts', str(contexts), '--kv-store',
                  'dist_sync')
    assert done.returncode == 0, done.stdout
    alone = horovod_worker.fit_alone()
    found = []
    for rank in range(2):
        with np.load(str(tmp_path / ('%d.npz' % rank))) as arrays:
            found.append(dict(arrays))
    for name, (value,) in alone.items():
        copies = np.concatenate([of_one.pop(name) for of_one in found])
        assert len(copies) == 2 * contexts
        for other in copies[1:]:
            np.testing.assert_array_equal(other.view(np.uint32), copies[0].view(np.uint32), name)
        np.testing.assert_allclose(copies[0], value, rtol=2e-6, atol=1e-6, err_msg=name)
    assert found == [{}, {}]


@pytest.mark.slow
def test_two_workers_without_the_trainer_differ(tmp_path):
    done = launch(WORKER, 'gluon', str(tmp_path), '--alone')
    assert done.returncode == 0, done.stdout
    one, other = (np.load(str(tmp_path / ('%d.npz' % rank)))['arr_0'] for rank in range(2))
    assert np.abs(one - other).max() > 0.1


@pytest.mark.slow
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


@pytest.mark.slow
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
        '    print(error, (loss.centers.data().asnumpy() == before).all())\n'
        % os.path.dirname(WORKER))
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


@pytest.mark.parametrize('name', ['horovod', 'Horovod'])
@pytest.mark.parametrize('trainer', [
    lambda name: center_loss_op.gluon.CenterTrainer(center_loss_op.gluon.CenterLoss(2), name),
    lambda name: center_loss_op.module.CenterTrainer('k', name)], ids=['gluon', 'module'])
def test_horovod_by_name_is_refused(trainer, name):
    """`gluon.Trainer` takes the name, too, and does without a store on a single device."""
    with pytest.raises(ValueError, match="^kvstore='%s': create the store, "
                                         r'kv = center_loss_op.horovod.Horovod\(\), and give it to '
                                         'both trainers$' % name):
        trainer(name)


@pytest.mark.parametrize('given', ['devise', 'sync', '', lambda: mx.kv.create('mpi')],
                         ids=['devise', 'sync', 'empty', 'mpi'])
@pytest.mark.parametrize('trainer', [
    lambda store: center_loss_op.gluon.CenterTrainer(center_loss_op.gluon.CenterLoss(2), store),
    lambda store: center_loss_op.module.CenterTrainer('k', store)], ids=['gluon', 'module'])
def test_a_store_that_mxnet_does_not_have_is_refused(trainer, given):
    """It makes a local one of any name."""
    store = given() if callable(given) else given
    assert mx.kv.create(given).num_workers == 1 if store is given else store.type == 'mpi'
    with pytest.raises(ValueError, match='^MXNet has no key-value store .*, and takes the name for '
                                         "'local'.* use 'local' or 'device', or for several "
                                         r"workers create .*mx.kv.create\('dist_sync'\) or "
                                         r'center_loss_op.horovod.Horovod\(\)') as error:
        trainer(store)
    assert '\n' not in str(error.value)


@pytest.mark.slow
def test_mxnets_horovod_that_is_none_is_refused(child):
    """In a process of its own: the import of center_loss_op.horovod makes it Horovod's."""
    done = child('import center_loss_op, mxnet as mx\n'
                 'loss = center_loss_op.gluon.CenterLoss(3, in_units=2)\n'
                 'center_loss_op.gluon.CenterTrainer(loss, mx.kv.create("horovod"))')
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "ValueError: MXNet has no key-value store 'horovod', and takes the name for 'local', a "
        'store of one worker')


@pytest.mark.parametrize('name', ['local', 'Device', 'local_allreduce_device', 'TestStore'])
def test_other_stores_of_one_worker(name):
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2, alpha=1)
    loss.initialize()
    trainer = center_loss_op.gluon.CenterTrainer(loss, name)
    backward(loss, value=2)
    trainer.step()
    np.testing.assert_array_equal(loss.centers.data().asnumpy()[0], 1)


@pytest.mark.parametrize('launcher, number, warned', [
    ('HOROVOD_SIZE', '2', True), ('OMPI_COMM_WORLD_SIZE', '4', True),
    ('DMLC_NUM_WORKER', '2', True),
    ('HOROVOD_SIZE', '1', False), ('HOROVOD_SIZE', '', False)])
def test_a_store_of_one_worker_among_several_is_named(launcher, number, warned, monkeypatch, log):
    """As `CenterTrainer(loss)` beside Horovod's trainer is: once."""
    monkeypatch.setenv(launcher, number)
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2)
    loss.initialize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    for _ in range(2):
        backward(loss)
        trainer.step()
    assert log().count("%s workers were started, but the key-value store 'device' is of this one "
                       'alone' % number) == warned


@pytest.mark.slow
def test_without_horovod_its_store_says_what_to_do(child):
    done = child('import sys\n'
                 'sys.modules["horovod"] = None\n'
                 'help("center_loss_op.horovod")\n'
                 'import center_loss_op.horovod\n'
                 'center_loss_op.horovod.Horovod()')
    assert done.returncode == 1
    assert "works like MXNet's 'dist_sync'" in done.stdout
    assert 'ImportError: Horovod cannot be imported' in done.stderr.splitlines()[-1]
    assert 'HOROVOD_WITH_MXNET=1 pip install' in done.stderr.splitlines()[-1]


class AlmostStore:
    type, rank, num_workers = 'local', 0, 1


@pytest.mark.parametrize('given', [5, None, mx.kv.create, AlmostStore()],
                         ids=['number', 'none', 'function', 'almost'])
@pytest.mark.parametrize('trainer', [
    lambda loss, store: center_loss_op.gluon.CenterTrainer(loss, store),
    lambda loss, store: center_loss_op.module.CenterTrainer('k', store)], ids=['gluon', 'module'])
def test_what_is_no_store_is_refused(trainer, given):
    """And the loss goes on without a trainer."""
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2)
    loss.initialize()
    with pytest.raises(TypeError, match='^kvstore must be the name of a type of store or a store '
                                        r'\(with broadcast, pushpull, .*\), got '):
        trainer(loss, given)
    backward(loss)
    assert loss.centers.data().asnumpy().any()


def test_a_store_that_cannot_sum_leaves_the_loss_alone():
    class Asynchronous(mx.kvstore.KVStoreBase):
        type, rank, num_workers = 'dist_async', 0, 1

    loss = center_loss_op.gluon.CenterLoss(3, in_units=2)
    loss.initialize()
    with pytest.raises(ValueError, match='dist_async'):
        center_loss_op.gluon.CenterTrainer(loss, Asynchronous())
    backward(loss)
    assert loss.centers.data().asnumpy().any()


def backward(loss, context=None, value=1, train_mode=True):
    data = mx.nd.full((4, 2), value, ctx=context or mx.cpu(0))
    data.attach_grad()
    with mx.autograd.record(train_mode=train_mode):
        out = loss(data, mx.nd.array([0, 1, 1, 2], ctx=context))
    out.backward()
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


@hypothesis.given(st.data())
def test_a_failed_step_leaves_nothing_behind(data):
    """Whatever fails, wherever and however often: a good step is the one without it."""
    random = np.random.RandomState(data.draw(st.integers(0, 999)))
    contexts = [mx.cpu(i) for i in range(data.draw(st.integers(1, 2)))]
    parts, views = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    loss = center_loss_op.gluon.CenterLoss(4, in_units=2)
    loss.initialize(ctx=contexts)
    if data.draw(st.booleans()):
        loss.hybridize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)

    def step(failure=None):
        """What it adds: (samples, labels)."""
        shape = parts, len(contexts), views, 5
        x, y = random.randn(*shape, 2).astype('float32'), random.randint(0, 4, shape)
        place = data.draw(st.tuples(*map(st.integers, [0] * 3, [n - 1 for n in shape[:3]])))
        if failure == 'label':
            y[place][3] = 4
        for part in range(parts):
            losses = []
            with mx.autograd.record():
                for number, context in enumerate(contexts):
                    for view in range(views):
                        features = mx.nd.array(x[part, number, view], context)
                        features.attach_grad()
                        losses.append(loss(features, mx.nd.array(y[part, number, view], context)))
            if failure == 'before' and part == place[0]:
                raise ZeroDivisionError('some samples' if part else 'none')
            mx.autograd.backward(losses)
            if failure == 'label' and data.draw(st.booleans()):
                losses[data.draw(st.integers(0, len(losses) - 1))].wait_to_read()
            if failure == 'after' and part == place[0]:
                raise ZeroDivisionError('some samples')
        trainer.step()
        return x.reshape(-1, 2), y.reshape(-1)

    want = np.zeros((4, 2))
    for failure in data.draw(st.lists(st.sampled_from([None, 'label', 'before', 'after']),
                                      max_size=3)):
        try:
            added = step(failure)
        except ZeroDivisionError as error:
            if str(error) == 'some samples':
                trainer.drop()
        except mx.MXNetError:
            assert failure == 'label'
            settle()
        else:
            assert failure is None
            want = oracle.center_loss(*added, want, reduction='none').centers
    want = oracle.center_loss(*step(), want, reduction='none').centers
    for copy_ in loss.centers.list_data():
        np.testing.assert_allclose(copy_.asnumpy(), want, rtol=1e-5, atol=1e-6)


def test_samples_of_a_step_that_an_exception_ended_are_named(log):
    """Once; and not those of calls of the loss before one backward pass."""
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2, alpha=1)
    loss.initialize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    both = mx.gluon.nn.HybridSequential()
    both.forward = lambda data, label: loss(data, label) + loss(data, label)
    backward(both)
    trainer.step()
    assert not log()
    for _ in range(2):
        backward(loss)  # a step ends here
        backward(loss)
        trainer.step()
    assert log().count('samples of 2 backward passes') == log().count('call drop()') == 1


@pytest.mark.slow
def test_a_failed_step_of_one_worker(tmp_path):
    """With dist_sync, the other worker waits until its next step."""
    script = tmp_path / 'fails.py'
    script.write_text('''if True:
        import center_loss_op
        import mxnet as mx
        store, contexts = mx.kv.create('dist_sync'), [mx.cpu(0), mx.cpu(1)]
        loss = center_loss_op.gluon.CenterLoss(2, in_units=1, alpha=1)
        loss.initialize(ctx=contexts)
        trainer = center_loss_op.gluon.CenterTrainer(loss, store)
        failed, step = 0, 0
        while step < 2:
            label = 2 if store.rank and step == 1 and not failed else 0
            losses = []
            with mx.autograd.record():
                for context in contexts:
                    data = mx.nd.full((1, 1), 5 * step + 10 * failed, context)
                    data.attach_grad()
                    losses.append(loss(data, mx.nd.full(1, label * context.device_id, context)))
            mx.autograd.backward(losses)
            try:
                trainer.step()
                step += 1
            except mx.MXNetError:
                failed += 1
        print(failed, *(copy.asnumpy()[:, 0] for copy in loss.centers.list_data()))
        ''')
    done = launch(str(script))
    assert done.returncode == 0, done.stdout
    # By hand: the centers stay 0, then 0 + (5 + 5 + 15 + 15) / (1 + 4).
    for failed in 0, 1:
        assert f'{failed} [8. 0.] [8. 0.]' in done.stdout


def test_a_step_without_samples_is_named():
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2)
    loss.initialize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    with pytest.raises(RuntimeError, match='no backward pass of key.*update'):
        trainer.step()


def test_a_pass_without_training_gives_no_samples():
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2)
    loss.initialize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    backward(loss, train_mode=False)
    with pytest.raises(RuntimeError, match='no backward pass of key'):
        trainer.step()


def test_two_losses_of_one_name():
    """Each trainer moves the centers of its own loss, by hand: 0 + 1 · (x - 0) / (1 + 1)."""
    losses = [center_loss_op.gluon.CenterLoss(3, 2, alpha=1, prefix='center_loss_')
              for _ in range(2)]
    trainers = []
    for loss in losses:
        loss.initialize()
        trainers.append(center_loss_op.gluon.CenterTrainer(loss))
    backward(losses[0], value=2)
    backward(losses[1], value=200)
    for loss, trainer, center in zip(losses, trainers, (1, 100)):
        trainer.step()
        np.testing.assert_array_equal(loss.centers.data().asnumpy()[0], center)


def test_two_losses_share_their_centers():
    """A trainer each: the centers move by the samples of one, then by those of the other."""
    first = center_loss_op.gluon.CenterLoss(3, 2, alpha=1)
    first.initialize()
    second = center_loss_op.gluon.CenterLoss(3, 2, alpha=1, params=first.params)
    trainers = [center_loss_op.gluon.CenterTrainer(loss) for loss in (first, second)]
    backward(first, value=2)
    backward(second, value=7)
    for trainer, center in zip(trainers, (1, 4)):  # 0 + 2 / 2, 1 + (7 - 1) / 2
        trainer.step()
        np.testing.assert_array_equal(first.centers.data().asnumpy()[0], center)


class Around(mx.gluon.HybridBlock):
    """A net that ends in its loss."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def hybrid_forward(self, F, data, label):
        return self.loss(data, label)


@pytest.mark.parametrize('hybridize', [False, True])
def test_the_newest_trainer_of_a_loss_counts(hybridize):
    """Also of a net that keeps the graph of its first pass; the older one says so."""
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2, alpha=1)
    net = Around(loss)
    net.initialize()
    if hybridize:
        net.hybridize()
    old = center_loss_op.gluon.CenterTrainer(loss)
    backward(net, value=50)  # a pass whose step never came, as of a loop that was interrupted
    new = center_loss_op.gluon.CenterTrainer(loss)
    backward(net, value=2)
    with pytest.raises(RuntimeError, match='newer CenterTrainer of key=.*call its step'):
        old.step()
    assert not loss.centers.data().asnumpy().any()
    new.step()
    np.testing.assert_array_equal(loss.centers.data().asnumpy()[0], 1)


def test_a_trainer_that_is_gone_is_named(caplog):
    """Nothing could ever call its step: the samples would be kept for nothing."""
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2)
    loss.initialize()
    center_loss_op.gluon.CenterTrainer(loss)
    with pytest.raises(mx.MXNetError):
        backward(loss)
    assert 'nothing moves the centers of key' in caplog.text


def test_a_copy_of_a_loss_has_no_trainer():
    """It moves its own centers until it gets one, and its samples are not the original's."""
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2, alpha=1)
    loss.initialize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    other = copy.deepcopy(loss)
    backward(loss, value=2)
    backward(other, value=200)
    trainer.step()
    for one, center in (loss, 1), (other, 100):
        np.testing.assert_array_equal(one.centers.data().asnumpy()[0], center)


def files(net, folder):
    """The files that `net` exports."""
    net.export(str(folder / 'net'))
    return str(folder / 'net-symbol.json'), ['data0', 'data1'], str(folder / 'net-0000.params')


def test_a_file_has_no_trainer(tmp_path):
    """A network in it moves its own centers at once: imported, and in a Module."""
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2, alpha=1)
    net = Around(loss)
    net.initialize()
    net.hybridize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    backward(net, value=2)
    trainer.step()
    imported = mx.gluon.SymbolBlock.imports(*files(net, tmp_path))
    backward(imported, value=5)
    symbol = mx.sym.load(str(tmp_path / 'net-symbol.json'))
    executor = symbol.simple_bind(mx.cpu(), data0=(4, 2), data1=(4,))
    executor.arg_dict['data0'][:] = 8
    executor.arg_dict['data1'][:] = mx.nd.array([0, 1, 1, 2])
    executor.forward(is_train=True)
    executor.backward(mx.nd.ones(4))
    backward(net, value=11)
    trainer.step()      # and the network that was exported has its trainer
    for array, center in [(loss.centers.data(), 6), (executor.aux_arrays[0], 4),
                          (imported.collect_params()[loss.centers.name].data(), 3)]:
        np.testing.assert_array_equal(array.asnumpy()[0], center)


def test_a_file_of_2_1_0_has_no_trainer():
    """Nor has a graph; but a block around the parameters of a network has that of the network."""
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2, alpha=1)
    loss.initialize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    names = mx.sym.var('x'), mx.sym.var('y')
    graph = loss(*names)
    imported = mx.gluon.SymbolBlock(mx.sym.load_json(graph.tojson()), names)
    around = mx.gluon.SymbolBlock(graph, names, loss.collect_params())
    imported.initialize(mx.init.Zero())
    backward(imported, value=2)
    backward(around, value=4)
    trainer.step()
    for block, center in (imported, 1), (around, 2):
        centers = block.collect_params()[loss.centers.name].data()
        np.testing.assert_array_equal(centers.asnumpy()[0], center)


def test_all_gradients_of_an_imported_network_are_added(tmp_path):
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2, alpha=1)
    net = Around(loss)
    net.initialize()
    net.hybridize()
    backward(net)
    imported = mx.gluon.SymbolBlock.imports(*files(net, tmp_path))
    imported.collect_params().setattr('grad_req', 'add')
    trainer = mx.gluon.Trainer(imported.collect_params(), 'sgd')
    backward(imported)
    trainer.step(4)


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
    monkeypatch.setattr(center_loss_op._operator.samples, '_TOO_MANY', 3)
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2)
    loss.initialize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    for _ in range(3):
        backward(loss)
    with pytest.raises(mx.MXNetError):
        backward(loss)
    assert '3 backward passes' in caplog.text and 'call its step() once' in caplog.text
    trainer.step()  # and from here on, there is room again
    backward(loss)


def module_of(*losses):
    """A Module of these losses of one embedding, bound, its centers zero."""
    module = mx.mod.Module(mx.sym.Group(losses), label_names=['label'])
    module.bind([('data', (4, 2))], [('label', (4,))])
    module.init_params(mx.init.One())
    module.init_optimizer('device')
    return module


EMBEDDING = mx.sym.broadcast_mul(mx.sym.var('data'), mx.sym.var('one_weight', shape=(1, 2)))
LABEL = mx.sym.var('label')


def module_step(module, trainer, value):
    """One step on features of one value; the center of class 0."""
    module.forward_backward(mx.io.DataBatch([mx.nd.full((4, 2), value)],
                                            [mx.nd.array([0, 1, 1, 2])]))
    trainer.step(module)
    states = module._exec_group.execs[0].aux_dict
    return {name: state.asnumpy()[0].tolist() for name, state in states.items()}


@pytest.mark.parametrize('failure', ['label', 'exception'])
def test_a_failed_batch_of_a_module(failure):
    loss = center_loss(EMBEDDING, LABEL, 3, key='failed', name='cl', alpha=1)
    module = mx.mod.Module(loss, label_names=['label'], context=[mx.cpu(0), mx.cpu(1)])
    module.bind([('data', (4, 2))], [('label', (4,))])
    module.init_params(mx.init.One())
    trainer = center_loss_op.module.CenterTrainer('failed')
    labels = mx.nd.array([0, 1, 1, 2])
    bad = mx.nd.array([0, 1, 3, 2]) if failure == 'label' else labels
    module.forward_backward(mx.io.DataBatch([mx.nd.full((4, 2), 100)], [bad]))
    if failure == 'label':
        with pytest.raises(mx.MXNetError):
            mx.nd.waitall()
        settle()
    else:
        trainer.drop()
    module.forward_backward(mx.io.DataBatch([mx.nd.full((4, 2), 6)], [labels]))
    trainer.step(module)
    for executor in module._exec_group.execs:  # 0 + n · 6 / (1 + n)
        np.testing.assert_array_equal(executor.aux_dict['cl_center_bias'].asnumpy()[:, 0],
                                      [3, 4, 3])


def test_two_nodes_with_one_key_are_named():
    module = module_of(center_loss(EMBEDDING, LABEL, 3, key='faces', name='left'),
                       center_loss(EMBEDDING, LABEL, 3, key='faces', name='right'),
                       center_loss(EMBEDDING, LABEL, 3, key='others', name='third'))
    with pytest.raises(ValueError, match="2 center losses have key='faces': left, right"):
        center_loss_op.module.CenterTrainer('faces').step(module)


def test_two_nodes_with_a_key_each():
    module = module_of(center_loss(EMBEDDING, LABEL, 3, key='a', name='left', alpha=1),
                       center_loss(EMBEDDING, LABEL, 3, key='b', name='right', alpha=.5))
    trainers = [center_loss_op.module.CenterTrainer(key) for key in 'ab']
    assert module_step(module, trainers[0], 2) == {'left_center_bias': [1, 1],
                                                   'right_center_bias': [0, 0]}
    trainers[1].step(module)
    assert module._exec_group.execs[0].aux_dict['right_center_bias'].asnumpy()[0, 0] == .5


@pytest.mark.parametrize('alpha, center', [({}, .5), ({'alpha': 0}, 0), ({'alpha': 3}, 3)])
def test_alpha_of_a_node(alpha, center):
    """As the operator reads it, whatever else MXNet writes on the node."""
    with mx.AttrScope(ctx_group='dev1', lr_mult='0.1'):
        loss = center_loss(EMBEDDING, LABEL, 3, key='alpha', name='cl', **alpha)
    trainer = center_loss_op.module.CenterTrainer('alpha')
    assert module_step(module_of(loss), trainer, 2) == {'cl_center_bias': [center] * 2}


def test_centers_of_another_name():
    """Of a variable of the user's own."""
    loss = mx.sym.Custom(EMBEDDING, LABEL, mx.sym.var('mine_bias'), op_type='centerloss',
                         num_class=3, key='named', name='cl')
    trainer = center_loss_op.module.CenterTrainer('named')
    assert module_step(module_of(loss), trainer, 2) == {'mine_bias': [.5, .5]}


def test_the_newest_trainer_of_a_module_counts():
    """Two of one key, for one Module or two; also on one store, which takes each name once."""
    store = mx.kv.create('local')
    modules = [module_of(center_loss(EMBEDDING, LABEL, 3, key='one', name='cl')) for _ in range(2)]
    old = center_loss_op.module.CenterTrainer('one', store)
    assert module_step(modules[0], old, 2) == {'cl_center_bias': [.5, .5]}
    new = center_loss_op.module.CenterTrainer('one', store)
    assert module_step(modules[1], new, 4) == {'cl_center_bias': [1, 1]}
    with pytest.raises(RuntimeError, match="newer CenterTrainer of key='one'.*a key of its own"):
        old.step(modules[0])


@pytest.mark.filterwarnings('ignore:.*mxnet.model.FeedForward has been deprecated')
def test_feed_forward():
    """By hand, on two contexts: c_0 = 0 + 4 · 6 / (1 + 4), then 24/5 + 4 · (6 − 24/5) / (1 + 4)."""
    loss = center_loss(EMBEDDING, LABEL, 3, key='fed', name='cl', alpha=1)
    trainer, steps = center_loss_op.module.CenterTrainer('fed'), []

    def at_batch_end(param):
        trainer(param)
        group = param.locals['executor_manager'].curr_execgrp
        steps.append([one.aux_dict['cl_center_bias'].asnumpy()[0] for one in group.train_execs])

    data = mx.io.NDArrayIter(np.full((8, 2), 6), np.zeros(8), 4, label_name='label')
    model = mx.model.FeedForward(mx.sym.Group([loss]), [mx.cpu(0), mx.cpu(1)], num_epoch=1,
                                 initializer=mx.init.One(), learning_rate=0)
    model.fit(data, eval_metric=mx.metric.Loss(), batch_end_callback=at_batch_end)
    np.testing.assert_allclose(steps, [[[4.8] * 2] * 2, [[5.76] * 2] * 2], rtol=1e-6)


@pytest.mark.parametrize('variables', [None, {}, {'self': None, 'module': 5}], ids=str)
def test_a_loop_of_ones_own(variables):
    """As a callback, with a BatchEndParam."""
    trainer = center_loss_op.module.CenterTrainer('own loop')
    with pytest.raises(TypeError, match=r'call center_trainer.step\(module\) after module.update'):
        trainer(mx.model.BatchEndParam(0, 0, None, variables))


@pytest.mark.parametrize('module', [
    mx.mod.SequentialModule(), None, 'module',
    mx.mod.BucketingModule(lambda key: (mx.sym.var('data'), ['data'], None), 0)],
    ids=lambda module: type(module).__name__)
def test_other_modules_are_refused(module):
    with pytest.raises(TypeError, match='^module must be a mx.mod.Module or a bound '
                                        'mx.mod.BucketingModule, got '):
        center_loss_op.module.CenterTrainer('faces').step(module)


def test_a_module_without_the_key_is_named():
    module = mx.mod.Module(mx.sym.SoftmaxOutput(mx.sym.Variable('data'), name='softmax'))
    with pytest.raises(ValueError, match="no center loss with key='faces'"):
        center_loss_op.module.CenterTrainer('faces').step(module)
    module = mx.mod.Module(center_loss(mx.sym.var('data'), mx.sym.var('softmax_label'), CLASSES,
                                       key='faces'))
    with pytest.raises(ValueError, match='not bound'):
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


@pytest.mark.parametrize('contexts', [1, 2])
@pytest.mark.parametrize('name', ['foo', 'horovod', 'dist_async'])
def test_a_module_with_a_store_that_cannot_gather_is_refused(name, contexts):
    """By its name, of which MXNet makes a local store, or none: before any center moves."""
    if name == 'dist_async' or name in mx.kvstore.KVStoreBase.kv_registry:
        with pytest.raises(ValueError, match='applies the push of each worker' if 'async' in name
                           else 'create the store'):
            center_loss_op.module.CenterTrainer('named', name)
        return
    label = mx.sym.var('softmax_label')
    loss = center_loss_op.symbol.center_loss(mx.sym.var('data'), label, 3, key='named', name='c')
    module = mx.mod.Module(loss, context=[mx.cpu(i) for i in range(contexts)])
    with pytest.raises(ValueError, match="MXNet has no key-value store '%s'" % name):
        module.fit(mx.io.NDArrayIter(np.ones((4, 2)), np.zeros(4), 4), num_epoch=1, kvstore=name,
                   eval_metric=mx.metric.Loss(),
                   batch_end_callback=center_loss_op.module.CenterTrainer('named'))
