"""Reading the centers returns the right values, without a wait by the reader.

The oracle is a second training of the same batches that waits for everything after each step. Each
path runs with the default step, and with a step in Python whose update takes 3 ms: without fences,
nearly every read after a backward pass is stale then.
"""
import copy
import os
import pickle
import sys
import time
from unittest import mock

from center_loss_op import _mxnet
from center_loss_op._operator import step
from center_loss_op.gluon import CenterLoss
from center_loss_op.symbol import center_loss

import mxnet as mx
import numpy as np
import oracle
import pytest
from entries import Inside, array, bind
from mxnet import autograd, gluon
from numpy.testing import assert_allclose, assert_array_equal

STEPS = 8
RANDOM = np.random.RandomState(3)
DATA = RANDOM.randn(STEPS, 6, 3).astype('float32')
LABEL = RANDOM.randint(0, 4, (STEPS, 6)).astype('float32')


def centers_of(data=DATA, label=LABEL):
    """The oracle's centers after each batch."""
    centers, after = np.zeros((4, 3)), []
    for x, y in zip(data, label):
        centers = oracle.center_loss(x, y, centers).centers
        after.append(centers)
    return after


@pytest.fixture(params=['default', 'slow'])
def update(request):
    """The default step, or one in Python whose update of the centers takes 3 ms."""
    if request.param == 'default':
        yield
        mx.nd.waitall()
        return
    request.getfixturevalue('in_python')
    move = step.move

    def slow(*args):
        time.sleep(0.003)
        move(*args)
    with mock.patch.object(step, 'move', slow):
        yield
        mx.nd.waitall()


def initialized(net, **hybridize):
    net.initialize(mx.init.Zero())
    if hybridize:
        net.hybridize(**hybridize)
    return net


# -- each path: a function from nothing to the centers that are read right after each step


def read_executor(folder):
    symbol = center_loss(mx.sym.var('data'), mx.sym.var('label'), 4, name='c')
    executor = bind(symbol, DATA[0], LABEL[0], np.zeros((4, 3), 'float32'))
    for x, y in zip(DATA, LABEL):
        executor.forward(is_train=True, data=array(x), label=array(y))
        executor.backward()
        yield executor.aux_dict['c_center_bias']


def steps_of(net):
    for x, y in zip(DATA, LABEL):
        x = array(x)
        x.attach_grad()
        with autograd.record():
            loss = net(x, array(y))
        loss.backward()
        yield


def read_block(folder, **hybridize):
    loss = initialized(CenterLoss(4, 3), **hybridize)
    for _ in steps_of(loss):
        yield loss.centers.data()


def read_inside(folder, **hybridize):
    net = initialized(Inside(CenterLoss(4)), **hybridize)
    for _ in steps_of(net):
        yield net.loss.centers.list_data()[0]


def read_copied(folder):
    """Of steps that nothing but the copy knows of: they are not the block's own."""
    loss = initialized(CenterLoss(4, 3))
    centers, = loss.centers.list_data()
    for _ in steps_of(lambda x, y: mx.nd.Custom(x, y, centers, op_type='centerloss', num_class=4)):
        yield copy.deepcopy(loss).centers.data()


def read_imported(folder):
    net = initialized(Inside(CenterLoss(4, 3)), **STATIC)
    net(array(DATA[0]), array(LABEL[0]))
    net.export(f'{folder}/net')
    net = gluon.SymbolBlock.imports(f'{folder}/net-symbol.json', ['data0', 'data1'],
                                    f'{folder}/net-0000.params')
    net.hybridize(**STATIC)
    centers, = (p for name, p in net.collect_params().items() if name.endswith('center_bias'))
    for _ in steps_of(net):
        yield centers.data()


def read_exported(folder):
    net = initialized(Inside(CenterLoss(4, 3)), **STATIC)
    for _ in steps_of(net):
        net.export(f'{folder}/net')
        yield mx.nd.load(f'{folder}/net-0000.params')[f'aux:{net.loss.centers.name}']


STATIC = dict(static_alloc=True, static_shape=True)


def check(path, **arguments):
    read = [centers.asnumpy() for centers in path(**arguments)]
    assert_allclose(read, centers_of(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('path, arguments', [
    (read_executor, {}), (read_block, {}), (read_block, dict(static_alloc=True)),
    (read_inside, {}), (read_inside, STATIC), (read_copied, {})])
@pytest.mark.usefixtures('update')
def test_reads_after_a_step(path, arguments):
    check(path, folder=None, **arguments)


@pytest.mark.parametrize('path', [read_imported, read_exported])
@pytest.mark.usefixtures('update')
def test_reads_of_files_after_a_step(path, tmp_path):
    check(path, folder=tmp_path)


def test_reads_after_a_step_in_a_build_without_onednn(monkeypatch):
    monkeypatch.setattr(_mxnet.centers, '_to_plain_layout', None)
    check(read_block, folder=None)


# -- Module: nothing waits for the last update of an epoch


def graph():
    data, label = mx.sym.var('data'), mx.sym.var('softmax_label')
    embedding = mx.sym.FullyConnected(data, num_hidden=3, name='embedding')
    scores = mx.sym.FullyConnected(embedding, num_hidden=4, name='scores')
    return mx.sym.Group([mx.sym.SoftmaxOutput(scores, label, name='softmax'),
                         center_loss(embedding, label, 4, scale=0.1, name='center_loss')])


def ends_of_epochs(epochs, **callbacks):
    """The centers that a callback at the end of each epoch reads."""
    read = []
    batches = mx.io.NDArrayIter(np.tile(DATA.reshape(-1, 3), (1, 5)), LABEL.reshape(-1), 6)
    mx.mod.Module(graph()).fit(
        batches, num_epoch=epochs, initializer=mx.init.One(),
        eval_metric=mx.metric.Accuracy(output_names=['softmax_output'],
                                       label_names=['softmax_label']),
        epoch_end_callback=lambda epoch, symbol, args, states: read.append(
            states['center_loss_center_bias'].asnumpy()), **callbacks)
    return read


@pytest.mark.usefixtures('update')
def test_module_fit():
    read = ends_of_epochs(6)
    want = ends_of_epochs(6, batch_end_callback=lambda param: mx.nd.waitall())
    assert len({value.tobytes() for value in want}) == 6
    assert_array_equal(read, want)


# -- while recording


@pytest.mark.parametrize('hybridize', [{}, STATIC])
def test_another_term_reads_the_centers_of_before_the_update(hybridize):
    """By hand: f = [3], centers [1] and [2], y = 0: d/df of f·1 + f·2 + ½ (f − 1)² is 3 + 2."""
    loss = initialized(CenterLoss(2, 1), **hybridize)
    loss.centers.set_data(mx.nd.array([[1], [2]]))
    for _ in range(2):  # hybridized, the first call makes the graph
        loss.centers.set_data(mx.nd.array([[1], [2]]))
        feature, label = mx.nd.array([[3]]), mx.nd.array([0])
        feature.attach_grad()
        with autograd.record():
            centers = loss.centers.data()
            total = mx.nd.dot(feature, centers, transpose_b=True).sum(axis=1) + loss(feature, label)
        total.backward()
        assert feature.grad.asscalar() == 5
        assert_array_equal(centers.asnumpy(), [[1], [2]])
        assert_array_equal(loss.centers.data().asnumpy(), [[1.5], [2]])


class Repelling(gluon.HybridBlock):
    """Center loss, and a term of its own on its centers."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss
        self.centers = loss.centers

    def hybrid_forward(self, F, x, label, centers):
        before = F.identity(centers)    # a copy: the centers move before the term's backward pass
        return F.dot(x, before, transpose_b=True).sum(axis=1) + self.loss(x, label)


# -- arrays that several share


@pytest.mark.parametrize('hybridize', [{}, dict(static_alloc=True)])
def test_two_forward_passes_and_two_backward_passes(hybridize):
    loss = initialized(CenterLoss(4, 3, alpha=0), **hybridize)
    label = array(LABEL[0])
    features = [array(DATA[0]), array(DATA[1])]
    for feature in features:
        feature.attach_grad()
    with autograd.record():
        losses = [loss(feature, label) for feature in features]
    for value in losses:
        value.backward()
    for feature in features:
        assert_array_equal(feature.grad.asnumpy(), feature.asnumpy())


THREADS = '''
import threading
import center_loss_op, mxnet as mx
from center_loss_op.gluon import CenterLoss
label = mx.nd.array([0, 1, 2, 3, 0, 1])
def train():
    feature = mx.nd.ones((6, 3))
    feature.attach_grad()
    for _ in range(200):
        with mx.autograd.record():
            value = loss(feature, label)
        value.backward()
for hybridized in False, True:
    loss = CenterLoss(4, 3)
    loss.initialize()
    if hybridized:
        loss.hybridize()
        loss(mx.nd.ones((6, 3)), label)
    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    mx.nd.waitall()
    assert (loss.centers.data().asnumpy().round(3) == 1).all()
'''


@pytest.mark.slow
def test_threads_that_share_label_and_centers(child):
    for _ in range(3):
        done = child(THREADS)
        assert done.returncode == 0, done.stderr


def test_blocks_that_share_centers_with_a_term_are_copied_together():
    """The copy of a block around the loss reads the centers of its copy of the loss."""
    net = initialized(Repelling(CenterLoss(2, 1)))
    for duplicate in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert duplicate.centers is duplicate.loss.centers is not net.loss.centers
        duplicate.loss.centers.set_data(mx.nd.array([[3], [4]]))
        assert_array_equal(duplicate.centers.data().asnumpy(), [[3], [4]])
    assert_array_equal(net.centers.data().asnumpy(), [[0], [0]])


@pytest.mark.parametrize('hybridize', [{}, STATIC])
def test_centers_among_the_inputs_of_an_imported_block(hybridize):
    """Such a block has no parameter for them: the array that it is given moves."""
    data, label, centers = (mx.sym.var(name) for name in ('data', 'label', 'centers'))
    symbol = mx.sym.Custom(data, label, centers, op_type='centerloss', num_class=4,
                           reduction='none', need_top_grad=True)
    net = initialized(gluon.SymbolBlock(symbol, [data, label, centers]), **hybridize)
    assert not list(net.collect_params())
    given = mx.nd.zeros((4, 3))
    for _ in steps_of(lambda x, y: net(x, y, given)):
        mx.nd.waitall()
    assert_allclose(given.asnumpy(), centers_of()[-1], rtol=1e-5)


# -- reads that were queued before a step: slow ones, and an engine with two workers


BEFORE = '''
import center_loss_op
import mxnet as mx
from center_loss_op.gluon import CenterLoss
from center_loss_op.symbol import center_loss

classes, size, steps = 85742, 128, 10
data, label = mx.nd.ones((64, size)), mx.nd.arange(64) * 1000
last = classes - 1      # a slow read comes to the last class last
label[0] = last

def executor():
    """A copy of the states, as Module.get_params makes one."""
    symbol = center_loss(mx.sym.var('data'), mx.sym.var('label'), classes, name='c')
    executor = symbol.simple_bind(mx.cpu(), data=data.shape, label=label.shape,
                                  grad_req={'data': 'write'})
    executor.copy_params_from({'data': data, 'label': label})
    centers = executor.aux_dict['c_center_bias']
    for _ in range(steps):
        before = centers[last].asnumpy()
        executor.forward(is_train=True)
        copy = centers.copy()
        executor.backward()
        yield before, copy[last].asnumpy()

def shared():
    """The gradient of a second node with the same centers, whose forward pass takes longer."""
    centers = mx.sym.var('centers', stype='default')
    symbol = mx.sym.Group([mx.sym.Custom(
        mx.sym.var('data%d' % i), mx.sym.var('label%d' % i), centers, op_type='centerloss',
        num_class=10, reduction='none', name='c%d' % i) for i in range(2)])
    executor = symbol.simple_bind(mx.cpu(), data0=(10, 8), data1=(40000, 8), label0=(10,),
                                  label1=(40000,), grad_req={'data0': 'write', 'data1': 'write'})
    executor.arg_dict['data0'][:], executor.arg_dict['label0'][:] = 1, mx.nd.arange(10)
    executor.arg_dict['label1'][:] = 9
    for _ in range(steps):
        before = executor.aux_dict['centers'][9].asnumpy()
        executor.forward(is_train=True)
        executor.backward()
        yield before, -executor.grad_dict['data1'][39999].asnumpy()

def block():
    """Copies that are taken while recording and after it; the array itself, which then moves."""
    loss = CenterLoss(classes, size)
    loss.initialize()
    for step in range(steps):
        before = loss.centers.data()[last].asnumpy()
        features = data.copy()
        features.attach_grad()
        with mx.autograd.record():
            if step % 2:
                recorded = loss.centers.data()
            value = loss(features, label)
            if not step % 2:
                recorded = loss.centers.data()
        centers = loss.centers.data()
        copy = centers.copy()
        value.backward()
        after = centers[last].asnumpy()
        yield before, recorded[last].asnumpy()
        yield before, copy[last].asnumpy()
        mx.nd.waitall()
        yield centers[last].asnumpy(), after

for path in executor, shared, block:
    print(path.__name__, sum((before != read).any() for before, read in path()))
'''


@pytest.mark.parametrize('native', [pytest.param(0, marks=pytest.mark.slow), 1])
def test_reads_before_a_step(native, child):
    """They return the centers before the step, however long they take."""
    done = child(BEFORE, CENTER_LOSS_NATIVE=native, MXNET_CPU_WORKER_NTHREADS=2)
    assert done.stdout.splitlines() == ['executor 0', 'shared 0', 'block 0'], done.stderr


@pytest.mark.slow
def test_reads_with_two_workers(child):
    """The tests of reading above, in a process whose engine has two workers for the CPU."""
    code = 'import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))'
    done = child(code, '-q', '-x', '-p', 'no:cacheprovider', __file__, '-k',
                 'not before_a_step and not two_workers and not threads',
                 MXNET_CPU_WORKER_NTHREADS=2, PYTHONPATH=os.pathsep.join(sys.path))
    assert done.returncode == 0, done.stdout
