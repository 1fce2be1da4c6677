"""All copies of the centers are one, whatever devices and workers the batch is split over."""
import copy
import subprocess
import sys
from pathlib import Path

import center_loss_op
from center_loss_op._operator import gathered
from center_loss_op.gluon import CenterLoss, CenterTrainer
from center_loss_op.symbol import center_loss

import horovod_worker
import hypothesis
import mxnet as mx
import numpy as np
import oracle
import pytest
from entries import Inside, settle
from hypothesis import strategies as st

DATA, LABEL = mx.sym.var('data'), mx.sym.var('label')
EMBEDDING = mx.sym.broadcast_mul(DATA, mx.sym.var('one_weight', shape=(1, 2)))
LAUNCHER = [sys.executable,
            str(Path(__file__).resolve().parents[2] / 'examples' / 'launch_local.py')]
LABELS = mx.nd.array([0, 1, 1, 2])


def made(alpha=1, **arguments):
    """A loss with its trainer."""
    loss = CenterLoss(3, 2, alpha=alpha, **arguments)
    loss.initialize()
    return loss, CenterTrainer(loss)


def backward(loss, value=1, train_mode=True):
    """A backward pass of features of one value."""
    data = mx.nd.full((4, 2), value)
    data.attach_grad()
    with mx.autograd.record(train_mode=train_mode):
        out = loss(data, LABELS)
    out.backward()
    mx.nd.waitall()


def first(loss):
    """The center of class 0. With alpha 1, a step moves it halfway to its one sample."""
    return loss.centers.data().asnumpy()[0].tolist()


def module_of(*losses):
    """A Module of these losses, bound, its centers zero."""
    module = mx.mod.Module(mx.sym.Group(losses), label_names=['label'])
    module.bind([('data', (4, 2))], [('label', (4,))])
    module.init_params(mx.init.One())
    module.init_optimizer('device')
    return module


def module_step(module, trainer, value):
    """One step on features of one value: the center of class 0 of each loss."""
    module.forward_backward(mx.io.DataBatch([mx.nd.full((4, 2), value)], [LABELS]))
    trainer.step(module)
    states = module._exec_group.execs[0].aux_dict
    return {name: state.asnumpy()[0, 0] for name, state in states.items()}


@pytest.fixture
def launched(tmp_path):
    """Runs a script, or the text of one, in two workers of MXNet's servers: what they print."""
    def run(script, *arguments):
        if '\n' in script:
            (tmp_path / 'script.py').write_text(script)
            script = tmp_path / 'script.py'
        done = subprocess.run([*LAUNCHER, '-n', '2', sys.executable, script, *map(str, arguments)],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
                              universal_newlines=True, check=False)
        assert done.returncode == 0, done.stdout
        return done.stdout
    return run


class OfGluon:
    """Two calls of a loss on each context; copies that start apart are made equal: to the first."""

    def __init__(self, data, contexts, loads, arguments):
        self.contexts, self.loads = contexts, loads
        self.dtype = data.draw(st.sampled_from(['float16', 'float32', 'float64']))
        self.loss = CenterLoss(4, 3, **arguments)
        self.loss.initialize(ctx=contexts)
        for number, centers in enumerate(self.loss.centers.list_data()):
            centers[:] = number
        self.loss.cast(self.dtype)
        self.loss.hybridize(data.draw(st.booleans()))
        self.trainer = CenterTrainer(self.loss, data.draw(
            st.sampled_from(['local', 'Device', 'local_allreduce_device'])))
        self.step, self.copies = self.trainer.step, self.loss.centers.list_data

    def run(self, x, y, backward):
        losses = []
        with mx.autograd.record():
            for context, part in zip(self.contexts, np.split(range(len(x)), self.loads[:-1])):
                for rows in np.array_split(part, 2):
                    if len(rows):
                        features = mx.nd.array(x[rows], context, self.dtype)
                        features.attach_grad()
                        losses.append(self.loss(features, mx.nd.array(y[rows], context)))
        if backward:
            mx.autograd.backward(losses)
        if y[0] % 2:    # sometimes an error is raised here
            losses[-1].wait_to_read()


class OfModule:
    """A Module of several buckets."""
    dtype = 'float32'

    def __init__(self, data, contexts, loads, arguments):
        symbol = center_loss(DATA, LABEL, 4, key='split', name='c', **arguments)
        self.module = mx.mod.BucketingModule(lambda key: (symbol, ['data'], ['label']), 0,
                                             context=contexts)
        self.module.bind([('data', (12, 3))], [('label', (12,))], inputs_need_grad=True)
        self.module.init_params()
        self.trainer = center_loss_op.module.CenterTrainer('split')

    def step(self):
        self.trainer.step(self.module)

    def copies(self):
        return [one.aux_dict['c_center_bias'] for one in self.module._curr_module._exec_group.execs]

    def run(self, x, y, backward):
        self.module.forward(mx.io.DataBatch(
            [mx.nd.array(x)], [mx.nd.array(y)], bucket_key=int(y[0]) % 2,
            provide_data=[('data', x.shape)], provide_label=[('label', y.shape)]), is_train=True)
        if backward:
            self.module.backward()


@hypothesis.given(st.data())
def test_any_split(data):
    """Over contexts of any load and any passes: one set, bit for bit, that the union has moved.
    Whatever fails, wherever and however often: a good step is the one without it."""
    random = np.random.RandomState(data.draw(st.integers(0, 999)))
    contexts = [mx.cpu(i) for i in range(data.draw(st.integers(1, 3)))]
    loads = [2, *sorted(data.draw(st.integers(2, 12)) for _ in contexts[2:]), 12][-len(contexts):]
    arguments = dict(alpha=data.draw(st.sampled_from([0.1, 0.5, 2.0])),
                     use_ignore=data.draw(st.booleans()), ignore_label=1)
    way = data.draw(st.sampled_from([OfGluon, OfModule]))(data, contexts, loads, arguments)
    want = np.zeros((4, 3))
    failures = data.draw(st.lists(st.sampled_from([None, 'label', 'before', 'after']), max_size=3))
    for failure in [*failures, None]:
        passes = data.draw(st.integers(1, 2))
        x, y = random.randn(passes, 12, 3).astype(way.dtype), random.randint(0, 4, (passes, 12))
        which = random.randint(passes)
        if failure == 'label':
            y[which, random.randint(1, 12)] = 4
        try:
            for number in range(passes):
                way.run(x[number], y[number], (failure, which) != ('before', number))
                if failure in ('before', 'after') and which == number:
                    raise ZeroDivisionError
            way.step()
        except ZeroDivisionError:
            if failure == 'after' or which:
                way.trainer.drop()
        except mx.MXNetError:
            assert failure == 'label'
            settle()
        else:
            assert failure is None
            want = oracle.center_loss(x.reshape(-1, 3), y.reshape(-1), want, **arguments).centers
            copies = [centers.asnumpy() for centers in way.copies()]
            np.testing.assert_allclose(copies[0], want, rtol=1e-5, atol=1e-5)
            for other in copies[1:]:
                np.testing.assert_array_equal(other, copies[0])


# -- several workers


@pytest.mark.slow
@pytest.mark.parametrize('way', ['store', 'module'])
def test_all_parameters_of_two_workers_are_those_of_one_process(way, launched, tmp_path):
    """Weights, and the centers of two losses."""
    launched(horovod_worker.__file__, way, tmp_path, '--contexts', 2, '--kv-store', 'dist_sync')
    horovod_worker.check(way, tmp_path, workers=2, contexts=2)


@pytest.mark.slow
def test_a_server_that_runs_the_optimizer_is_named(launched):
    """After a step that failed on one worker: the other one waits until its next step."""
    said = launched('''if True:
        import center_loss_op, mxnet as mx
        store, contexts = mx.kv.create('dist_sync'), [mx.cpu(0), mx.cpu(1)]
        loss = center_loss_op.gluon.CenterLoss(2, in_units=1, alpha=1)
        loss.initialize(ctx=contexts)
        trainer = center_loss_op.gluon.CenterTrainer(loss, store)
        failed, step = 0, 0
        while step < 2:
            label = 2 if store.rank and step == 1 and not failed else 0
            for context in contexts:
                loss.update(mx.nd.full((1, 1), 5 * step + 10 * failed, context),
                            mx.nd.full(1, label * context.device_id, context))
            try:
                trainer.step()
                step += 1
            except mx.MXNetError:
                failed += 1
        centers = [copy.asnumpy()[:, 0] for copy in loss.centers.list_data()]
        print(failed, *centers)
        store.set_optimizer(mx.optimizer.SGD())
        try:
            trainer.step()
        except RuntimeError as error:
            print(error, loss.centers.list_data()[0].asnumpy()[:, 0] == centers[0])''')
    # By hand: the centers stay 0, then 0 + (5 + 5 + 15 + 15) / (1 + 4).
    for failed in 0, 1:
        assert f'{failed} [8. 0.] [8. 0.]' in said
    assert said.count('update_on_kvstore=False') == said.count('[ True  True]') == 2


# -- stores


class Asynchronous(mx.kvstore.KVStoreBase):
    type, rank, num_workers = 'dist_async', 0, 1


class AlmostStore:
    type, rank, num_workers = 'local', 0, 1


ONE_WORKER = ('^MXNet has no key-value store .*, and takes the name for .local.* use .local. or '
              r".device., or for several workers create .*mx.kv.create\('dist_sync'\) or "
              r'center_loss_op.horovod.Horovod\(\)')
NO_STORE = (r'^kvstore must be the name of a type of store or a store \(with broadcast, pushpull, '
            r'.*\), got ')
NAME = 'is not a store but its name: for several workers create the store.*give it to both trainers'


@pytest.mark.parametrize('store, error, text', [
    ('dist_sync', ValueError, NAME),
    # `gluon.Trainer` takes the name, too, and does without a store on a single device.
    ('Horovod', ValueError, f'{NAME}|{ONE_WORKER}'),
    # MXNet makes a local one of any name.
    ('devise', ValueError, ONE_WORKER), ('', ValueError, ONE_WORKER),
    (lambda: mx.kv.create('mpi'), ValueError, ONE_WORKER),
    ('dist_async', ValueError, 'applies the push of each worker'),
    (Asynchronous, ValueError, "'dist_async'.*sum over all workers.*'dist_sync'"),
    (lambda: None, TypeError, NO_STORE), (AlmostStore, TypeError, NO_STORE)])
def test_stores_that_are_refused(store, error, text):
    """And the loss goes on without a trainer."""
    loss = CenterLoss(3, in_units=2)
    loss.initialize()
    for trainer in (lambda kvstore: CenterTrainer(loss, kvstore),
                    lambda kvstore: center_loss_op.module.CenterTrainer('k', kvstore)):
        with pytest.raises(error, match=text) as caught:
            trainer(store() if callable(store) else store)
        assert '\n' not in str(caught.value)
    backward(loss)
    assert loss.centers.data().asnumpy().any()


@pytest.mark.slow
def test_without_horovod(child):
    """Its store says what to do; and MXNet's store of that name, which is a local one, is none."""
    done = child('''if True:
        import sys
        sys.modules['horovod'] = None
        import center_loss_op, mxnet as mx
        loss = center_loss_op.gluon.CenterLoss(3, in_units=2)
        try:
            center_loss_op.gluon.CenterTrainer(loss, mx.kv.create('horovod'))
        except ValueError as error:
            print(error)
        import center_loss_op.horovod
        center_loss_op.horovod.Horovod()''')
    assert done.stdout.startswith("MXNet has no key-value store 'horovod', and takes the name for")
    assert 'ImportError: Horovod cannot be imported' in done.stderr.splitlines()[-1]
    assert 'HOROVOD_WITH_MXNET=1 pip install' in done.stderr.splitlines()[-1]


@pytest.mark.parametrize('launcher, number, warned', [
    ('OMPI_COMM_WORLD_SIZE', '4', True), ('HOROVOD_SIZE', '1', False)])
def test_a_store_of_one_worker_among_several_is_named(launcher, number, warned, monkeypatch, log):
    """As `CenterTrainer(loss)` beside Horovod's trainer is: once."""
    monkeypatch.setenv(launcher, number)
    loss, trainer = made()
    for _ in range(2):
        backward(loss)
        trainer.step()
    assert log().count("%s workers were started, but the key-value store 'device' is of this one "
                       'alone' % number) == warned


def test_labels_that_the_store_would_round_are_refused():
    classes = 2 ** 24 + 2
    loss = CenterLoss(classes, in_units=1)
    loss.initialize()
    with pytest.raises(ValueError, match='%d classes of float32' % classes):
        CenterTrainer(loss).step()


# -- which backward passes belong to a step


def test_more_backward_passes_than_before_are_named(log):
    """As after a step that an exception ended; not several calls before one backward pass."""
    loss, trainer = made()
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
    trainer.drop()      # the first step after it says how many are right
    for passes in 3, 2, 3, 4:
        for _ in range(passes):
            backward(loss)
        trainer.step()
    assert log().count('call drop()') == 2 and 'samples of 4 backward passes' in log()


def test_a_step_without_samples_is_named():
    loss, trainer = made()
    backward(loss, train_mode=False)
    with pytest.raises(RuntimeError, match='no backward pass of key.*update'):
        trainer.step()


def test_samples_where_no_centers_are_are_named():
    """They are those of another node with the key."""
    loss, trainer = made()
    data, label, centers = (array.as_in_context(mx.cpu(1)) for array in (
        mx.nd.ones((4, 2)), LABELS, mx.nd.zeros((3, 2))))
    data.attach_grad()
    with mx.autograd.record():
        value = mx.nd.Custom(data, label, centers, op_type='centerloss', num_class=3,
                             key=loss._attributes['key'])
    value.backward()
    with pytest.raises(RuntimeError, match=r"^samples of key='.*' on cpu\(1\), where"):
        trainer.step()


def test_hoarding_is_named(caplog, monkeypatch):
    monkeypatch.setattr(gathered, '_TOO_MANY', 3)
    loss, trainer = made()
    for _ in range(3):
        backward(loss)
    with pytest.raises(mx.MXNetError):
        backward(loss)
    assert '3 backward passes' in caplog.text and 'call its step() once' in caplog.text
    trainer.step()  # and from here on, there is room again
    backward(loss)


def test_a_trainer_that_is_gone_is_named(caplog):
    """Nothing could ever call its step: the samples would be kept for nothing."""
    loss, _ = made()
    del _
    with pytest.raises(mx.MXNetError):
        backward(loss)
    assert 'nothing moves the centers of key' in caplog.text


# -- which trainer moves which centers


@pytest.mark.parametrize('hybridize', [False, True])
def test_the_newest_trainer_of_a_loss_counts(hybridize):
    """Also of a net that keeps the graph of its first pass; the older one says so."""
    store = mx.kv.create('local')
    loss, _ = made()
    old, net = CenterTrainer(loss, store), Inside(loss)
    net.hybridize(hybridize)
    backward(net, value=0)
    old.step()
    backward(net, value=50)  # a pass whose step never came, as of a loop that was interrupted
    new = CenterTrainer(loss, store)
    backward(net, value=2)
    with pytest.raises(RuntimeError, match='newer CenterTrainer of key=.*call its step'):
        old.step()
    assert first(loss) == [0, 0]
    new.step()
    assert first(loss) == [1, 1]


@pytest.mark.parametrize('shared', [False, True])
def test_two_losses_of_one_name(shared):
    """A trainer each, of centers of its own, or of the same, which move by one, then the other."""
    one, trainer = made(prefix='center_loss_')
    other, others = made(prefix='center_loss_', params=one.params if shared else None)
    backward(one, value=2)
    backward(other, value=7)
    trainer.step()
    assert first(one) == [1, 1]
    others.step()
    assert first(other) == ([4, 4] if shared else [3.5, 3.5])


def test_a_copy_of_a_loss_has_no_trainer():
    """It moves its own centers until it gets one, and its samples are not the original's."""
    loss, trainer = made()
    other = copy.deepcopy(loss)
    backward(loss, value=2)
    backward(other, value=200)
    trainer.step()
    assert (first(loss), first(other)) == ([1, 1], [100, 100])


def test_a_file_has_no_trainer(tmp_path):
    """A network in it moves its own centers at once: imported, and in a Module."""
    loss, trainer = made()
    net = Inside(loss)
    net.hybridize()
    backward(net, value=2)
    trainer.step()
    net.export(str(tmp_path / 'net'))
    path = str(tmp_path / 'net-symbol.json')
    imported = mx.gluon.SymbolBlock.imports(path, ['data0', 'data1'],
                                            str(tmp_path / 'net-0000.params'))
    backward(imported, value=5)
    executor = mx.sym.load(path).simple_bind(mx.cpu(), data0=(4, 2), data1=(4,))
    executor.arg_dict['data0'][:] = 8
    executor.arg_dict['data1'][:] = LABELS
    executor.forward(is_train=True)
    executor.backward(mx.nd.ones(4))
    backward(net, value=11)
    trainer.step()      # and the network that was exported has its trainer
    for array, center in [(loss.centers.data(), 6), (executor.aux_arrays[0], 4),
                          (imported.collect_params()[loss.centers.name].data(), 3)]:
        np.testing.assert_array_equal(array.asnumpy()[0], center)
    # Its centers get no gradient, also if all parameters are to add theirs.
    imported.collect_params().setattr('grad_req', 'add')
    optimizer = mx.gluon.Trainer(imported.collect_params(), 'sgd')
    backward(imported)
    optimizer.step(4)


def test_a_file_of_2_1_0_has_no_trainer():
    """Nor has a graph; but a block around the parameters of a network has that of the network."""
    loss, trainer = made()
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


# -- Module


def test_alpha_of_a_node_and_of_the_trainer():
    """As the operator reads it, whatever else MXNet writes on the node; it may change."""
    with mx.AttrScope(ctx_group='dev1', lr_mult='0.1'):
        module = module_of(center_loss(EMBEDDING, LABEL, 3, key='alpha', name='cl', alpha=3))
    trainer = center_loss_op.module.CenterTrainer('alpha')
    assert module_step(module, trainer, 2) == {'cl_center_bias': 3}
    assert trainer.alpha is None
    trainer.alpha = 0.5
    assert module_step(module, trainer, 1) == {'cl_center_bias': 2.5}   # 3 + .5 · (1 − 3) / 2
    with pytest.raises(ValueError, match='^alpha must be a finite number >= 0'):
        trainer.alpha = -1


def test_a_key_belongs_to_one_node():
    """Which may have centers of the user's own name."""
    mine = mx.sym.Custom(EMBEDDING, LABEL, mx.sym.var('mine_bias'), op_type='centerloss',
                         num_class=3, key='a', alpha=1)
    module = module_of(mine, *(center_loss(EMBEDDING, LABEL, 3, key=key, name=name)
                               for key, name in [('b', 'left'), ('c', 'third'), ('b', 'right')]))
    trainers = {key: center_loss_op.module.CenterTrainer(key) for key in 'abcd'}
    assert module_step(module, trainers['a'], 2) == {
        'mine_bias': 1, 'left_center_bias': 0, 'right_center_bias': 0, 'third_center_bias': 0}
    for key, found in ('b', 'left, right'), ('d', 'none'):
        with pytest.raises(ValueError, match=f"one center loss with key='{key}', found {found}: "):
            trainers[key].step(module)


def test_parameters_that_are_read_before_a_step_do_not_undo_it():
    """As a callback that saves a checkpoint reads them, in front of the trainer's."""
    module = module_of(center_loss(EMBEDDING, LABEL, 3, key='read', name='cl', alpha=1))
    batches = mx.io.NDArrayIter(np.full((4, 2), 5, 'float32'), np.zeros(4), 4, label_name='label')
    module.fit(batches, num_epoch=1, force_rebind=True, eval_metric=mx.metric.Loss(),
               batch_end_callback=[lambda param: param.locals['self'].get_params(),
                                   center_loss_op.module.CenterTrainer('read')])
    centers = module.get_params()[1]['cl_center_bias'].asnumpy()
    np.testing.assert_array_equal(centers[0], 4)    # 0 + 4 · 5 / (1 + 4)


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


@pytest.mark.parametrize('variables, error, text', [
    (None, TypeError, r'call center_trainer.step\(module\) after module.update'),
    ({'self': None}, TypeError, r'call center_trainer.step\(module\) after module.update'),
    # Of which `fit` has made a local store.
    ({'self': mx.mod.Module(EMBEDDING), 'kvstore': 'foo'}, ValueError, ONE_WORKER)])
def test_callbacks_that_are_refused(variables, error, text):
    with pytest.raises(error, match=text):
        center_loss_op.module.CenterTrainer('k')(mx.model.BatchEndParam(0, 0, None, variables))


@pytest.mark.parametrize('module, error, text', [
    (mx.mod.SequentialModule(), TypeError, 'module must be a mx.mod.Module or a bound'),
    (None, TypeError, 'module must be a mx.mod.Module or a bound'),
    (mx.mod.BucketingModule(lambda key: (EMBEDDING, ['data'], None), 0), TypeError,
     'module must be a mx.mod.Module or a bound mx.mod.BucketingModule, got '),
    (mx.mod.Module(center_loss(DATA, LABEL, 3, key='faces'), label_names=['label']), ValueError,
     'the module is not bound')])
def test_modules_that_are_refused(module, error, text):
    with pytest.raises(error, match=f'^{text}'):
        center_loss_op.module.CenterTrainer('faces').step(module)
