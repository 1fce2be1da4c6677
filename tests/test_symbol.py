"""The symbol builder, and the Module API around it."""
import itertools
import warnings

from center_loss_op._mxnet.graph import center_losses
from center_loss_op._operator.arguments import warn_once
from center_loss_op.gluon import CenterLoss
from center_loss_op.module import CenterTrainer
from center_loss_op.symbol import center_loss

import hypothesis
import mxnet as mx
import numpy as np
import oracle
import pytest
from cases import batch, random_arguments
from hypothesis import strategies as st
from numpy.testing import assert_allclose

DATA, LABEL, CENTERS = batch(6, 3, 4)


def node(**arguments):
    """The loss of variables."""
    return center_loss(mx.sym.var('data'), mx.sym.var('label'), **{'num_class': 4, **arguments})


# -- at random: one or two losses in a Module, with centers of their own or shared


@pytest.mark.filterwarnings('ignore:the argument scale_output')
@hypothesis.given(st.lists(random_arguments('usual'), min_size=1, max_size=2), st.booleans(),
                  st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=4))
def test_any_module(losses, shared, batches):
    """Batches of any size: outputs, gradient and moved centers, read right after each step."""
    x, y, variable = (mx.sym.var(name) for name in ('data', 'label', 'centers_bias'))
    outs, names = [], []
    for number, arguments in enumerate(losses):
        arguments['num_class'] = 4
        loss = center_loss(x, y, center_bias=variable if shared else None,
                           name='loss%d' % number, **arguments)
        names.append('centers_bias' if shared else 'loss%d_center_bias' % number)
        # A part of a larger loss has to be in one; a factor around a loss layer has no effect.
        outs.append(mx.sym.MakeLoss(loss, grad_scale=.25))
    net = mx.mod.Module(mx.sym.Group(outs), label_names=['label'])
    net.bind([('data', (6, 3))], [('label', (6,))], inputs_need_grad=True)
    net.init_params(mx.init.Zero())
    net.set_params({}, {name: mx.nd.array(CENTERS) for name in names})

    def centers():
        states = net._exec_group.execs[0].aux_dict
        return {name: states[name].asnumpy() for name in names}

    for seed, (samples, is_train) in enumerate(batches):
        data, label, _ = batch(samples, 3, 4, seed=seed)
        before = centers()
        given = mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(label)])
        net.forward(given, is_train=is_train)
        if is_train:
            net.backward()
        after, grad = centers(), np.zeros_like(data, dtype=float)
        moved = {name: value.astype(float) for name, value in before.items()}
        for out, name, arguments in zip(net.get_outputs(), names, losses):
            head = np.full(out.shape, .25)
            want = oracle.center_loss(data, label, before[name], head, **arguments)
            grad += want.grad
            moved[name] = moved[name] + (want.centers - before[name]) * is_train
            assert_allclose(out.asnumpy(), want.loss, rtol=1e-4, atol=1e-5)
        if is_train:
            assert_allclose(net.get_input_grads()[0].asnumpy(), grad, rtol=1e-4, atol=1e-4)
        for name in names:
            assert_allclose(after[name], moved[name], rtol=1e-4, atol=1e-4)


# -- the node


def test_name():
    assert node(name='mine').list_auxiliary_states() == ['mine_center_bias']
    with mx.name.Prefix('net_'):
        assert node(name='mine').name == 'net_mine'


@pytest.mark.parametrize('loss_first', [True, False])
@pytest.mark.parametrize('shapes, wanted', [
    ({}, [(6,), (6, 3), (6, 3)]), ({'label': (6,)}, [(6,), (6, 3), (6, 3)]),
    ({'label': (0,)}, [(6,), (6, 3), (6, 3)]), ({'label': (0, 1)}, [(6, 1), (6, 3), (6, 3)]),
    ({'data': (0, 0)}, [(6,), (6, 3), (6, 3)]), ({'label': (6,), 'data': (0, 3), 'other': None},
                                                  [(6,), (6, 3), (6, 3)])])
def test_shapes_that_are_not_known_at_first(shapes, wanted, loss_first):
    """Those of the features come from another operator, in any order; 0 is unknown to MXNet."""
    data, other = mx.sym.var('data', shape=shapes.get('data')), mx.sym.var('other')
    label = mx.sym.var('label', shape=shapes.get('label'))
    outs = [center_loss(data, label, 4), mx.sym.elemwise_add(data, other)]
    given = {} if 'other' in shapes else {'other': (6, 3)}
    found = mx.sym.Group(outs if loss_first else outs[::-1]).infer_shape(**given)
    names = mx.sym.Group(outs if loss_first else outs[::-1]).list_arguments()
    assert dict(zip(names, found[0])) == dict(zip(['label', 'data', 'other'], wanted))
    assert sorted(found[1]) == [(6,), (6, 3)] and found[2] == [(4, 3)]


@pytest.mark.parametrize('name, given, error, text', [
    ('data', mx.nd.zeros((2, 2)), TypeError, 'must be a Symbol, got'),
    ('label', None, TypeError, 'must be a Symbol, got None'),
    ('center_bias', 'centers', TypeError, "must be a Symbol, got 'centers'"),
    ('center_bias', mx.sym.identity(mx.sym.var('x')), ValueError, 'must be a variable'),
    ('center_bias', mx.sym.zeros((4, 3)), ValueError, 'must be a variable'),
    ('center_bias', mx.sym.Group([mx.sym.var('x'), mx.sym.var('y')]), ValueError,
     'must be a variable'),
    ('center_bias', mx.sym.var('x', stype='row_sparse'), ValueError, "must have stype='default'")])
def test_bad_inputs(name, given, error, text):
    with pytest.raises(error, match=f'{name} {text}'):
        center_loss(**{'data': mx.sym.var('data'), 'label': mx.sym.var('label'), 'num_class': 4,
                       name: given})


def test_old_spellings():
    """Each works as before, and warns once."""
    loss = CenterLoss(4)
    warn_once.cache_clear()
    for name, value in ('key', 'faces'), ('scale_output', True):
        with pytest.warns(FutureWarning, match=f'the argument {name} of center_loss') as caught:
            old = [node(name='old', **{name: value}) for _ in range(2)]
        assert [warning.filename for warning in caught] == [__file__]
        new = mx.sym.Custom(mx.sym.var('data'), mx.sym.var('label'), num_class=4, name='old',
                            op_type='centerloss', reduction='none', **{name: value})
        assert old[0].tojson() == old[1].tojson() == new.tojson()
    with pytest.warns(FutureWarning, match='CenterLoss.key is deprecated') as caught:
        assert loss.key == loss.key == ''
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.raises(TypeError, match="unexpected keyword argument 'keys'"):
        node(keys='faces')


def test_a_trainer_marks_its_node():
    """No warning; its key is that of the node."""
    loss = node(name='loss')
    graph = mx.sym.Group([mx.sym.BlockGrad(loss), loss])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        first, second = CenterTrainer(loss), CenterTrainer(loss)
    found, = center_losses(graph)
    assert found.attributes['key'].startswith('loss/')
    net = mx.mod.Module(loss, label_names=['label'])
    net.bind([('data', (6, 3))], [('label', (6,))], inputs_need_grad=True)
    net.init_params(mx.init.Zero())
    net.init_optimizer()
    net.forward_backward(mx.io.DataBatch([mx.nd.array(DATA)], [mx.nd.array(LABEL)]))
    second.step(net)
    assert_allclose(net.get_params()[1]['loss_center_bias'].asnumpy(),
                    oracle.center_loss(DATA, LABEL, np.zeros((4, 3))).centers, rtol=1e-5)
    with pytest.raises(RuntimeError, match='newer CenterTrainer'):
        first.step(net)
    for other in graph, mx.sym.var('x'), mx.sym.identity(loss):
        with pytest.raises(ValueError, match='key must be what symbol.center_loss returned'):
            CenterTrainer(other)


# -- a variable for the centers


def with_variable(order, **variable):
    """Two center losses and a mean similarity on one set of centers, in any order of outputs."""
    data, label = mx.sym.var('data'), mx.sym.var('label')
    centers = mx.sym.var('centers', **variable)
    outs = {'loss': center_loss(data, label, 4, center_bias=centers, name='loss'),
            'other': center_loss(2 * data, mx.sym.var('other_label'), 4, alpha=0.3, scale=0.1,
                                 center_bias=centers, name='other'),
            'term': mx.sym.MakeLoss(mx.sym.dot(data, mx.sym.identity(centers), transpose_b=True),
                                    name='term')}
    return mx.sym.Group([outs[name] for name in order])


VARIABLES = [{}, {'stype': 'default'}, {'init': mx.init.Normal(1)}, {'shape': (4, 3)},
             {'dtype': 'float32'}, {}]


@pytest.mark.parametrize('order, variable', zip(
    itertools.permutations(['loss', 'other', 'term']), VARIABLES))
def test_two_losses_and_a_term_on_one_variable(order, variable):
    """Whatever comes first in the graph. The labels of the losses have no class in common."""
    label, other = LABEL % 2, 2 + LABEL % 2
    net = with_variable(order, **variable)
    assert net.list_auxiliary_states() == ['centers']
    executor = net.simple_bind(mx.cpu(), data=DATA.shape)
    executor.aux_dict['centers'][:] = CENTERS
    outs = dict(zip(order, executor.forward(is_train=True, data=DATA, label=label,
                                            other_label=other)))
    executor.backward()
    want = oracle.center_loss(DATA, label, CENTERS, reduction='none')
    want_other = oracle.center_loss(2 * DATA, other, CENTERS, alpha=.3, scale=.1,
                                    reduction='none')
    assert_allclose(outs['loss'].asnumpy(), want.loss, rtol=1e-5)
    assert_allclose(outs['other'].asnumpy(), want_other.loss, rtol=1e-5)
    assert_allclose(outs['term'].asnumpy(), DATA @ CENTERS.T, rtol=1e-4, atol=1e-5)
    assert_allclose(executor.grad_dict['data'].asnumpy(),
                    want.grad + 2 * want_other.grad + CENTERS.sum(axis=0), rtol=1e-4, atol=1e-5)
    moved = np.concatenate([want.centers[:2], want_other.centers[2:]])
    assert_allclose(executor.aux_dict['centers'].asnumpy(), moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('order, initializer', [
    (['loss', 'term'], mx.init.Xavier()),
    (['term', 'loss'], mx.init.Mixed(['.*'], [mx.init.Zero()]))])
def test_the_initializer_of_the_variable(order, initializer):
    """It is used whatever the Module's is, and whatever the name of the variable."""
    data, label = mx.sym.var('data'), mx.sym.var('label')
    for name in 'centers', 'mine_center_bias':
        centers = mx.sym.var(name, init=mx.init.Normal(3))
        outs = {'loss': center_loss(data, label, 50, center_bias=centers),
                'term': mx.sym.make_loss(mx.sym.sum(mx.sym.identity(centers)))}
        net = mx.mod.Module(mx.sym.Group([outs[out] for out in order]), label_names=['label'])
        net.bind([('data', (6, 20))], [('label', (6,))])
        net.init_params(initializer)
        values = net.get_params()[1][name].asnumpy()
        assert values.shape == (50, 20) and 2.5 < values.std() < 3.5


# -- Module


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
def test_predict_of_one_number_per_batch(reduction):
    """MXNet cuts the padding of the last batch off each output."""
    data, label, centers = batch(13, 3, 4)
    features = mx.sym.FullyConnected(mx.sym.var('data'), num_hidden=3, no_bias=True, name='same')
    graph = mx.sym.Group([features, center_loss(features, mx.sym.var('softmax_label'), 4,
                                                reduction=reduction, name='loss')])
    module = mx.mod.Module(graph)
    batches = mx.io.NDArrayIter(data, label, 8)
    module.bind(batches.provide_data, batches.provide_label, for_training=False)
    module.init_params(arg_params={'same_weight': mx.nd.array(np.eye(3))},
                       aux_params={'loss_center_bias': mx.nd.array(centers)})
    features, losses = module.predict(batches)
    assert_allclose(features.asnumpy(), data, rtol=1e-6)
    padded = np.arange(16) % 13     # the last batch is filled up from the beginning
    wanted = [oracle.center_loss(data[rows], label[rows], centers, reduction=reduction).loss
              for rows in (padded[:8], padded[8:])]
    assert_allclose(losses.asnumpy(), np.concatenate(wanted)[:13], rtol=1e-5)
    parts = [[output.shape[0] for output in outputs]
             for outputs, *_ in module.iter_predict(batches)]
    assert parts == [[8, 8], [5, 5]] if reduction == 'none' else [[8, 1], [5, 1]]


def test_predict_of_a_module_without_a_graph():
    """A SequentialModule has no symbol of its own."""
    module = mx.mod.SequentialModule()
    graph = mx.sym.FullyConnected(mx.sym.var('data'), num_hidden=3)
    module.add(mx.mod.Module(graph, label_names=None))
    batches = mx.io.NDArrayIter(np.ones((5, 2)), batch_size=4)
    module.bind(batches.provide_data, for_training=False)
    module.init_params()
    assert module.predict(batches).shape == (5, 3)
