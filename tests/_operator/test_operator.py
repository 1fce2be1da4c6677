"""MXNet's side: names, shapes, types, and the operator among others."""
import itertools

from center_loss_op._operator.operator import CenterLossProp

import mxnet as mx
import numpy as np
import pytest
from cases import batch
from entries import array, bind, custom, run
from numpy.testing import assert_allclose
from oracle import center_loss

DATA, LABEL, CENTERS = batch(6, 3, 4)


def node(name=None, num_class=4, label=True, **arguments):
    """The operator on variables."""
    inputs = {'label': mx.sym.var('label')} if label else {}
    return mx.sym.Custom(data=mx.sym.var('data'), name=name, op_type='centerloss',
                         num_class=num_class, **inputs, **arguments)


# -- names, shapes, types


def test_what_a_backward_pass_reads():
    """Without the gradient of its output, which need_top_grad asks for, a step would crash."""
    for need_top_grad in False, True:
        prop = CenterLossProp(num_class='4', need_top_grad=str(need_top_grad))
        assert (0 in prop.declare_backward_dependency([0], [1, 2], [3])) == need_top_grad


def test_names():
    loss = node('center_loss')
    assert loss.list_arguments() == ['data', 'label']
    assert loss.list_outputs() == ['center_loss_output']
    assert loss.list_auxiliary_states() == ['center_loss_center_bias']
    assert node('cl', label=False).list_arguments() == ['data', 'cl_label']


@pytest.mark.parametrize('size, num_class', [((6, 3), 4), ((1, 1), 2 ** 31 - 1)])
@pytest.mark.usefixtures('backend')
def test_shapes(size, num_class):
    samples, features = size
    assert node(num_class=num_class).infer_shape(data=size) == (
        [size, (samples,)], [(1,)], [(num_class, features)])


FIT = 'label must have shape (6,) or (6, 1) to fit data of shape (6, 3), got shape '
BAD_SHAPES = [
    (dict(data=(6,)), {}, 'data must be 2-D, (batch, features), got shape (6,); label has shape'),
    (dict(data=(6, 3), label=(7,)), {}, FIT + '(7,)'),
    (dict(data=(6, 3), label=(6, 2)), {}, FIT + '(6, 2)'),
    (dict(data=(6, 3), label=(6, 1, 1)), {}, FIT + '(6, 1, 1)'),
    (dict(data=(6, 2)), {'num_class': 2 ** 30},
     'centers of shape (1073741824, 2), classes by features, have 2147483648 elements, more than '
     'the 2147483647 that an MXNet array can have'),
]


@pytest.mark.parametrize('known, arguments, message', BAD_SHAPES)
def test_bad_shapes(known, arguments, message, log):
    with pytest.raises(mx.MXNetError):
        node(**arguments).infer_shape(**known)
    assert 'ValueError: ' + message in log()
    label = mx.nd.zeros(known.get('label', known['data'][:1]))
    with pytest.raises(mx.MXNetError):
        custom(mx.nd.zeros(known['data']), label, mx.nd.zeros((4, 3)),
               **{'num_class': 4, **arguments}).wait_to_read()
    assert log().count('ValueError: ' + message) == 2


@pytest.mark.parametrize('data, center_first', [('float16', True), ('float16', False),
                                                ('float64', True)])
def test_softmax_decides_on_the_label_type_wherever_it_stands(data, center_first):
    """Its scores may have been cast to float32."""
    label, features = mx.sym.var('label'), mx.sym.var('data')
    softmax = mx.sym.SoftmaxOutput(mx.sym.cast(features, 'float32'), label, name='softmax')
    center = mx.sym.Custom(features, label, op_type='centerloss', num_class=3, name='center')
    graph = mx.sym.Group([center, softmax] if center_first else [softmax, center])
    types = dict(zip(graph.list_arguments(), graph.infer_type(data=data)[0]))
    assert types == {'data': np.dtype(data).type, 'label': np.float32}
    # As SoftmaxOutput's, so that one label variable can serve both.
    assert node().infer_type(data='float32')[0] == [np.float32] * 2


def test_centers_of_another_shape_or_type(log):
    """MXNet compares with what is inferred, and says both."""
    for shape in (5, 3), (4, 2):
        with pytest.raises(mx.MXNetError, match=r'Provided = \[%d,%d\], inferred shape=\[4,3\]'
                           % shape):
            custom(array(DATA), array(LABEL), mx.nd.zeros(shape), num_class=4)
    with pytest.raises(mx.MXNetError):
        node().infer_type(data='int32')
    assert 'TypeError: data must be float16, float32 or float64, got int32' in log()
    for data, centers in ('float32', 'float64'), ('float64', 'float32'), ('float16', 'float16'):
        inferred = 'float64' if data == 'float64' else 'float32'
        with pytest.raises(mx.MXNetError, match='Provided = %s, inferred type = %s'
                           % (centers, inferred)):
            custom(array(DATA.astype(data)), array(LABEL), array(CENTERS.astype(centers)),
                   num_class=4)


@pytest.mark.usefixtures('backend')
def test_attributes_of_a_scope():
    """MXNet writes them on every node of the scope; they come back from JSON."""
    arguments = dict(num_class=4, alpha=.3, scale=.7, reduction='sum', use_ignore=True,
                     ignore_label=2, need_top_grad=True, scale_output=True)
    with mx.AttrScope(ctx_group='dev1', lr_mult='0.1', __mine__='x'):
        loss = node('cl', **arguments)
    assert loss.attr('__ctx_group__') == 'dev1'
    want = center_loss(DATA, LABEL, CENTERS, [3.], **arguments)
    for symbol in (loss, mx.sym.load_json(loss.tojson())):
        got = run(bind(symbol, DATA, LABEL, CENTERS), np.array([3.]))
        for value, expected in zip(got, want):
            assert_allclose(value, expected, rtol=1e-5)


# -- other custom operators in the process


class _Double(mx.operator.CustomOp):
    def __init__(self, chained):
        super().__init__()
        self.chained = chained

    def forward(self, is_train, req, in_data, out_data, aux):
        self.assign(out_data[0], req[0], in_data[0] * 2)

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        self.assign(in_grad[0], req[0], out_grad[0] * 2 if self.chained else in_data[0] * 0 + 2)


@mx.operator.register('test_double')
class _DoubleProp(mx.operator.CustomOpProp):
    """Somebody else's operator, which may read the gradient of its output."""

    def __init__(self, chained='True'):
        self.chained = chained == 'True'
        super().__init__(need_top_grad=self.chained)

    def create_operator(self, ctx, in_shapes, in_dtypes):
        return _Double(self.chained)


OTHERS = {
    'chained': lambda data: mx.nd.Custom(data, op_type='test_double').sum(),
    'loss layer': lambda data: mx.nd.Custom(data, op_type='test_double', chained=False),
    'center loss, chained': lambda data: custom(
        data, array(LABEL), array(CENTERS), num_class=4, need_top_grad=True),
    'center loss': lambda data: custom(data, array(LABEL), array(CENTERS), num_class=4),
}


@pytest.mark.parametrize('other', OTHERS)
@pytest.mark.usefixtures('backend')
def test_other_operators(other):
    """MXNet keeps one note for the whole process of what a backward pass reads."""
    for own_last, need_top_grad, own_first in itertools.product([False, True], repeat=3):
        if (other, own_last, need_top_grad) == ('loss layer', True, True):
            continue    # fails in the stranger's own callbacks, whatever the two operators are
        mine, others = array(DATA), array(DATA)
        mine.attach_grad()
        others.attach_grad()
        state, losses = array(CENTERS), {}
        for own in not own_last, own_last:
            with mx.autograd.record():
                losses[own] = custom(mine, array(LABEL), state, num_class=4,
                                     need_top_grad=need_top_grad) if own else OTHERS[other](others)
        for own in own_first, not own_first:
            losses[own].backward(mx.nd.array([3.]) if own else None)
        mx.nd.waitall()
        want = center_loss(DATA, LABEL, CENTERS, [3.], need_top_grad=need_top_grad)
        assert_allclose(mine.grad.asnumpy(), want.grad, rtol=1e-5)
        assert_allclose(state.asnumpy(), want.centers, rtol=1e-5)
        doubled = other in ('chained', 'loss layer')
        expected = 2 if doubled else center_loss(DATA, LABEL, CENTERS).grad
        assert_allclose(others.grad.asnumpy(), expected + 0 * DATA, rtol=1e-5)


def test_arrays_by_name(log):
    for name in 'data', 'label', 'center_bias':
        with pytest.raises(mx.MXNetError):
            mx.nd.Custom(**{name: array(DATA)}, op_type='centerloss', num_class=2)
        assert name + ' is an array, and mx.nd.Custom takes arrays by their position' in log()
