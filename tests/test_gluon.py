"""The Gluon block: as any other loss of Gluon, with centers that move."""
import copy
import inspect
import pickle
import re

from center_loss_op.gluon import CenterLoss

import mxnet as mx
import numpy as np
import pytest
from cases import BAD_IN_PYTHON, batch, message
from entries import Inside, array, block, run_block
from mxnet import autograd, gluon
from numpy.testing import assert_allclose, assert_array_equal
from oracle import center_loss, tolerance

DATA, LABEL, CENTERS = batch(6, 3, 4)
HYBRIDIZE = pytest.mark.parametrize('hybridize', [False, True, 'static'])


def bound(loss, **arguments):
    """Centers as they are now."""
    return loss.centers.data(**arguments).asnumpy()


# -- the block's own mathematics


@HYBRIDIZE
@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
@pytest.mark.parametrize('weight', [None, 0.1])
@pytest.mark.usefixtures('backend')
def test_against_the_oracle(weight, dtype, hybridize):
    data, label, centers = batch(6, 3, 4, dtype)
    got = run_block(block(centers, hybridize, weight=weight, alpha=.3), data, label)
    want = center_loss(data, label, centers, .3, weight or 1, 'none')
    assert_allclose(got.loss, want.loss * (weight or 1), **tolerance(dtype, data, centers))
    assert got.loss.dtype == dtype
    assert_allclose(got.grad, want.grad, **tolerance(dtype, data, centers))
    assert_allclose(got.centers, want.centers, **tolerance('float32', data, centers))
    assert got.loss.shape == (6,)
    assert got.centers.dtype == centers.dtype


@HYBRIDIZE
@pytest.mark.parametrize('shape', [(6,), (6, 1)])
@pytest.mark.parametrize('label_shape', [(6,), (6, 1)])
def test_sample_weight(label_shape, shape, hybridize):
    """It weighs loss and gradient; a center counts every sample alike."""
    weights = np.array([0, 1, .5, 2, 3, 4], 'float32').reshape(shape)
    loss = block(CENTERS, hybridize)
    data = array(DATA)
    data.attach_grad()
    with autograd.record():
        out = loss(data, array(LABEL.reshape(label_shape)), array(weights))
    out.backward()
    want = center_loss(DATA, LABEL, CENTERS, reduction='none', head=weights.reshape(-1))
    assert_allclose(out.asnumpy(), want.loss * weights.reshape(-1), rtol=1e-5)
    assert_allclose(data.grad.asnumpy(), want.grad, rtol=1e-5)
    assert_allclose(bound(loss), want.centers, rtol=1e-5)


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
@pytest.mark.parametrize('ignore_label', [-1, 255, 2])
def test_ignored(ignore_label, hybridize):
    label = LABEL.copy()
    label[1:3] = ignore_label
    loss = block(CENTERS, hybridize, use_ignore=True, ignore_label=ignore_label)
    got = run_block(loss, DATA, label)
    want = center_loss(DATA, label, CENTERS, reduction='none', ignore_label=ignore_label)
    for value, expected in zip(got, want):
        assert_allclose(value, expected, rtol=1e-5)
    assert got.loss[1] == got.loss[2] == 0


@HYBRIDIZE
@pytest.mark.parametrize('dtype', ['bool', 'uint8', 'int8', 'int32', 'int64', 'float16', 'float64'])
def test_label_types(dtype, hybridize):
    label = LABEL.clip(0, 1).astype(dtype)
    got = run_block(block(CENTERS, hybridize), DATA, label)
    assert_allclose(got.loss, center_loss(DATA, label, CENTERS, reduction='none').loss, rtol=1e-5)


@HYBRIDIZE
def test_batches_of_changing_size(hybridize):
    loss, want = block(CENTERS, hybridize), CENTERS
    for step, samples in enumerate([5, 9, 1, 64, 5, 2]):
        data, label, _ = batch(samples, 3, 4, seed=step)
        got = run_block(loss, data, label)
        expected = center_loss(data, label, want, reduction='none')
        want = expected.centers
        for value, right in zip(got, expected):
            assert_allclose(value, right, rtol=1e-4, atol=1e-6)


@HYBRIDIZE
def test_forward_alone_moves_nothing(hybridize):
    loss = block(CENTERS, hybridize)
    loss(array(DATA), array(LABEL))
    with autograd.record():
        loss(array(DATA), array(LABEL))
    with autograd.predict_mode():
        loss(array(DATA), array(LABEL))
    assert_array_equal(bound(loss), CENTERS)


@HYBRIDIZE
@pytest.mark.parametrize('samples', [6, 9])
def test_inference_between_forward_and_backward(samples, hybridize):
    """The recorded forward has a backward of its own, whatever the block did since."""
    loss = block(CENTERS, hybridize)
    other = batch(samples, 3, 4, seed=5)
    loss(array(other[0]), array(other[1]))
    data = array(DATA)
    data.attach_grad()
    with autograd.record():
        out = loss(data, array(LABEL))
    loss(array(other[0]), array(other[1]))
    out.backward()
    want = center_loss(DATA, LABEL, CENTERS, reduction='none')
    assert_allclose(data.grad.asnumpy(), want.grad, rtol=1e-5)
    assert_allclose(bound(loss), want.centers, rtol=1e-5)


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
@pytest.mark.parametrize('req', ['write', 'add'])
def test_grad_req(req, hybridize):
    loss = block(CENTERS, hybridize, alpha=0)
    data = array(DATA)
    data.attach_grad(req)
    for _ in range(2):
        with autograd.record():
            out = loss(data, array(LABEL))
        out.backward()
    want = center_loss(DATA, LABEL, CENTERS, reduction='none').grad
    assert_allclose(data.grad.asnumpy(), want * (2 if req == 'add' else 1), rtol=1e-5)


@HYBRIDIZE
def test_autograd_grad(hybridize):
    loss = block(CENTERS, hybridize)
    data = array(DATA)
    data.attach_grad()
    with autograd.record():
        out = loss(data, array(LABEL)).mean()
    grad, = autograd.grad(out, [data])
    assert_allclose(grad.asnumpy(), center_loss(DATA, LABEL, CENTERS).grad, rtol=1e-5)


def test_two_batches_before_their_backward():
    """Gradient accumulation: both move the centers, from where they were."""
    loss = block(CENTERS)
    other = batch(8, 3, 4, seed=5)
    one, two = array(DATA), array(other[0])
    one.attach_grad()
    two.attach_grad()
    with autograd.record():
        losses = [loss(one, array(LABEL)), loss(two, array(other[1]))]
    autograd.backward(losses)
    a, b = center_loss(DATA, LABEL, CENTERS), center_loss(*other[:2], CENTERS)
    assert_allclose(bound(loss), a.centers + b.centers - CENTERS, rtol=1e-4, atol=1e-6)


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


@HYBRIDIZE
@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
def test_size_is_inferred_at_the_first_batch(dtype, hybridize):
    loss = CenterLoss(4)
    loss.initialize()
    loss.cast(dtype)
    if hybridize:
        loss.hybridize()
    data = DATA.astype(dtype)
    got = run_block(loss, data, LABEL)
    want = center_loss(data, LABEL, np.zeros((4, 3)))
    assert loss.centers.shape == (4, 3)
    assert_allclose(got.centers, want.centers, **tolerance('float32', data, CENTERS))
    assert got.grad.dtype == dtype
    assert got.centers.dtype == ('float64' if dtype == 'float64' else 'float32')


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


@HYBRIDIZE
def test_centers_are_fresh_when_read(hybridize):
    """`centers.data()` waits for the update: MXNet would not, for a state that backward writes."""
    data, label, centers = batch(512, 256, 2000)
    loss = block(centers, hybridize)
    want = centers
    for _ in range(5):
        features = array(data)
        features.attach_grad()
        with autograd.record():
            out = loss(features, array(label))
        out.backward()
        before, want = want, loss.centers.data().asnumpy()
        assert (before != want).any(axis=1).sum() == np.unique(label).size
        assert_array_equal(loss.centers.list_data()[0].asnumpy(), want)


# -- saved and loaded


@HYBRIDIZE
def test_save_and_load_parameters(tmp_path, hybridize):
    loss = block(CENTERS, hybridize)
    run_block(loss, DATA, LABEL)
    loss.save_parameters(str(tmp_path / 'loss.params'))
    other = CenterLoss(4)
    other.load_parameters(str(tmp_path / 'loss.params'))
    assert_array_equal(bound(other), bound(loss))
    for value, expected in zip(run_block(other, DATA, LABEL), run_block(loss, DATA, LABEL)):
        assert_array_equal(value, expected)


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


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
@pytest.mark.parametrize('hybridize', [False, True])
def test_copy(hybridize, duplicate):
    """A copy trains as its original did, with centers of its own."""
    loss = block(CENTERS, hybridize, alpha=.3)
    other = duplicate(loss)
    want = run_block(loss, DATA, LABEL)
    assert_array_equal(bound(other), CENTERS)
    for value, expected in zip(run_block(other, DATA, LABEL), want):
        assert_array_equal(value, expected)


def test_repr():
    assert repr(CenterLoss(4, alpha=.1, weight=3)) == \
        'CenterLoss(classes=4, in_units=0, alpha=0.1, w=3.0)'


# -- casts


@HYBRIDIZE
@pytest.mark.parametrize('dtype, centers', [
    ('float16', 'float32'), (np.float16, 'float32'), (np.dtype('float16'), 'float32'),
    ('float32', 'float32'), ('float64', 'float64'), (np.float64, 'float64')], ids=str)
def test_cast(dtype, centers, hybridize):
    loss = block(CENTERS, hybridize)
    loss.cast(dtype)
    data = DATA.astype(dtype)
    got = run_block(loss, data, LABEL)
    assert got.centers.dtype == centers
    assert got.loss.dtype == data.dtype
    assert got.grad.dtype == data.dtype
    want = center_loss(data, LABEL, CENTERS)
    assert_allclose(got.centers, want.centers, **tolerance('float32', data, CENTERS))


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
@pytest.mark.usefixtures('backend')
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


@pytest.mark.parametrize('name, given, article, error', [
    bad for bad in BAD_IN_PYTHON
    if bad[0] in ('num_class', *inspect.signature(CenterLoss).parameters)])
def test_bad_argument(name, given, article, error):
    arguments = {'classes': 4, 'classes' if name == 'num_class' else name: given}
    with pytest.raises(error, match='^%s$' % re.escape(
            message('classes' if name == 'num_class' else name, given, article))):
        CenterLoss(**arguments)


@pytest.mark.parametrize('given, error', [
    (-1, ValueError), ('x', TypeError), (2.5, TypeError), (None, TypeError), (True, TypeError)])
def test_bad_in_units(given, error):
    with pytest.raises(error, match='^in_units must be an integer >= 0, got %s$'
                       % re.escape(repr(given))):
        CenterLoss(4, in_units=given)


@pytest.mark.parametrize('given, error', [
    ('x', TypeError), (float('nan'), ValueError), (float('inf'), ValueError), (-1, ValueError),
    ([1], TypeError), (True, TypeError)])
def test_bad_weight(given, error):
    with pytest.raises(error, match='^weight must be a finite number >= 0, got %s$'
                       % re.escape(repr(given))):
        CenterLoss(4, weight=given)


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


@pytest.mark.parametrize('arguments, error', [
    ({}, 'classes'), ({'classes': 4, 'classses': 3}, 'classses')])
def test_missing_and_unknown(arguments, error):
    with pytest.raises(TypeError, match=error):
        CenterLoss(**arguments)


# -- in training


@HYBRIDIZE
def test_training(hybridize):
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
            if hybridize:
                part.hybridize(static_alloc=hybridize == 'static')
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
