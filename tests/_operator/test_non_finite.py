"""Numbers that overflow, and a training that goes on after NaN; test_step.py has random ones."""
import entries
import mxnet as mx
import numpy as np
import pytest
from cases import batch, centers_dtype
from entries import array, block
from mxnet import autograd
from numpy.testing import assert_allclose, assert_array_equal
from oracle import center_loss

pytestmark = pytest.mark.usefixtures('backend')

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
def test_overflow(dtype, values, moved):
    """The class whose sum overflows keeps its center; its neighbour moves."""
    data = np.array([*values, 2.0], dtype)[:, None]
    label = np.array([0] * len(values) + [1], 'float32')
    centers = np.array([[0], [0]], centers_dtype(dtype))
    got = entries.imperative(data, label, centers, num_class=2)
    assert_allclose(got.centers, [[moved or 0], [.5 * 2 / 2]], rtol=1e-6)


def test_overflow_of_a_difference():
    """Feature and center are finite, what lies between them is not."""
    got = entries.imperative(np.array([[3e38]], 'float32'), np.array([0.], 'float32'),
                             np.array([[-3e38]], 'float32'), num_class=1)
    assert np.isinf(got.loss).all()
    assert_array_equal(got.centers, np.array([[-3e38]], 'float32'))


def test_float16_overflow_of_the_gradient():
    """The difference does not fit into the gradient's float16: it shows there."""
    got = entries.imperative(np.array([[60000]], 'float16'), np.array([0.], 'float32'),
                             np.array([[-60000]], 'float32'), num_class=1, scale=1)
    assert np.isinf(got.grad).all()
    assert_allclose(got.centers, [[-60000 + .5 * 120000 / 2]])
    assert np.isfinite(got.loss).all()


def test_a_gradient_that_overflows_in_the_memory_of_the_features():
    """The features were finite, so the center moves."""
    direct = entries.Direct(np.array([[3e38]], 'float32'), np.array([0.], 'float32'),
                            np.array([[0.]], 'float32'), num_class=1, need_top_grad=True)
    direct.forward()
    direct.grads[0] = direct.inputs[0]
    assert np.isinf(direct.backward('inplace', head=-2)).all()
    assert_allclose(direct.centers.asnumpy(), [[.5 * 3e38 / 2]])


def test_weights_that_are_not_finite():
    """An overflowing loss scale of mixed precision: it does not concern the centers."""
    data, label, centers = batch(6, 3, 4)
    loss, features = block(centers), array(data)
    features.attach_grad()
    with autograd.record():
        out = loss(features, array(label), mx.nd.array([np.nan, np.inf, 1, 1, 1, -np.inf]))
    out.backward()
    assert_allclose(loss.centers.data().asnumpy(), center_loss(data, label, centers).centers,
                    rtol=1e-5)
