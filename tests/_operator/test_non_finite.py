"""Features that are NaN or infinite, or overflow: the loss shows it, no center holds it."""
import itertools

import entries
import mxnet as mx
import numpy as np
import pytest
from cases import batch, centers_dtype
from entries import array, block, custom, run_block
from mxnet import autograd
from numpy.testing import assert_allclose, assert_array_equal
from oracle import center_loss

pytestmark = pytest.mark.usefixtures('backend')

VALUES = [np.nan, np.inf, -np.inf]
DTYPES = ['float16', 'float32', 'float64']

# Which samples of six are spoiled, their labels being 0 1 1 2 2 2 of 4 classes.
SPOILED = {
    'the only one of its class': [0], 'one of two': [2], 'one of three': [3],
    'all of a class': [1, 2], 'one of each': [0, 1, 3], 'all': [0, 1, 2, 3, 4, 5]}


def spoiled(where, value, dtype, size=3):
    """Features, labels and centers, a column of the samples in `where` being `value`."""
    data, _, centers = batch(6, size, 4, dtype)
    data[where, np.arange(len(where)) % size] = value
    return data, np.array([0, 1, 1, 2, 2, 2], 'float32'), centers


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('value', VALUES)
@pytest.mark.parametrize('where', SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize('reduction', ['mean', 'none'])
def test_only_the_others_move_their_centers(where, value, dtype, reduction):
    data, label, centers = spoiled(where, value, dtype)
    got = entries.imperative(data, label, centers, num_class=4, reduction=reduction)
    want = center_loss(data, label, centers, reduction=reduction)
    assert_allclose(got.centers, want.centers, rtol=1e-5)
    for j in range(4):
        others = [i for i in range(6) if label[i] == j and i not in where]
        assert (got.centers[j] == centers[j]).all() == (not others)
    bad = np.isin(np.arange(6), where) if reduction == 'none' else np.array([True])
    assert_array_equal(np.isfinite(got.loss), ~bad)
    assert_array_equal(np.isfinite(got.grad).all(axis=1), ~np.isin(np.arange(6), where))


@pytest.mark.parametrize('value', VALUES)
def test_large_batch(value):
    """The other kernels, with one spoiled sample a class at most."""
    data, label, centers = batch(400, 90, 50)
    label[:50] = np.arange(50)
    data[:20, 7] = value
    got = entries.imperative(data, label, centers, num_class=50)
    want = center_loss(data, label, centers)
    assert_allclose(got.centers, want.centers, rtol=1e-4, atol=1e-5)
    assert not np.isfinite(got.loss).any()


# dtype, the features of class 0, what becomes of its center (None: it stays)
OVERFLOWS = [
    # Finite features whose square is not: the sum, the center and the step are.
    ('float32', [1e30], .5 * 1e30 / 2), ('float32', [1e30, -1e30], 0),
    ('float64', [1e200], .5 * 1e200 / 2),
    # Their sum is not finite either.
    ('float32', [3e38, 3e38, 3e38], None), ('float64', [1.7e308, 1.7e308], None),
    # float16 features are computed in float32: nothing overflows.
    ('float16', [65504, 65504], .5 * 2 * 65504 / 3), ('float16', [np.inf, 2], .5 * 2 / 2),
]


@pytest.mark.parametrize('dtype, values, moved', OVERFLOWS)
@pytest.mark.parametrize('company', [False, True])
def test_overflow(company, dtype, values, moved):
    """The class whose sum overflows keeps its center; its neighbours move."""
    data = np.array(values + [2.0] * company, dtype)[:, None]
    label = np.array([0] * len(values) + [1] * company, 'float32')
    centers = np.array([[0], [0]], centers_dtype(dtype))
    got = entries.imperative(data, label, centers, num_class=2)
    assert_allclose(got.centers[0], [moved or 0], rtol=1e-6)
    assert_allclose(got.centers[1], [.5 * 2 / 2 if company else 0], rtol=1e-6)


def test_overflow_of_a_difference():
    """Feature and center are finite, what lies between them is not."""
    got = entries.imperative(np.array([[3e38]], 'float32'), np.array([0.], 'float32'),
                             np.array([[-3e38]], 'float32'), num_class=1)
    assert np.isinf(got.loss).all()
    assert_array_equal(got.centers, np.array([[-3e38]], 'float32'))


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('alpha', [1e37, 1e38, 1e300])
def test_overflow_by_alpha(alpha, dtype):
    got = entries.imperative(*batch(6, 3, 4, dtype), num_class=4, alpha=alpha)
    assert np.isfinite(got.centers).all()


def test_float16_overflow_of_the_gradient():
    """The difference does not fit into the gradient's float16: it shows there."""
    got = entries.imperative(np.array([[60000]], 'float16'), np.array([0.], 'float32'),
                             np.array([[-60000]], 'float32'), num_class=1, scale=1)
    assert np.isinf(got.grad).all()
    assert_allclose(got.centers, [[-60000 + .5 * 120000 / 2]])
    assert np.isfinite(got.loss).all()


@pytest.mark.parametrize('value', VALUES)
@pytest.mark.parametrize('hybridize', [False, True])
def test_training_goes_on(hybridize, value):
    """Ten good batches, with a bad one after each: as if the bad ones had not been."""
    centers = batch(1, 3, 4)[2]
    clean, dirty = block(centers, hybridize), block(centers, hybridize)
    for step in range(10):
        data, label, _ = batch(6, 3, 4, seed=step)
        want, got = run_block(clean, data, label), run_block(dirty, data, label)
        for one, other in zip(got, want):
            assert_array_equal(one, other)
        got = run_block(dirty, np.full_like(data, value), label)
        assert not np.isfinite(got.loss).any()
        assert_array_equal(got.centers, want.centers)


@pytest.mark.parametrize('value', VALUES)
def test_sample_weight_that_is_not_finite(value):
    """It spoils loss and gradient, and does not concern the centers."""
    data, label, centers = batch(6, 3, 4)
    loss = block(centers)
    features = array(data)
    features.attach_grad()
    with autograd.record():
        out = loss(features, array(label), mx.nd.full((6,), value))
    out.backward()
    assert not np.isfinite(out.asnumpy()).any()
    assert_allclose(loss.centers.data().asnumpy(), center_loss(data, label, centers).centers,
                    rtol=1e-5)


@pytest.mark.parametrize('head', VALUES + [65536 * 1e30])
def test_head_gradient_that_is_not_finite(head):
    """As an overflowing loss scale of mixed precision."""
    data, label, centers = batch(6, 3, 4)
    got = entries.imperative(data, label, centers, np.array([head]), num_class=4,
                             need_top_grad=True)
    assert_allclose(got.centers, center_loss(data, label, centers).centers, rtol=1e-5)


def test_centers_that_are_not_finite_are_shown():
    """Somebody else put them there: the loss says so, other classes train."""
    data, label, centers = batch(6, 3, 4)
    label[:] = [0, 1, 1, 2, 2, 2]
    centers[1] = np.nan
    got = entries.imperative(data, label, centers, num_class=4, reduction='none')
    assert_array_equal(np.isnan(got.loss), label == 1)
    want = center_loss(data, label, centers)
    for j in (0, 2, 3):
        assert_allclose(got.centers[j], want.centers[j], rtol=1e-5)


@pytest.mark.parametrize('good, value', itertools.product([0, 1, 500], VALUES))
def test_ignored_sample(good, value):
    """One that does not count spoils nothing, whatever it holds."""
    data, label, centers = batch(good + 1, 40, 4)
    data[good] = value
    label[good] = -1
    state = array(centers)
    features = array(data)
    features.attach_grad()
    with autograd.record():
        loss = custom(features, array(label), state, num_class=4, use_ignore=True)
    loss.backward()
    mx.nd.waitall()
    assert np.isfinite(loss.asnumpy()).all() and np.isfinite(features.grad.asnumpy()).all()
    want = center_loss(data, label, centers, ignore_label=-1)
    assert_allclose(state.asnumpy(), want.centers, rtol=1e-4, atol=1e-5)
