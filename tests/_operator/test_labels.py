"""Labels: every type MXNet has, and what a bad one gets."""
from center_loss_op import LabelError

import mxnet as mx
import numpy as np
import pytest
from entries import Direct, custom, imperative
from numpy.testing import assert_allclose, assert_array_equal
from oracle import center_loss

DATA = np.array([[1, 2], [3, 5], [0, 1]], 'float32')
CENTERS = np.array([[0, 0], [1, 0], [2, 1]], 'float32')

pytestmark = pytest.mark.usefixtures('backend')


@pytest.mark.parametrize('dtype', ['bool', 'int32', 'float64'])
def test_types(dtype):
    label = np.array([-0.0, 1, 1]).astype(dtype)
    got = imperative(DATA, label, CENTERS, num_class=3)
    for value, expected in zip(got, center_loss(DATA, [0, 1, 1], CENTERS)):
        assert_allclose(value, expected, rtol=1e-6)


def bfloat16_loss(label, num_class, size=2):
    """Losses of features of zeros and centers (j, j), the labels as bfloat16."""
    bfloat16 = np.dtype([('bfloat16', np.uint16)])  # MXNet's name for it in NumPy
    centers = np.arange(num_class)[:, None] * np.ones(size)
    return custom(mx.nd.zeros((len(label), size)), mx.nd.array(label).astype(bfloat16),
                  mx.nd.array(centers), num_class=num_class, reduction='none').asnumpy()


def test_bfloat16():
    assert_allclose(bfloat16_loss([0, 2, 1, 200], 257), [0, 4, 1, 40000])


@pytest.mark.parametrize('dtype, largest', [('bfloat16', 256), ('float16', 2048),
                                            ('float32', 2 ** 24)])
def test_too_many_classes(dtype, largest, log):
    """Above that the type skips numbers: a label would be rounded to its neighbour's class."""
    def infer(classes, label):
        if dtype == 'bfloat16':     # which a symbol cannot be told
            bfloat16_loss([0], classes)
        else:
            mx.sym.Custom(mx.sym.var('data'), mx.sym.var('label'), op_type='centerloss',
                          num_class=classes).infer_type(data='float32', label=label)
    infer(largest + 1, dtype)
    with pytest.raises(mx.MXNetError):
        infer(largest + 2, dtype)
    assert ('cannot tell classes above %d apart, but num_class is %d: give the label another type, '
            'int32 for example' % (largest, largest + 2)) in log()


# labels, dtype, arguments, the message
RANGE = 'a label must be a whole number from 0 to 2 (3 classes)'
HINT = 'To leave samples of this label out, set use_ignore=True'
BAD = [
    ([0, 3, 1], 'float32', {}, 'label[1] is 3.0, but %s; 1 of the 3 labels of this batch are not'),
    ([-2, 0, 9], 'int64', {}, 'label[0] is -2, but %s; 2 of the 3'),
    ([0, 0, -2], 'int8', {}, 'label[2] is -2, but %s; 1 of the 3'),
    ([0, 0.5, 1], 'float32', {}, 'label[1] is 0.5, but %s; 1 of the 3'),
    ([0, -0.5, 1], 'float64', {}, 'label[1] is -0.5, but %s; 1 of the 3'),
    ([0, 2.998, 1], 'float16', {}, 'label[1] is 2.998, but %s; 1 of the 3'),
    ([0, 1, np.nan], 'float32', {}, 'label[2] is nan, but %s; 1 of the 3'),
    ([0, 2.0 ** 63, 2], 'float64', {}, 'label[1] is 9.223372036854776e+18, but %s; 1 of the 3'),
    ([0, 2 ** 62, 2], 'int64', {}, 'label[1] is 4611686018427387904, but %s; 1 of the 3'),
    ([-1, -2, np.nan], 'float32', {'use_ignore': True},
     'label[1] is -2.0, but %s, or ignore_label=-1; 2 of the 3'),
    ([255, -1, 1], 'int32', {'use_ignore': True, 'ignore_label': 255},
     'label[1] is -1, but %s, or ignore_label=255; 1 of the 3'),
    # float32 rounds this ignore_label to infinity.
    ([0, np.inf, 1], 'float32', {'use_ignore': True, 'ignore_label': 1e300},
     'label[1] is inf, but %s, or ignore_label=1e+300; 1 of the 3'),
    ([-1, 0, 1], 'int32', {}, 'label[0] is -1, but %s; 1 of the 3 labels of this batch are not. '
     + HINT),
    ([0, 255, 1], 'float32', {'ignore_label': 255},
     'label[1] is 255.0, but %s; 1 of the 3 labels of this batch are not. ' + HINT),
]


@pytest.mark.parametrize('labels, dtype, arguments, message', BAD)
def test_bad(labels, dtype, arguments, message):
    """The message; and nothing has been written."""
    direct = Direct(DATA, np.array(labels, dtype), CENTERS, num_class=3, **arguments)
    direct.out[:] = 7
    with pytest.raises(LabelError) as caught:
        direct.forward()
    assert str(caught.value).startswith(message % RANGE)
    assert ('use_ignore' in str(caught.value)) == (HINT in message)
    assert_array_equal(direct.out.asnumpy(), 7)
    assert_array_equal(direct.centers.asnumpy(), CENTERS)
