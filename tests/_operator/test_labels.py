"""Labels: every type MXNet has, and what a bad one gets."""
from center_loss_op import LabelError

import mxnet as mx
import numpy as np
import pytest
from entries import Direct, array, custom, imperative
from numpy.testing import assert_allclose, assert_array_equal
from oracle import center_loss

DATA = np.array([[1, 2], [3, 5], [0, 1]], 'float32')
CENTERS = np.array([[0, 0], [1, 0], [2, 1]], 'float32')
TYPES = ['uint8', 'int8', 'int32', 'int64', 'float16', 'float32', 'float64']

pytestmark = pytest.mark.usefixtures('backend')


@pytest.mark.parametrize('data_type', ['float16', 'float32', 'float64'])
@pytest.mark.parametrize('shape', [(3,), (3, 1)])
@pytest.mark.parametrize('label_type', TYPES)
def test_types(label_type, shape, data_type):
    label = np.array([2, 0, 2], label_type).reshape(shape)
    centers = CENTERS.astype('float64' if data_type == 'float64' else 'float32')
    got = imperative(DATA.astype(data_type), label, centers, num_class=3)
    want = center_loss(DATA, label, CENTERS)
    assert_allclose(got.loss, want.loss, rtol=1e-6)
    assert_allclose(got.grad, want.grad, rtol=1e-3)
    assert_allclose(got.centers, want.centers, rtol=1e-6)


def test_bool():
    got = imperative(DATA, np.array([True, False, True]), CENTERS, num_class=3)
    want = center_loss(DATA, [1, 0, 1], CENTERS)
    assert_allclose(got.loss, want.loss, rtol=1e-6)
    assert_allclose(got.centers, want.centers, rtol=1e-6)


def bfloat16_loss(label, num_class, size=2):
    """Losses of features of zeros and centers (j, j), the labels as bfloat16."""
    bfloat16 = np.dtype([('bfloat16', np.uint16)])  # MXNet's name for it in NumPy
    centers = np.arange(num_class)[:, None] * np.ones(size)
    return custom(mx.nd.zeros((len(label), size)), mx.nd.array(label).astype(bfloat16),
                  mx.nd.array(centers), num_class=num_class, reduction='none').asnumpy()


def test_bfloat16():
    assert_allclose(bfloat16_loss([0, 2, 1, 200], 257), [0, 4, 1, 40000])


def test_bfloat16_with_too_many_classes(log):
    with pytest.raises(mx.MXNetError):
        bfloat16_loss([0], 258)
    assert 'cannot tell classes above 256 apart, but num_class is 258' in log()


@pytest.mark.parametrize('classes, good', [(2049, True), (2050, False), (10575, False)])
def test_float16_with_too_many_classes(classes, good, log):
    """Above 2048 float16 skips numbers: a label would be rounded to its neighbour's class."""
    centers = mx.nd.zeros((classes, 2))
    label = mx.nd.array([classes - 1], dtype='float16')

    def loss():
        return custom(mx.nd.ones((1, 2)), label, centers, num_class=classes).asscalar()
    if good:
        assert loss() == 1
    else:
        with pytest.raises(mx.MXNetError):
            loss()
        assert ('a label of type float16 cannot tell classes above 2048 apart, but num_class is '
                '%d: give the label another type, int32 for example' % classes) in log()


def test_float32_with_too_many_classes(log):
    symbol = mx.sym.Custom(mx.sym.var('data'), mx.sym.var('label'), op_type='centerloss',
                           num_class=2 ** 24 + 2)
    with pytest.raises(mx.MXNetError):
        symbol.infer_type(data='float32', label='float32')
    assert 'cannot tell classes above 16777216 apart' in log()
    assert symbol.infer_type(data='float32', label='int32')[0]


# labels, dtype, arguments, the message
RANGE = 'a label must be a whole number from 0 to 2 (3 classes)'
BAD = [
    ([0, 3, 1], 'float32', {}, 'label[1] is 3.0, but %s; 1 of the 3 labels of this batch are not'),
    ([0, 3, 1], 'int32', {}, 'label[1] is 3, but %s; 1 of the 3'),
    ([-1, 0, 9], 'int64', {}, 'label[0] is -1, but %s; 2 of the 3'),
    ([0, 0, -1], 'int8', {}, 'label[2] is -1, but %s; 1 of the 3'),
    ([0, 0, 255], 'uint8', {}, 'label[2] is 255, but %s; 1 of the 3'),
    ([0, 0.5, 1], 'float32', {}, 'label[1] is 0.5, but %s; 1 of the 3'),
    ([0, -0.5, 1], 'float64', {}, 'label[1] is -0.5, but %s; 1 of the 3'),
    ([0, 2.998, 1], 'float16', {}, 'label[1] is 2.998, but %s; 1 of the 3'),
    ([0, 1, np.nan], 'float32', {}, 'label[2] is nan, but %s; 1 of the 3'),
    ([np.inf, 1, 2], 'float32', {}, 'label[0] is inf, but %s; 1 of the 3'),
    ([0, -np.inf, 2], 'float64', {}, 'label[1] is -inf, but %s; 1 of the 3'),
    ([0, 1e30, 2], 'float32', {}, 'label[1] is 1e+30, but %s; 1 of the 3'),
    ([0, 2.0 ** 63, 2], 'float64', {}, 'label[1] is 9.223372036854776e+18, but %s; 1 of the 3'),
    ([0, 2 ** 62, 2], 'int64', {}, 'label[1] is 4611686018427387904, but %s; 1 of the 3'),
    ([5, 6, 7], 'int32', {}, 'label[0] is 5, but %s; 3 of the 3'),
    ([-1, 3, 1], 'float32', {'use_ignore': True},
     'label[1] is 3.0, but %s, or ignore_label=-1; 1 of the 3'),
    ([-1, -2, np.nan], 'float32', {'use_ignore': True},
     'label[1] is -2.0, but %s, or ignore_label=-1; 2 of the 3'),
    ([255, -1, 1], 'int32', {'use_ignore': True, 'ignore_label': 255},
     'label[1] is -1, but %s, or ignore_label=255; 1 of the 3'),
    # float32 rounds this ignore_label to infinity.
    ([0, np.inf, 1], 'float32', {'use_ignore': True, 'ignore_label': 1e300},
     'label[1] is inf, but %s, or ignore_label=1e+300; 1 of the 3'),
    ([-1, 0, 1], 'int32', {'ignore_label': -1}, 'label[0] is -1, but %s; 1 of the 3'),
]


@pytest.mark.parametrize('shape', [(3,), (3, 1)])
@pytest.mark.parametrize('labels, dtype, arguments, message', BAD)
def test_bad(labels, dtype, arguments, message, shape):
    """The message; and nothing has been written."""
    direct = Direct(DATA, np.array(labels, dtype).reshape(shape), CENTERS, num_class=3,
                    **arguments)
    direct.out[:] = 7
    with pytest.raises(LabelError) as caught:
        direct.forward()
    assert str(caught.value).startswith(message % RANGE)
    assert_array_equal(direct.out.asnumpy(), 7)
    assert_array_equal(direct.centers.asnumpy(), CENTERS)


def test_bad_label_leaves_the_next_step_alone():
    """A step after a bad one on the same operator."""
    direct = Direct(DATA, np.array([0., 1., 9.], 'float32'), CENTERS, num_class=3)
    with pytest.raises(LabelError):
        direct.forward()
    direct.inputs[1] = array(np.array([0., 1., 1.], 'float32'))
    want = center_loss(DATA, [0, 1, 1], CENTERS)
    assert_allclose(direct.forward(), want.loss, rtol=1e-6)
    assert_allclose(direct.backward(), want.grad, rtol=1e-6)
    assert_allclose(direct.centers.asnumpy(), want.centers, rtol=1e-6)


def test_negative_zero_is_zero():
    got = imperative(DATA, np.array([-0.0, 1, 2], 'float32'), CENTERS, num_class=3)
    assert_allclose(got.centers, center_loss(DATA, [0, 1, 2], CENTERS).centers, rtol=1e-6)
