"""The Gluon block: as any other loss of Gluon, with centers that move."""
import copy
import pickle
import re

from center_loss_op.gluon import CenterLoss

import hypothesis
import mxnet as mx
import numpy as np
import pytest
from cases import batch
from entries import Inside, array, block, run_block
from hypothesis import strategies as st
from mxnet import autograd, gluon
from numpy.testing import assert_allclose, assert_array_equal
from oracle import center_loss, tolerance

DATA, LABEL, CENTERS = batch(6, 3, 4)
HYBRIDIZE = pytest.mark.parametrize('hybridize', [False, 'static'])
STATIC = dict(static_alloc=True, static_shape=True)


def bound(loss, **arguments):
    """Centers as they are now."""
    return loss.centers.data(**arguments).asnumpy()


# -- at random: a block alone or inside others, with everything that users do between steps

MODES = [dict(active=False), dict(static_alloc=False), dict(static_alloc=True), STATIC]
RATES = st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0])
ACTIONS = ['step', 'step', 'step', 'update', 'alpha', 'weight', 'infer', 'forward', 'hybridize',
           'deepcopy', 'pickle', 'save']
TRAININGS = st.fixed_dictionaries(dict(
    dtype=st.sampled_from(['float16', 'float32', 'float64']),
    label_type=st.sampled_from(['float32', 'int32', 'uint8', 'int8', 'int64', 'float64']),
    label_column=st.booleans(), in_units=st.sampled_from([0, 3]), depth=st.integers(0, 2),
    weighted=st.sampled_from([None, (-1,), (-1, 1)]), mode=st.sampled_from(MODES),
    arguments=st.fixed_dictionaries(dict(
        alpha=RATES, weight=st.none() | RATES, use_ignore=st.booleans(),
        ignore_label=st.sampled_from([-1, 2, 100]))),
    seed=st.integers(0, 9999)))


class Net:
    """A loss with blocks around it, and what the oracle says of it."""

    def __init__(self, training, tmp_path):
        self.training, self.path = training, str(tmp_path / 'net.params')
        self.arguments = training['arguments']
        self.net = self.made()
        self.net.initialize()
        self.net.cast(training['dtype'])
        self.net.hybridize(**training['mode'])

    def made(self):
        net = CenterLoss(4, self.training['in_units'], **self.arguments)
        for _ in range(self.training['depth']):
            net = Inside(net)
        return net

    @property
    def loss(self):
        net = self.net
        while not isinstance(net, CenterLoss):
            net = net.loss
        return net

    def batch(self, seed):
        """Features, labels, and the weights of the samples, if any."""
        data, label, _ = batch(1 + seed % 7, 3, 4, self.training['dtype'], seed)
        if self.arguments['use_ignore']:
            label[::3] = self.arguments['ignore_label']
        label = label.astype('int64').astype(self.training['label_type'])
        if self.arguments['use_ignore'] and self.training['label_type'] == 'uint8':
            label[label > 100] = 0
        weights = self.training['weighted'] and [np.random.RandomState(seed).randint(
            0, 4, len(data)).astype(data.dtype).reshape(self.training['weighted'])]
        return data, label[:, None] if self.training['label_column'] else label, weights or []

    def check(self, data, label, weights, before, out, grad=None, moved=True):
        scale = 1 if self.arguments['weight'] is None else self.arguments['weight']
        head = weights[0].reshape(-1).astype(float) if weights else np.ones(len(data))
        want = center_loss(data, label, before, head, alpha=self.arguments['alpha'], scale=scale,
                           use_ignore=self.arguments['use_ignore'], reduction='none',
                           ignore_label=self.arguments['ignore_label'], need_top_grad=True,
                           scale_output=True)
        limits = tolerance(data.dtype, 9 * data, before, self.arguments['alpha'])
        if out is not None:
            assert out.shape == (len(data),) and out.dtype == data.dtype
            assert_allclose(out.asnumpy(), want.loss * head, **limits)
        if grad is not None:
            assert grad.dtype == data.dtype
            assert_allclose(grad.asnumpy(), want.grad, **limits)
        centers = bound(self.loss)
        assert centers.dtype == ('float64' if data.dtype == 'float64' else 'float32')
        assert_allclose(centers, want.centers if moved else before,
                        **tolerance(centers.dtype, 9 * data, before, self.arguments['alpha']))

    def do(self, action, seed):
        data, label, weights = self.batch(seed)
        inputs = [array(part) for part in (data, label, *weights)]
        if action in ('alpha', 'weight'):
            value = [0.0, 0.25, 1.0, 3.0, None if action == 'weight' else 0.5][seed % 5]
            setattr(self.loss, action, value)
            assert getattr(self.loss, action) == value
            self.arguments = {**self.arguments, action: value}
        elif action == 'hybridize':
            self.net.hybridize(**MODES[seed % 4])
        elif action in ('deepcopy', 'pickle'):
            self.net.hybridize(False)   # MXNet copies no block with a graph
            self.net = (copy.deepcopy(self.net) if action == 'deepcopy'
                        else pickle.loads(pickle.dumps(self.net)))
            self.net.hybridize(**MODES[seed % 4])
        elif action == 'save':
            self.net.save_parameters(self.path)
            self.net = self.made()
            self.net.cast(self.training['dtype'])
            self.net.load_parameters(self.path)
        else:
            before = bound(self.loss)
            if action == 'update':
                self.loss.update(*inputs[:2])
                self.check(data, label, [], before, None)
            elif action == 'infer':
                self.check(data, label, weights, before, self.net(*inputs), moved=False)
            else:
                inputs[0].attach_grad()
                with autograd.record():
                    out = self.net(*inputs)
                # A forward pass in between has no say in this one's backward pass.
                other = self.batch(seed + 1)
                self.net(*map(array, (*other[:2], *other[2])))
                if action == 'step':
                    out.backward()
                self.check(data, label, weights, before, out,
                           inputs[0].grad if action == 'step' else None, action == 'step')


@hypothesis.given(TRAININGS)
def test_any_training(tmp_path, training):
    net = Net(training, tmp_path)
    data, label, weights = net.batch(0)
    net.net(*map(array, (data, label, *weights)))     # d is inferred
    net.loss.centers.set_data(mx.nd.array(CENTERS, dtype=bound(net.loss).dtype))
    random = np.random.RandomState(training['seed'])
    for action in ['step', *random.choice(ACTIONS, 8), 'step']:
        net.do(action, random.randint(100))


@HYBRIDIZE
@pytest.mark.parametrize('dtype, weights', [('float16', 'float32'), ('float32', 'int32'),
                                            ('float64', 'float32')])
def test_sample_weight_of_another_type(dtype, weights, hybridize):
    loss = block(CENTERS.astype('float64' if dtype == 'float64' else 'float32'), hybridize)
    out = loss(array(DATA.astype(dtype)), array(LABEL), array(np.full(6, 2, weights)))
    assert out.dtype == np.dtype(dtype)
    assert_allclose(out.asnumpy(), 2 * center_loss(DATA, LABEL, CENTERS, reduction='none').loss,
                    rtol=2e-2)


@HYBRIDIZE
@pytest.mark.parametrize('in_units', [0, 3])
def test_calls_with_and_without_weights(in_units, hybridize):
    """In any order; also calls of `update`, and after a call that was refused."""
    loss, want = CenterLoss(4, in_units), np.zeros((4, 3))
    loss.initialize()
    if hybridize:
        loss.hybridize(static_alloc=hybridize == 'static')
    data, label, weights = array(DATA), array(LABEL), mx.nd.ones(6)
    with pytest.raises(ValueError, match='sample_weight'):
        loss(data, label, mx.nd.ones(3))
    for call in (loss.update, lambda *inputs: loss(*inputs, weights), loss, loss.update,
                 lambda *inputs: loss(*inputs, weights)):
        x = data.copy()
        x.attach_grad()
        with autograd.record():
            out = call(x, label)
        if out is not None:
            out.backward()
        want = center_loss(DATA, LABEL, want).centers
        assert_allclose(bound(loss), want, rtol=1e-5)


@pytest.mark.parametrize('weights, error, text', [
    ([1] * 6, TypeError, r'sample_weight must be an NDArray .* got \[1'),
    (np.ones(6), TypeError, 'sample_weight must be an NDArray .* got array'),
    (.5, TypeError, 'got 0.5; one number for all samples is the argument weight'),
    (mx.nd.ones(1), ValueError, r'sample_weight .* embedding of shape \(6, 3\), got shape \(1,'),
    (mx.nd.ones((6, 3)), ValueError, r'sample_weight .* got shape \(6, 3\)')])
def test_bad_sample_weight(weights, error, text):
    with pytest.raises(error, match=text):
        block(CENTERS, False)(array(DATA), array(LABEL), weights)


@pytest.mark.parametrize('stype', ['csr', 'row_sparse'])
@pytest.mark.parametrize('name', ['embedding', 'label', 'sample_weight'])
def test_sparse_arrays_are_refused(name, stype):
    inputs = {'embedding': array(DATA), 'label': array(LABEL[:, None]),
              'sample_weight': mx.nd.ones((6, 1))}
    inputs[name] = inputs[name].tostype(stype)
    loss = block(CENTERS, False)
    for call in (loss, loss.update)[:2 - (name == 'sample_weight')]:
        with pytest.raises(TypeError, match=f'{name} must be dense, got a {stype} array'):
            call(*list(inputs.values())[:3 - (call == loss.update)])
    if name != 'sample_weight':
        with pytest.raises(mx.MXNetError, match=f'Provided = {stype}'):
            mx.nd.Custom(inputs['embedding'], inputs['label'], array(CENTERS),
                         op_type='centerloss', num_class=4)


@pytest.mark.parametrize('numpy_shapes', [False, True])
def test_no_samples(numpy_shapes):
    with mx.util.np_shape(numpy_shapes), pytest.raises(ValueError, match='at least one sample'):
        block(CENTERS, False)(array(DATA)[:0], array(LABEL)[:0])


@HYBRIDIZE
def test_predict_mode_has_a_gradient(hybridize):
    """As MXNet's own losses have; the centers stay."""
    loss = block(CENTERS, hybridize)
    data = array(DATA)
    data.attach_grad()
    with autograd.record(train_mode=False):
        out = loss(data, array(LABEL))
    out.backward()
    want = center_loss(DATA, LABEL, CENTERS, reduction='none')
    assert_allclose(data.grad.asnumpy(), want.grad, rtol=1e-5)
    assert_array_equal(bound(loss), CENTERS)


@HYBRIDIZE
def test_second_backward(hybridize):
    loss = block(CENTERS, hybridize)
    data = array(DATA)
    data.attach_grad()
    with autograd.record():
        out = loss(data, array(LABEL))
    out.backward(retain_graph=True)
    grad, centers = data.grad.asnumpy(), bound(loss)
    data.grad[:] = 0
    out.backward()
    assert_array_equal(data.grad.asnumpy(), grad)
    assert_array_equal(bound(loss), centers)


@HYBRIDIZE
def test_autograd_grad(hybridize):
    loss = block(CENTERS, hybridize)
    data = array(DATA)
    data.attach_grad()
    with autograd.record():
        out = loss(data, array(LABEL)).mean()
    grad, = autograd.grad(out, [data])
    assert_allclose(grad.asnumpy(), center_loss(DATA, LABEL, CENTERS).grad, rtol=1e-5)


def test_two_blocks_share_their_centers():
    first = block(CENTERS)
    second = CenterLoss(4, in_units=3, params=first.params)
    assert second.centers is first.centers
    want = CENTERS
    for loss in (first, second, first):
        run_block(loss, DATA, LABEL)
        want = center_loss(DATA, LABEL, want).centers
    assert_allclose(bound(second), want, rtol=1e-4, atol=1e-6)


# -- the parameter


def test_no_read_before_the_size_is_known():
    loss = CenterLoss(4)
    loss.initialize()
    with pytest.raises(gluon.parameter.DeferredInitializationError):
        loss.centers.data()


@pytest.mark.parametrize('initializer, test', [
    ('zeros', lambda c: not c.any()), ('Ones', lambda c: (c == 1).all()),
    (mx.init.Normal(), lambda c: c.std() > 0), (mx.init.Constant(3), lambda c: (c == 3).all()),
    ('["constant", {"value": 3}]', lambda c: (c == 3).all()),
    ({'initializer': 'ones'}, lambda c: (c == 1).all()),
    (None, lambda c: c.std() > 0)])  # that of initialize(), as elsewhere in Gluon
def test_initializer(initializer, test):
    loss = CenterLoss(4, in_units=3, center_initializer=initializer)
    loss.initialize(mx.init.Xavier())
    assert test(bound(loss))


def test_no_gradient_no_optimizer():
    loss = block(CENTERS)
    assert loss.centers.grad_req == 'null'
    assert list(loss.collect_params()) == [loss.centers.name]
    gluon.Trainer(loss.collect_params(), 'sgd', {'wd': .1, 'learning_rate': 1}).step(1)
    assert_array_equal(bound(loss), CENTERS)


# -- saved and loaded


def test_alpha_is_exported(tmp_path):
    """The graph that is written has the α of now."""
    loss = CenterLoss(4, 3)
    net = Inside(loss)
    net.initialize()
    net.hybridize()
    for alpha in 0.5, 0.125:
        loss.alpha = alpha
        net(array(DATA), array(LABEL))
    net.export(str(tmp_path / 'net'))
    assert '"alpha": "0.125"' in (tmp_path / 'net-symbol.json').read_text()


def test_load_of_another_number_of_classes(tmp_path):
    block(CENTERS).save_parameters(str(tmp_path / 'loss.params'))
    with pytest.raises(AssertionError, match=r'shape .*\(5, 3\).*\(4, 3\)'):
        CenterLoss(5, in_units=3).load_parameters(str(tmp_path / 'loss.params'))


@pytest.mark.parametrize('static', [False, True])
@pytest.mark.parametrize('arguments', [{}, {'weight': .1, 'alpha': .2, 'use_ignore': True}])
def test_export_and_import(tmp_path, arguments, static):
    """The exported graph trains on: its centers are an auxiliary state and move."""
    loss = block(CENTERS, 'static' if static else True, **arguments)
    run_block(loss, DATA, LABEL)
    loss.export(str(tmp_path / 'loss'), epoch=3)
    state = mx.nd.load(str(tmp_path / 'loss-0003.params'))
    assert [name.split(':')[0] for name in state] == ['aux']
    names = mx.sym.load(str(tmp_path / 'loss-symbol.json')).list_arguments()
    loaded = gluon.SymbolBlock.imports(str(tmp_path / 'loss-symbol.json'), names,
                                       str(tmp_path / 'loss-0003.params'))
    for _ in range(2):
        want = run_block(loss, DATA, LABEL)
        data = array(DATA)
        data.attach_grad()
        with autograd.record():
            out = loaded(data, array(LABEL))
        out.backward()
        mx.nd.waitall()
        assert_array_equal(out.asnumpy(), want.loss)
        assert_array_equal(data.grad.asnumpy(), want.grad)
        centers, = loaded.collect_params().values()
        assert_array_equal(centers.data().asnumpy(), want.centers)


def test_symbolic_call():
    """A hybrid block takes symbols: the graph has MXNet's own names."""
    loss = CenterLoss(4, prefix='mine_')
    out = loss(mx.sym.var('data'), mx.sym.var('label'))
    assert out.list_auxiliary_states() == ['mine_center_bias']
    assert out.list_arguments() == ['data', 'label']


def test_repr():
    assert repr(CenterLoss(4, alpha=.1, weight=3)) == \
        'CenterLoss(classes=4, in_units=0, alpha=0.1, w=3.0)'


# -- casts


def test_cast_of_a_net_around_it():
    """The centers of a net that becomes float16 stay float32."""
    class Net(gluon.nn.HybridBlock):
        """An embedding and its loss."""

        def __init__(self):
            super().__init__()
            with self.name_scope():
                self.embedding = gluon.nn.PReLU()
                self.loss = CenterLoss(4)

        def hybrid_forward(self, F, x, label):
            return self.loss(self.embedding(x), label)
    net = Net()
    net.initialize()
    net.cast('float16')
    net.hybridize()
    with autograd.record():
        out = net(array(DATA.astype('float16')), array(LABEL))
    out.backward()
    assert bound(net.loss).dtype == np.float32 and bound(net.loss).any()
    gradient = net.embedding.alpha.grad()
    assert gradient.dtype == np.float16 and np.isfinite(gradient.asnumpy()).all()


@HYBRIDIZE
@pytest.mark.parametrize('around', [lambda loss: loss, Inside])
def test_type_of_the_loss_follows_from_the_embedding(around, hybridize):
    """Call by call, whatever the calls before, and without another graph."""
    net = around(block(CENTERS, weight=0.1, alpha=0))
    if hybridize:
        net.hybridize(static_alloc=hybridize == 'static')
    graphs = set()
    for dtype in ('float32', 'float16', 'float32', 'float16'):
        data = array(DATA.astype(dtype))
        data.attach_grad()
        with autograd.record():
            loss = net(data, array(LABEL))
        loss.backward()
        assert loss.dtype == data.grad.dtype == np.dtype(dtype)
        want = center_loss(DATA.astype(dtype), LABEL, CENTERS, scale=0.1, reduction='none')
        assert_allclose(loss.asnumpy(), 0.1 * want.loss, **tolerance(dtype, DATA, CENTERS))
        assert_allclose(data.grad.asnumpy(), want.grad, **tolerance(dtype, DATA, CENTERS))
        graphs.add(id(net._cached_op))
    assert len(graphs) == 1


@HYBRIDIZE
@pytest.mark.parametrize('around', [lambda loss: loss, Inside])
def test_half_precision_overflows_only_where_the_weighted_loss_does(around, hybridize):
    net = around(block(np.zeros((2, 1), 'float32'), weight=0.1))
    if hybridize:
        net.hybridize(static_alloc=hybridize == 'static')
    x = mx.nd.full((1, 1), 400, dtype='float16')    # ½ · 400² is more than float16 holds
    assert net(x, mx.nd.array([0])).asscalar() == 8000


def test_centers_that_are_cast_on_their_own_stay_float32():
    loss = block(CENTERS)
    for parameter in loss.collect_params().values():
        parameter.cast('float16')
    assert loss.centers.dtype == 'float32' and bound(loss).dtype == np.float32
    got = run_block(loss, DATA.astype('float16'), LABEL)
    assert got.loss.dtype == np.float16 and got.centers.any()


@pytest.mark.parametrize('initialized', [False, True])
def test_centers_that_were_saved_as_float16_are_loaded_as_float32(initialized, tmp_path):
    mx.nd.save(str(tmp_path / 'half'), {'center_bias': array(CENTERS.astype('float16'))})
    loss = CenterLoss(4)
    if initialized:
        loss = block(CENTERS * 0)
    loss.load_parameters(str(tmp_path / 'half'), cast_dtype=True, dtype_source='saved')
    assert np.dtype(loss.centers.dtype) == bound(loss).dtype == np.float32
    assert_allclose(bound(loss), CENTERS, rtol=1e-3)
    run_block(loss, DATA, LABEL)


# -- arguments


@pytest.mark.parametrize('given, error', [
    (-1, ValueError), ('x', TypeError), (2.5, TypeError), (None, TypeError), (True, TypeError)])
def test_bad_in_units(given, error):
    with pytest.raises(error, match='^in_units must be an integer >= 0, got %s$'
                       % re.escape(repr(given))):
        CenterLoss(4, in_units=given)


@pytest.mark.parametrize('given, error', [
    ('foo', ValueError), ('', ValueError), ('[', ValueError), ('["foo", {}]', ValueError),
    ('constant', ValueError), ('["normal", {"mean": 3}]', ValueError), ({'a': 1}, ValueError),
    (5, TypeError), (['zeros'], TypeError), (mx.init.Zero, TypeError), (True, TypeError)], ids=str)
def test_bad_initializer(given, error):
    with pytest.raises(error, match='^center_initializer must be an Initializer or .*zeros.*, got '
                       + re.escape(repr(given))):
        CenterLoss(4, center_initializer=given)


def test_bad_batch_axis():
    with pytest.raises(ValueError, match='^batch_axis must be 0, got 1$'):
        CenterLoss(4, batch_axis=1)


def test_too_many_elements():
    """At once where the size of a feature is known."""
    with pytest.raises(ValueError, match=re.escape(
            'centers of shape (1073741824, 2), classes by features, have 2147483648 elements, more '
            'than the 2147483647 that an MXNet array can have')):
        CenterLoss(2 ** 30, in_units=2)


def test_too_many_elements_at_the_first_batch(log):
    loss = CenterLoss(2 ** 30)
    loss.initialize()
    with pytest.raises((ValueError, mx.MXNetError)):
        loss(mx.nd.zeros((2, 2)), mx.nd.array([0, 1], dtype='int32'))
    assert ('centers of shape (1073741824, 2), classes by features, have 2147483648 elements'
            in log())


def test_other_arrays_than_mxnets():
    loss = CenterLoss(4)
    for call in loss, loss.update:
        for inputs in (DATA, LABEL), (array(DATA), [0, 1, 1]):
            with pytest.raises(TypeError, match='embedding and label must be NDArrays'):
                call(*inputs)


@pytest.mark.parametrize('name', ['alpha', 'weight'])
def test_a_rate_that_is_set_is_checked(name):
    loss = CenterLoss(2, 1)
    for given, error in (-1, ValueError), (float('nan'), ValueError), ('fast', TypeError), (
            [1], TypeError):
        with pytest.raises(error, match='^%s must be a finite number >= 0, got ' % name):
            setattr(loss, name, given)
    assert (loss.alpha, loss.weight) == (0.5, None)


# -- in training


def test_training():
    """Joint training makes the classes compact and keeps them apart."""
    def compactness(weight):
        mx.random.seed(3)
        np.random.seed(3)
        label = np.arange(96) % 3
        data = mx.nd.array(np.eye(3, 5)[label] * 3 + np.random.randn(96, 5) * .6)
        label = mx.nd.array(label)
        embedding, classifier = gluon.nn.HybridSequential(), gluon.nn.Dense(3, use_bias=False)
        embedding.add(gluon.nn.Dense(32, activation='tanh'), gluon.nn.Dense(2))
        softmax, center = gluon.loss.SoftmaxCrossEntropyLoss(), CenterLoss(3, weight=weight)
        for part in (embedding, classifier, center):
            part.initialize(mx.init.Xavier())
            part.hybridize()
        trainer = gluon.Trainer({**embedding.collect_params(), **classifier.collect_params()},
                                'sgd', {'learning_rate': .5})
        for _ in range(150):
            with autograd.record():
                features = embedding(data)
                loss = softmax(classifier(features), label) + center(features, label)
            loss.backward()
            trainer.step(96)
        found = features.asnumpy().reshape(32, 3, 2)
        means = found.mean(0)
        within = np.sqrt(((found - means) ** 2).sum(-1).mean())
        apart = min(np.linalg.norm(means[a] - means[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
        return within / apart
    assert compactness(.3) < .7 * compactness(0)
