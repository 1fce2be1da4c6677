"""Decorrelation, compared with NumPy's covariance and with the gradient by differences."""
from center_loss_op.gluon import DecorrelationLoss
from center_loss_op.symbol import decorrelation_loss

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from numpy.testing import assert_allclose

X = np.random.RandomState(3).normal(size=(7, 4)) @ np.random.RandomState(4).normal(size=(4, 4)) + 5


def slow(x):
    """P of NumPy's covariance."""
    covariance = np.atleast_2d(np.cov(x.T, bias=True))
    return np.square(covariance - np.diag(np.diag(covariance))).sum() / (2 * x.shape[1])


def slope(x, step=1e-5):
    """∂P/∂x by central differences."""
    result = np.empty_like(x)
    for place in np.ndindex(x.shape):
        away = np.zeros_like(x)
        away[place] = step
        result[place] = (slow(x + away) - slow(x - away)) / (2 * step)
    return result


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('dtype, tolerance', [('float16', 5e-3), ('float32', 2e-5),
                                              ('float64', 1e-8)])
def test_loss_and_gradient(hybridize, dtype, tolerance):
    loss = DecorrelationLoss(weight=0.3)
    if hybridize:
        loss.hybridize()
    for x in X, X[:3], X[:, :1], X[:1]:   # another batch, a single feature, a single sample
        array = mx.nd.array(x, dtype=dtype)
        array.attach_grad()
        with autograd.record():
            result = loss(array)
        result.backward()
        assert result.shape == (len(x),) and result.dtype == np.dtype(dtype)
        assert_allclose(result.asnumpy(), np.full(len(x), 0.3 * slow(x)), rtol=tolerance,
                        atol=tolerance)
        # Of the sum over the batch, which Trainer.step divides by its size.
        assert_allclose(array.grad.asnumpy(), 0.3 * len(x) * slope(x), rtol=tolerance,
                        atol=tolerance)


@pytest.mark.parametrize('dtype, of_loss, tolerance', [
    ('float16', 'float32', 5e-3), ('float32', 'float32', 2e-5), ('float64', 'float64', 1e-7)])
def test_a_graph_has_the_same_loss_unweighted_and_the_same_gradient(dtype, of_loss, tolerance):
    node = decorrelation_loss(mx.sym.var('data'), scale=0.3, name='apart')
    assert node.name == 'apart' and node.list_auxiliary_states() == []
    executor = node.simple_bind(mx.cpu(), data=X.shape, type_dict={'data': dtype})
    executor.arg_dict['data'][:] = mx.nd.array(X, dtype=dtype)
    executor.forward(is_train=True)
    executor.backward()
    assert executor.outputs[0].dtype == np.dtype(of_loss)
    assert executor.grad_dict['data'].dtype == np.dtype(dtype)
    assert_allclose(executor.outputs[0].asnumpy(), np.full(len(X), slow(X)), rtol=tolerance)
    assert_allclose(executor.grad_dict['data'].asnumpy(), 0.3 * len(X) * slope(X), rtol=tolerance,
                    atol=tolerance)


@pytest.mark.parametrize('shape', [(4,), (4, 3, 2)])
def test_a_graph_names_what_is_wrong_with_a_shape(shape):
    with pytest.raises(RuntimeError, match='operator decorrelation_takes_two_axes0: '):
        with mx.name.NameManager():
            decorrelation_loss(mx.sym.var('data')).simple_bind(mx.cpu(), data=shape)


def test_a_part_of_a_larger_loss_heeds_the_factors_around_it():
    heads = np.arange(1, len(X) + 1, dtype=np.float32)
    grads = []
    for chained in True, False:
        node = 10 * decorrelation_loss(mx.sym.var('data'), 0.3, need_top_grad=chained)
        executor = node.simple_bind(mx.cpu(), data=X.shape)
        executor.arg_dict['data'][:] = X
        executor.forward(is_train=True)
        executor.backward(mx.nd.array(heads))
        assert_allclose(executor.outputs[0].asnumpy(), np.full(len(X), 10 * slow(X)), rtol=2e-5)
        grads.append(executor.grad_dict['data'].asnumpy())
    assert_allclose(grads[0], 0.3 * 10 * heads.sum() * slope(X), rtol=2e-5, atol=1e-3)
    assert_allclose(grads[1], 0.3 * len(X) * slope(X), rtol=2e-5, atol=1e-5)


def test_numpy_arrays_of_mxnet():
    with mx.util.np_shape(True), mx.util.np_array(True):
        result = DecorrelationLoss()(mx.np.array(X))
        assert_allclose(result.asnumpy(), np.full(len(X), slow(X)), rtol=2e-5)


@pytest.mark.parametrize('call, error, words', [
    (lambda: DecorrelationLoss(weight=-1), ValueError,
     'weight must be a finite number >= 0, got -1'),
    (lambda: DecorrelationLoss(batch_axis=1), ValueError, 'batch_axis must be 0, got 1'),
    (lambda: DecorrelationLoss()(X), TypeError, r'embedding must be an NDArray .*got array\(\['),
    (lambda: DecorrelationLoss()(mx.nd.zeros((2, 3, 4))), ValueError, r'got shape \(2, 3, 4\)'),
    (lambda: DecorrelationLoss()(mx.nd.zeros((2, 3), dtype='int32')), TypeError,
     'embedding must be float16, float32 or float64, got int32'),
    (lambda: decorrelation_loss(X), TypeError, 'data must be a Symbol'),
    (lambda: decorrelation_loss(mx.sym.var('x'), scale=float('nan')), ValueError,
     'scale must be a finite number >= 0'),
])
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
