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
from numpy.testing import assert_allclose
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
ACTIONS = ['step', 'step', 'twice', 'grad', 'predict', 'update', 'alpha', 'weight', 'infer',
           'forward', 'hybridize', 'deepcopy', 'pickle', 'save']
TRAININGS = st.fixed_dictionaries(dict(
    dtype=st.sampled_from(['float16', 'float32', 'float64']), mixed=st.booleans(),
    label_type=st.sampled_from(['float32', 'int32', 'uint8', 'int8', 'int64', 'float64']),
    label_column=st.booleans(), in_units=st.sampled_from([0, 3]), depth=st.integers(0, 2),
    weighted=st.sampled_from([None, (-1,), (-1, 1)]),
    weight_type=st.sampled_from(['float32', 'int32']), mode=st.sampled_from(MODES),
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
        dtype, alone = self.training['dtype'], self.training['depth'] == 0
        if self.training['mixed'] and dtype != 'float64':   # the loss has the type of each batch
            dtype = ['float16', 'float32'][seed % 2]
        data, label, _ = batch(1 + seed % 7, 3, 4, dtype, seed)
        if self.arguments['use_ignore']:
            label[::3] = self.arguments['ignore_label']
        label = label.astype('int64').astype(self.training['label_type'])
        if self.arguments['use_ignore'] and self.training['label_type'] == 'uint8':
            label[label > 100] = 0
        weights = self.training['weighted'] and [np.random.RandomState(seed).randint(
            0, 4, len(data)).astype(self.training['weight_type'] if alone else dtype).reshape(
                self.training['weighted'])]
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
                with autograd.record(train_mode=action != 'predict'):
                    out = self.net(*inputs)
                # A forward pass in between has no say in this one's backward pass.
                other = self.batch(seed + 1)
                self.net(*map(array, (*other[:2], *other[2])))
                if action == 'grad':
                    inputs[0].grad[:] = autograd.grad(out, inputs[:1], mx.nd.ones_like(out))[0]
                elif action != 'forward':
                    out.backward(retain_graph=action == 'twice')
                if action == 'twice':
                    inputs[0].grad[:] = 0
                    out.backward()      # the gradient once more, and no second move
                self.check(data, label, weights, before, out,
                           None if action == 'forward' else inputs[0].grad,
                           action in ('step', 'twice', 'grad'))


@hypothesis.given(TRAININGS)
def test_any_training(tmp_path, training):
    net = Net(training, tmp_path)
    data, label, weights = net.batch(0)
    net.net(*map(array, (data, label, *weights)))     # d is inferred
    net.loss.centers.set_data(mx.nd.array(CENTERS, dtype=bound(net.loss).dtype))
    random = np.random.RandomState(training['seed'])
    for action in ['step', *random.choice(ACTIONS, 8), 'step']:
        net.do(action, random.randint(100))


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


# -- saved and loaded


def test_symbolic_call():
    """A hybrid block takes symbols: the graph has MXNet's own names."""
    loss = CenterLoss(4, prefix='mine_')
    out = loss(mx.sym.var('data'), mx.sym.var('label'))
    assert out.list_auxiliary_states() == ['mine_center_bias']
    assert out.list_arguments() == ['data', 'label']


# -- casts


@HYBRIDIZE
def test_half_precision_overflows_only_where_the_weighted_loss_does(hybridize):
    net = Inside(block(np.zeros((2, 1), 'float32'), weight=0.1))
    net.hybridize(bool(hybridize))
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


@pytest.mark.parametrize('name, wanted, bad', [
    ('in_units', 'an integer >= 0', [(-1, ValueError), ('x', TypeError), (2.5, TypeError),
                                     (None, TypeError), (True, TypeError)]),
    ('batch_axis', '0', [(1, ValueError)]),
    ('center_initializer', 'an Initializer or .*zeros.*', [
        ('foo', ValueError), ('', ValueError), ('[', ValueError), ('["foo", {}]', ValueError),
        ('constant', ValueError), ('["normal", {"mean": 3}]', ValueError), ({'a': 1}, ValueError),
        (5, TypeError), (['zeros'], TypeError), (mx.init.Zero, TypeError), (True, TypeError)])])
def test_bad_argument(name, wanted, bad):
    for given, error in bad:
        with pytest.raises(error, match=f'^{name} must be {wanted}, got {re.escape(repr(given))}'):
            CenterLoss(4, **{name: given})


def test_too_many_elements():
    """At once if the size of a feature is known."""
    with pytest.raises(ValueError, match=re.escape(
            'centers of shape (1073741824, 2), classes by features, have 2147483648 elements, more '
            'than the 2147483647 that an MXNet array can have')):
        CenterLoss(2 ** 30, in_units=2)


@pytest.mark.parametrize('place, given, error, text', [
    (0, DATA, TypeError, r'embedding must be an NDArray .*, got array\(\['),
    (1, [0, 1], TypeError, r'label must be an NDArray .*, got \[0, 1\]'),
    (0, array(DATA)[:0], ValueError, 'at least one sample'),
    (0, array(DATA).tostype('csr'), TypeError, 'embedding must be dense, got a csr array'),
    (1, array(LABEL[:, None]).tostype('row_sparse'), TypeError, 'label must be dense'),
    (2, mx.nd.ones((6, 1)).tostype('csr'), TypeError, 'sample_weight must be dense'),
    (2, [1] * 6, TypeError, r'sample_weight must be an NDArray .*, got \[1'),
    (2, .5, TypeError, 'got 0.5. The argument weight weighs all samples'),
    (2, mx.nd.ones(1), ValueError, r'sample_weight .* embedding of shape \(6, 3\), got shape \(1,'),
    (2, mx.nd.ones((6, 3)), ValueError, r'sample_weight .* got shape \(6, 3\)')])
def test_bad_array(place, given, error, text):
    inputs = [array(DATA), array(LABEL), mx.nd.ones(6)]
    inputs[place] = given
    if place == 0 and error is ValueError:
        inputs[1] = inputs[1][:0]
    loss = block(CENTERS)
    for call in (loss, loss.update)[:1 + (place < 2)]:
        with mx.util.np_shape(True), pytest.raises(error, match=text):
            call(*inputs[:3 - (place < 2)])


@pytest.mark.parametrize('name', ['alpha', 'weight'])
def test_a_rate_that_is_set_is_checked(name):
    loss = CenterLoss(2, 1)
    for given, error in (-1, ValueError), (float('nan'), ValueError), ('fast', TypeError), (
            [1], TypeError):
        with pytest.raises(error, match='^%s must be a finite number >= 0, got ' % name):
            setattr(loss, name, given)
    assert (loss.alpha, loss.weight) == (0.5, None)
