"""All copies of the centers are one, whatever devices and workers the batch is split over."""
import copy
import os
import subprocess
import sys

import center_loss_op
from center_loss_op.symbol import center_loss

import horovod_worker
import hypothesis
import mxnet as mx
import numpy as np
import oracle
import pytest
from entries import settle
from hypothesis import strategies as st

HERE = os.path.dirname(os.path.abspath(__file__))
LAUNCHER = os.path.join(HERE, '..', '..', 'examples', 'launch_local.py')
WORKER = os.path.join(HERE, '..', 'helpers', 'horovod_worker.py')


def launch(*command, timeout=600):
    """Run `command` in two workers."""
    return subprocess.run([sys.executable, LAUNCHER, '-n', '2', sys.executable, *command],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                          universal_newlines=True, check=False)


@hypothesis.given(st.data())
def test_any_split(data):
    """Over contexts of any load and passes: one set, bit for bit, that the union has moved."""
    random = np.random.RandomState(data.draw(st.integers(0, 999)))
    gluon = data.draw(st.booleans())
    loads = [3, *data.draw(st.lists(st.integers(0 if gluon else 1, 6), max_size=2))]
    arguments = dict(alpha=data.draw(st.sampled_from([0.1, 0.5, 2.0])),
                     use_ignore=data.draw(st.booleans()), ignore_label=1)
    dtype = data.draw(st.sampled_from(['float16', 'float32', 'float64'])) if gluon else 'float32'
    contexts, total, losses = [mx.cpu(i) for i in range(len(loads))], sum(loads), []
    if gluon:
        loss = center_loss_op.gluon.CenterLoss(4, 3, **arguments)
        mx.random.seed(0)
        loss.initialize(mx.init.Normal(1), ctx=contexts)
        for number, copy_ in enumerate(loss.centers.list_data()):
            copy_[:] = number   # copies that start apart are made equal: to the first
        loss.cast(dtype)
        trainer = center_loss_op.gluon.CenterTrainer(loss)
        copies = loss.centers.list_data
    else:
        symbol = center_loss(mx.sym.var('data'), LABEL, 4, key='split', name='c', **arguments)
        module = mx.mod.BucketingModule(lambda key: (symbol, ['data'], ['label']), 0,
                                        context=contexts, work_load_list=loads)
        module.bind([('data', (total, 3))], [('label', (total,))], inputs_need_grad=True)
        module.init_params()
        trainer = center_loss_op.module.CenterTrainer('split')

        def copies():
            return [one.aux_dict['c_center_bias'] for one in module._curr_module._exec_group.execs]
    want = np.zeros((4, 3))
    for _ in range(data.draw(st.integers(1, 3))):
        passes = data.draw(st.integers(1, 2))
        x = random.randn(passes * total, 3).astype(dtype)
        y = random.randint(0, 4, len(x))
        for number in range(passes):
            part = slice(number * total, (number + 1) * total)
            if not gluon:
                batch = mx.io.DataBatch(
                    [mx.nd.array(x[part])], [mx.nd.array(y[part])], bucket_key=random.randint(2),
                    provide_data=[('data', (total, 3))], provide_label=[('label', (total,))])
                module.forward_backward(batch)
                continue
            losses, last = [], part.start
            with mx.autograd.record():
                for load, context in zip(loads, contexts):
                    mine, last = slice(last, last + load), last + load
                    if not load:
                        continue
                    features = mx.nd.array(x[mine], context, dtype)
                    features.attach_grad()
                    losses.append(loss(features, mx.nd.array(y[mine], context)))
            mx.autograd.backward(losses)
        trainer.step(*[] if gluon else [module])
        want = oracle.center_loss(x, y, want, **arguments).centers
        found = [copy_.asnumpy() for copy_ in copies()]
        np.testing.assert_allclose(found[0], want, rtol=1e-5, atol=1e-5)
        for other in found[1:]:
            np.testing.assert_array_equal(other, found[0])


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


def test_a_drop_that_is_forgotten_is_named_after_an_earlier_one(log):
    """The first step after drop() says how many backward passes are right."""
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2)
    loss.initialize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    trainer.drop()
    for parts in 2, 2, 1, 2:
        for _ in range(parts):
            backward(loss)
        trainer.step()
    assert not log()
    for _ in range(3):
        backward(loss)
    trainer.step()
    assert log().count('samples of 3 backward passes') == 1


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


@pytest.mark.parametrize('way, contexts', [
    ('store', 2), pytest.param('module', 2, marks=pytest.mark.slow)])
def test_all_parameters_of_two_workers_are_those_of_one_process(way, contexts, tmp_path):
    """Weights, and the centers of two losses."""
    done = launch(WORKER, way, str(tmp_path), '--contexts', str(contexts), '--kv-store',
                  'dist_sync')
    assert done.returncode == 0, done.stdout
    alone = (horovod_worker.train_alone if way == 'store' else horovod_worker.fit_alone)()
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
    done = launch(str(script))
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


class Asynchronous(mx.kvstore.KVStoreBase):
    type, rank, num_workers = 'dist_async', 0, 1


class AlmostStore:
    type, rank, num_workers = 'local', 0, 1


ONE_WORKER = ('^MXNet has no key-value store .*, and takes the name for .local.* use .local. or '
              r".device., or for several workers create .*mx.kv.create\('dist_sync'\) or "
              r'center_loss_op.horovod.Horovod\(\)')
NO_STORE = (r'^kvstore must be the name of a type of store or a store \(with broadcast, pushpull, '
            r'.*\), got ')
REFUSED = [('dist_sync', ValueError, 'one distributed store.*give it to both trainers'),
           # `gluon.Trainer` takes the name, too, and does without a store on a single device.
           ('Horovod', ValueError, "^kvstore='Horovod': create the store, kv = center_loss_op"),
           # MXNet makes a local one of any name.
           ('devise', ValueError, ONE_WORKER), ('', ValueError, ONE_WORKER),
           (lambda: mx.kv.create('mpi'), ValueError, ONE_WORKER),
           ('dist_async', ValueError, 'applies the push of each worker'),
           (Asynchronous, ValueError, "'dist_async'.*sum over all workers.*'dist_sync'"),
           (lambda: 5, TypeError, NO_STORE), (lambda: None, TypeError, NO_STORE),
           (AlmostStore, TypeError, NO_STORE)]


@pytest.mark.parametrize('store, error, text', REFUSED)
def test_stores_that_are_refused(store, error, text):
    """And the loss goes on without a trainer."""
    loss = center_loss_op.gluon.CenterLoss(3, in_units=2)
    loss.initialize()
    for trainer in (lambda kvstore: center_loss_op.gluon.CenterTrainer(loss, kvstore),
                    lambda kvstore: center_loss_op.module.CenterTrainer('k', kvstore)):
        with pytest.raises(error, match=text) as caught:
            trainer(store() if callable(store) else store)
        assert '\n' not in str(caught.value)
    backward(loss)
    assert loss.centers.data().asnumpy().any()


def test_a_module_with_a_store_that_cannot_gather_is_refused():
    """By its name, of which MXNet makes a local store: before any center moves."""
    label = mx.sym.var('softmax_label')
    loss = center_loss(mx.sym.var('data'), label, 3, key='named', name='c')
    module = mx.mod.Module(loss)
    with pytest.raises(ValueError, match="MXNet has no key-value store 'foo'"):
        module.fit(mx.io.NDArrayIter(np.ones((4, 2)), np.zeros(4), 4), num_epoch=1, kvstore='foo',
                   eval_metric=mx.metric.Loss(),
                   batch_end_callback=center_loss_op.module.CenterTrainer('named'))


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
    ('OMPI_COMM_WORLD_SIZE', '4', True), ('DMLC_NUM_WORKER', '2', True),
    ('HOROVOD_SIZE', '1', False)])
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


def backward(loss, context=None, value=1, train_mode=True):
    data = mx.nd.full((4, 2), value, ctx=context or mx.cpu(0))
    data.attach_grad()
    with mx.autograd.record(train_mode=train_mode):
        out = loss(data, mx.nd.array([0, 1, 1, 2], ctx=context))
    out.backward()
    mx.nd.waitall()


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


def test_parameters_that_are_read_before_a_step_do_not_undo_it():
    """As a callback that saves a checkpoint reads them, in front of the trainer's."""
    def trained(*callbacks):
        module = module_of(center_loss(EMBEDDING, LABEL, 3, key='read', name='cl', alpha=1))
        batches = mx.io.NDArrayIter(np.full((4, 2), 6, 'float32'), np.zeros(4), 4,
                                    label_name='label')
        module.fit(batches, num_epoch=2, force_rebind=True, batch_end_callback=[
            *callbacks, center_loss_op.module.CenterTrainer('read')],
            eval_metric=mx.metric.Loss())
        return module.get_params()[1]['cl_center_bias'].asnumpy()

    def read(param):
        param.locals['self'].get_params()
    np.testing.assert_array_equal(trained(read), trained())
    assert trained(read).any()


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


def test_alpha_of_a_node_and_of_the_trainer():
    """As the operator reads it, whatever else MXNet writes on the node; it may change."""
    with mx.AttrScope(ctx_group='dev1', lr_mult='0.1'):
        module = module_of(center_loss(EMBEDDING, LABEL, 3, key='alpha', name='cl', alpha=3))
    trainer = center_loss_op.module.CenterTrainer('alpha')
    assert module_step(module, trainer, 2) == {'cl_center_bias': [3] * 2}
    assert trainer.alpha is None
    trainer.alpha = 0.5
    assert module_step(module, trainer, 1) == {'cl_center_bias': [2.5] * 2}  # 3 + .5 · (1 − 3) / 2
    with pytest.raises(ValueError, match='^alpha must be a finite number >= 0'):
        trainer.alpha = -1


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


def test_modules_that_are_refused():
    trainer = center_loss_op.module.CenterTrainer('faces')
    for module in (mx.mod.SequentialModule(), None,
                   mx.mod.BucketingModule(lambda key: (EMBEDDING, ['data'], None), 0)):
        with pytest.raises(TypeError, match='^module must be a mx.mod.Module or a bound '
                                            'mx.mod.BucketingModule, got '):
            trainer.step(module)
    module = mx.mod.Module(mx.sym.SoftmaxOutput(mx.sym.Variable('data'), name='softmax'))
    with pytest.raises(ValueError, match="no center loss with key='faces'"):
        trainer.step(module)


def test_labels_that_the_store_would_round_are_refused():
    classes = 2 ** 24 + 2
    loss = center_loss_op.gluon.CenterLoss(classes, in_units=1)
    loss.initialize()
    trainer = center_loss_op.gluon.CenterTrainer(loss)
    with pytest.raises(ValueError, match='%d classes of float32' % classes):
        trainer.step()
