"""MXNet's side: names, shapes, types, and the operator among others."""
import itertools
import json

import entries
import mxnet as mx
import numpy as np
import pytest
from cases import batch
from entries import array, bind, custom, run
from numpy.testing import assert_allclose, assert_array_equal
from oracle import center_loss, tolerance

DATA, LABEL, CENTERS = batch(6, 3, 4)


def node(name=None, num_class=4, label=True, **arguments):
    """The operator on variables."""
    inputs = {'label': mx.sym.var('label')} if label else {}
    return mx.sym.Custom(data=mx.sym.var('data'), name=name, op_type='centerloss',
                         num_class=num_class, **inputs, **arguments)


# -- the entries agree


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
@pytest.mark.parametrize('entry', entries.WITH_REDUCTION)
@pytest.mark.usefixtures('backend')
def test_entries(entry, reduction, dtype):
    data, label, centers = batch(9, 5, 4, dtype)
    label[4] = -1
    got = entry(data, label, centers, num_class=4, alpha=.3, scale=.2, reduction=reduction,
                use_ignore=True)
    want = center_loss(data, label, centers, .3, .2, reduction, ignore_label=-1)
    assert_allclose(got.loss, want.loss, **tolerance('float32', data, centers))
    assert_allclose(got.grad, want.grad, **tolerance(dtype, data, centers))
    assert_allclose(got.centers, want.centers, **tolerance('float32', data, centers))


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
@pytest.mark.parametrize('entry', entries.ALL)
@pytest.mark.usefixtures('backend')
def test_entries_give_the_same_bits(entry, dtype):
    data, label, centers = batch(40, 7, 5, dtype)
    head = np.arange(-20, 20) / 16  # as well in float16
    arguments = dict(num_class=5, alpha=.3, reduction='none', need_top_grad=True)
    want = entries.imperative(data, label, centers, head, **arguments)
    got = entry(data, label, centers, head, **arguments)
    # Gluon's loss has the dtype of the features, as MXNet's own.
    loss_type = dtype if entry in entries.BLOCKS else want.loss.dtype
    assert_array_equal(got.loss, want.loss.astype(loss_type))
    for value, expected in zip(got[1:], want[1:]):
        assert_array_equal(value, expected)
        assert value.dtype == expected.dtype


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
@pytest.mark.parametrize('entry', entries.WITH_REDUCTION)
@pytest.mark.usefixtures('backend')
def test_scale_output(entry, reduction, dtype):
    """The output has the weight and the dtype of the gradient."""
    data, label, centers = batch(40, 7, 5, dtype)
    arguments = dict(num_class=5, scale=.25, reduction=reduction)
    plain = entry(data, label, centers, **arguments)
    got = entry(data, label, centers, scale_output=True, **arguments)
    assert_array_equal(got.loss, (plain.loss * plain.loss.dtype.type(.25)).astype(dtype))
    assert got.loss.dtype == np.dtype(dtype)
    for value, expected in zip(got[1:], plain[1:]):
        assert_array_equal(value, expected)


# -- names, shapes, types


def test_names():
    loss = node('center_loss')
    assert loss.list_arguments() == ['data', 'label']
    assert loss.list_outputs() == ['center_loss_output']
    assert loss.list_auxiliary_states() == ['center_loss_center_bias']


def test_label_variable_is_made():
    assert node('cl', label=False).list_arguments() == ['data', 'cl_label']


@pytest.mark.parametrize('initializer', [mx.init.Xavier(), mx.init.Uniform(), mx.init.One()])
def test_initializers_set_centers_to_zero(initializer):
    """That is why the name of the state ends in _bias."""
    module = mx.mod.Module(node('cl'), label_names=['label'])
    module.bind([('data', (6, 3))], [('label', (6,))])
    module.init_params(initializer)
    assert not module.get_params()[1]['cl_center_bias'].asnumpy().any()


# what is known, arguments, what is inferred: data, label, output, centers
SHAPES = [
    (dict(data=(6, 3)), {}, (6, 3), (6,), (1,), (4, 3)),
    (dict(data=(6, 3), label=(6,)), {}, (6, 3), (6,), (1,), (4, 3)),
    (dict(data=(6, 3), label=(6, 1)), {}, (6, 3), (6, 1), (1,), (4, 3)),
    (dict(data=(6, 3)), {'reduction': 'sum'}, (6, 3), (6,), (1,), (4, 3)),
    (dict(data=(6, 3)), {'reduction': 'none'}, (6, 3), (6,), (6,), (4, 3)),
    (dict(data=(1, 1)), {'reduction': 'none'}, (1, 1), (1,), (1,), (4, 1)),
    # The largest array that MXNet can have
    (dict(data=(1, 1)), {'num_class': 2 ** 31 - 1}, (1, 1), (1,), (1,), (2 ** 31 - 1, 1)),
]


@pytest.mark.parametrize('known, arguments, data, label, out, centers', SHAPES)
def test_shapes(known, arguments, data, label, out, centers):
    assert node(**arguments).infer_shape(**known) == ([data, label], [out], [centers])


def test_nothing_known_yet():
    assert node(reduction='none').infer_shape_partial()[0] == [(), ()]


BAD_SHAPES = [
    (dict(data=(6,)), {},
     'data must be 2-D, (batch, features), got shape (6,); label has shape ()'),
    (dict(data=(6, 3, 1), label=(6,)), {},
     'data must be 2-D, (batch, features), got shape (6, 3, 1); label has shape (6,)'),
    (dict(data=(6, 3), label=(5,)), {},
     'label must have shape (6,) or (6, 1) to fit data of shape (6, 3), got shape (5,)'),
    (dict(data=(6, 3), label=(6, 2)), {},
     'label must have shape (6,) or (6, 1) to fit data of shape (6, 3), got shape (6, 2)'),
    (dict(data=(6, 3), label=(1, 6)), {},
     'label must have shape (6,) or (6, 1) to fit data of shape (6, 3), got shape (1, 6)'),
    (dict(data=(6, 3), label=(6, 1, 1)), {},
     'label must have shape (6,) or (6, 1) to fit data of shape (6, 3), got shape (6, 1, 1)'),
    (dict(data=(6, 2)), {'num_class': 2 ** 30},
     'centers of shape (1073741824, 2), classes by features, have 2147483648 elements, more than '
     'the 2147483647 that an MXNet array can have'),
]


@pytest.mark.parametrize('known, arguments, message', BAD_SHAPES)
def test_bad_shapes(known, arguments, message, log):
    symbol = node(**arguments)
    with pytest.raises(mx.MXNetError):
        symbol.infer_shape(**known)
    assert 'ValueError: ' + message in log()
    with pytest.raises(RuntimeError):
        symbol.simple_bind(mx.cpu(), **known)


@pytest.mark.parametrize('known, arguments, message', BAD_SHAPES)
def test_bad_shapes_of_arrays(known, arguments, message, log):
    data = mx.nd.zeros(known['data'])
    label = mx.nd.zeros(known.get('label', known['data'][:1]))
    centers = mx.nd.zeros((4, 3))
    with pytest.raises(mx.MXNetError):
        custom(data, label, centers, **{'num_class': 4, **arguments}).wait_to_read()
    assert message.split('; label has')[0] in log()


@pytest.mark.parametrize('shape', [(5, 3), (4, 2), (3, 4), (12,), (4, 3, 1)])
def test_centers_of_another_shape(shape):
    """MXNet compares with what is inferred, and says both."""
    text = str(list(shape)).replace(' ', '')
    with pytest.raises(mx.MXNetError, match=r'Provided = \%s, inferred shape=\[4,3\]' % text):
        custom(array(DATA), array(LABEL), mx.nd.zeros(shape), num_class=4)
    with pytest.raises(mx.MXNetError, match=r'Provided = \%s, inferred shape=\[4,3\]' % text):
        bind(node(), DATA, LABEL, np.zeros(shape, 'float32'))


# data, label, what is inferred: data, label, centers
INFERRED_TYPES = [
    ('float16', 'int32', np.float32), ('float32', 'float32', np.float32),
    ('float64', 'float32', np.float64), ('float64', 'uint8', np.float64),
    ('float32', 'int64', np.float32), ('float16', 'float16', np.float32)]


@pytest.mark.parametrize('data, label, centers', INFERRED_TYPES)
def test_dtypes(data, label, centers):
    types, out, aux = node().infer_type(data=data, label=label)
    assert types == [np.dtype(data).type, np.dtype(label).type]
    assert out == aux == [centers]


def test_label_type_follows_float32_data():
    """As SoftmaxOutput's, so that one label variable can serve both."""
    assert node().infer_type(data='float32')[0] == [np.float32] * 2


@pytest.mark.parametrize('scores', ['as the data', 'float32'])
@pytest.mark.parametrize('center_first', [True, False])
@pytest.mark.parametrize('data', ['float16', 'float32', 'float64'])
def test_softmax_decides_on_the_label_type_wherever_it_stands(data, center_first, scores):
    scores_type = data if scores == 'as the data' else scores
    label, features = mx.sym.var('label'), mx.sym.var('data')
    softmax = mx.sym.SoftmaxOutput(mx.sym.cast(features, scores_type), label, name='softmax')
    center = mx.sym.Custom(features, label, op_type='centerloss', num_class=3, name='center')
    graph = mx.sym.Group([center, softmax] if center_first else [softmax, center])
    types = dict(zip(graph.list_arguments(), graph.infer_type(data=data)[0]))
    assert types == {'data': np.dtype(data).type, 'label': np.dtype(scores_type).type}



@pytest.mark.parametrize('data', ['int32', 'int8', 'uint8', 'int64'])
def test_integers_are_no_features(data, log):
    with pytest.raises(mx.MXNetError):
        node().infer_type(data=data)
    assert 'TypeError: data must be float16, float32 or float64, got %s' % data in log()


@pytest.mark.parametrize('data, centers', [
    ('float32', 'float64'), ('float64', 'float32'), ('float16', 'float16')])
def test_centers_of_another_type(data, centers):
    inferred = 'float64' if data == 'float64' else 'float32'
    with pytest.raises(mx.MXNetError, match='Provided = %s, inferred type = %s'
                       % (centers, inferred)):
        custom(array(DATA.astype(data)), array(LABEL), array(CENTERS.astype(centers)), num_class=4)


def test_empty_batch():
    """MXNet allows one with np_shape: the loss is 0, and nothing moves."""
    with mx.util.np_shape(True):
        data, label, centers = mx.nd.zeros((0, 3)), mx.nd.zeros((0,)), array(CENTERS)
        data.attach_grad()
        with mx.autograd.record():
            loss = custom(data, label, centers, num_class=4)
        loss.backward()
        mx.nd.waitall()
        assert_array_equal(loss.asnumpy(), [0])
        assert data.grad.shape == (0, 3)
        assert_array_equal(centers.asnumpy(), CENTERS)


# -- arguments as attributes


def test_batchsize_is_accepted_and_unused():
    got = entries.symbolic(DATA, LABEL, CENTERS, num_class=4, batchsize=100)
    assert_array_equal(got.loss, entries.symbolic(DATA, LABEL, CENTERS, num_class=4).loss)


def test_attributes_of_a_scope():
    """MXNet writes them on every node of the scope, also where an operator is custom."""
    with mx.AttrScope(ctx_group='dev1', lr_mult='0.1', __mine__='x'):
        loss = node('cl')
    assert loss.attr('__ctx_group__') == 'dev1'
    for symbol in (loss, mx.sym.load_json(loss.tojson())):
        got = run(bind(symbol, DATA, LABEL, CENTERS))
        assert_allclose(got.loss, center_loss(DATA, LABEL, CENTERS).loss, rtol=1e-5)


def test_saved_attributes():
    """All arguments come back from JSON."""
    arguments = dict(alpha=.3, scale=.7, reduction='sum', use_ignore=True, ignore_label=2,
                     need_top_grad=True, scale_output=True)
    loss = mx.sym.load_json(node('cl', **arguments).tojson())
    got = run(bind(loss, DATA, LABEL, CENTERS), np.array([3.]))
    want = center_loss(DATA, LABEL, CENTERS, .3, .7, 'sum', ignore_label=2, head=[3.])
    want = want._replace(loss=.7 * want.loss)
    for value, expected in zip(got, want):
        assert_allclose(value, expected, rtol=1e-5)


# -- in a larger graph


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
@pytest.mark.parametrize('alpha', [0, .5])
@pytest.mark.parametrize('use_ignore', [False, True])
@pytest.mark.usefixtures('backend')
def test_numeric_gradient(use_ignore, alpha, reduction):
    data, label, centers = batch(5, 3, 4, 'float64')
    if use_ignore:
        label[2] = -1
    # The check shifts every input a little, the labels too.
    loss = mx.sym.Custom(mx.sym.var('data'), mx.sym.round(mx.sym.var('label')), name='cl',
                         op_type='centerloss', num_class=4, alpha=alpha, reduction=reduction,
                         need_top_grad=True, use_ignore=use_ignore)
    mx.test_utils.check_numeric_gradient(
        mx.sym.sin(loss), {'data': data, 'label': label}, {'cl_center_bias': centers},
        numeric_eps=1e-4, rtol=1e-4, atol=1e-6, grad_nodes=['data'], dtype=np.float64)


def test_loss_layer_needs_no_head_gradient():
    """As SoftmaxOutput: what stands behind it in the graph does not matter."""
    got = run(bind(node() * 100, DATA, LABEL, CENTERS))
    want = center_loss(DATA, LABEL, CENTERS)
    assert_allclose(got.loss, 100 * want.loss, rtol=1e-5)
    assert_allclose(got.grad, want.grad, rtol=1e-5)


@pytest.mark.usefixtures('backend')
def test_embedding_feeds_two_losses():
    """Its gradient is the sum of both: MXNet asks the second to add to the first."""
    embedding = mx.sym.var('data') * 1
    label = mx.sym.var('label')
    center = mx.sym.Custom(embedding, label, num_class=4, scale=.5, op_type='centerloss')
    softmax = mx.sym.SoftmaxOutput(embedding, label, normalization='batch')
    both = mx.sym.Group([softmax, center])
    executor = bind(both, DATA, LABEL, CENTERS[:, :3])
    executor.forward(is_train=True)
    executor.backward()
    mx.nd.waitall()
    probability = np.exp(DATA) / np.exp(DATA).sum(1, keepdims=True)
    # A label of 3 is none of the three classes of the softmax: no column to subtract 1 from
    wanted = (probability - np.eye(4)[LABEL.astype(int)][:, :3]) / len(DATA)
    wanted += center_loss(DATA, LABEL, CENTERS, scale=.5).grad
    assert_allclose(executor.grad_dict['data'].asnumpy(), wanted, rtol=1e-4, atol=1e-6)


def test_executor_is_reshaped():
    """Another batch size, the same centers."""
    executor, want = bind(node(), DATA, LABEL, CENTERS), CENTERS
    for step, samples in enumerate([6, 2, 11, 6]):
        data, label, _ = batch(samples, 3, 4, seed=step)
        executor = executor.reshape(allow_up_sizing=True, data=data.shape, label=label.shape)
        executor.arg_dict['data'][:] = data
        executor.arg_dict['label'][:] = label
        got, expected = run(executor), center_loss(data, label, want)
        want = expected.centers
        assert_allclose(got.grad, expected.grad, rtol=1e-4, atol=1e-6)
        assert_allclose(got.centers, want, rtol=1e-4, atol=1e-6)


def test_executors_share_centers():
    """Two bound graphs over one array of centers, in turns."""
    symbol, want = node(), CENTERS
    executors = [bind(symbol, DATA, LABEL, CENTERS) for _ in range(2)]
    first = executors[0].aux_arrays[0]
    executors[1] = symbol.bind(
        mx.cpu(), executors[1].arg_dict, {'data': executors[1].grad_dict['data']},
        {'data': 'write', 'label': 'null'}, [first])
    for step in range(4):
        run(executors[step % 2])
        want = center_loss(DATA, LABEL, want).centers
    assert_allclose(first.asnumpy(), want, rtol=1e-4, atol=1e-6)


# -- other custom operators in the process


class _Double(mx.operator.CustomOp):
    def forward(self, is_train, req, in_data, out_data, aux):
        self.assign(out_data[0], req[0], in_data[0] * 2)

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        self.assign(in_grad[0], req[0], out_grad[0] * 2)


@mx.operator.register('test_double')
class _DoubleProp(mx.operator.CustomOpProp):
    """Somebody else's operator, which reads the gradient of its output."""

    def create_operator(self, ctx, in_shapes, in_dtypes):
        return _Double()


@mx.operator.register('test_double_loss')
class _DoubleLossProp(mx.operator.CustomOpProp):
    """The same as a loss layer, which does not."""

    def __init__(self):
        super().__init__(need_top_grad=False)

    def create_operator(self, ctx, in_shapes, in_dtypes):
        class Ones(_Double):
            def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
                self.assign(in_grad[0], req[0], in_data[0] * 0 + 2)
        return Ones()


OTHERS = {
    'chained': lambda data: mx.nd.Custom(data, op_type='test_double').sum(),
    'loss layer': lambda data: mx.nd.Custom(data, op_type='test_double_loss'),
    'center loss, chained': lambda data: custom(
        data, array(LABEL), array(CENTERS), num_class=4, need_top_grad=True),
    'center loss': lambda data: custom(data, array(LABEL), array(CENTERS), num_class=4),
}


# A stranger's loss layer in front of an operator that reads the gradient of its output fails in
# the stranger's own callbacks, whatever the two operators are: not a case that can be helped.
@pytest.mark.parametrize('other, created_last, need_top_grad', [
    case for case in itertools.product(OTHERS, ['other', 'own'], [False, True])
    if case != ('loss layer', 'own', True)])
@pytest.mark.parametrize('backward_first', ['other', 'own'])
@pytest.mark.usefixtures('backend')
def test_other_operators(other, created_last, backward_first, need_top_grad):
    """MXNet keeps one note for the whole process of what a backward pass reads."""
    mine, others = array(DATA), array(DATA)
    mine.attach_grad()
    others.attach_grad()
    state = array(CENTERS)
    losses = {}
    for which in sorted(['own', 'other'], key=lambda which: which == created_last):
        with mx.autograd.record():
            losses[which] = (OTHERS[other](others) if which == 'other' else custom(
                mine, array(LABEL), state, num_class=4, need_top_grad=need_top_grad))
    for which in sorted(losses, key=lambda which: which != backward_first):
        losses[which].backward(mx.nd.array([3.]) if which == 'own' else None)
    mx.nd.waitall()
    want = center_loss(DATA, LABEL, CENTERS, head=[3.] if need_top_grad else None)
    assert_allclose(mine.grad.asnumpy(), want.grad, rtol=1e-5)
    assert_allclose(state.asnumpy(), want.centers, rtol=1e-5)
    expected = 2 if other in ('chained', 'loss layer') else center_loss(DATA, LABEL, CENTERS).grad
    assert_allclose(others.grad.asnumpy(), expected + 0 * DATA, rtol=1e-5)


@pytest.mark.parametrize('head', [[1, 1], [0, 5]])
def test_chained_and_loss_layer_in_one_graph(head):
    """Each keeps its own need_top_grad, in a graph that is bound once."""
    data, label = mx.sym.var('data'), mx.sym.var('label')
    losses = [mx.sym.Custom(data, label, op_type='centerloss', num_class=4, need_top_grad=chained,
                            name='cl%d' % chained) for chained in (False, True)]
    args = {'data': array(DATA), 'label': array(LABEL)}
    grad = mx.nd.zeros(DATA.shape)
    executor = mx.sym.Group(losses).bind(mx.cpu(), args, {'data': grad},
                                         {'data': 'write', 'label': 'null'},
                                         [array(CENTERS), array(CENTERS)])
    executor.forward(is_train=True)
    executor.backward([mx.nd.array([value]) for value in head])
    want = center_loss(DATA, LABEL, CENTERS)
    assert_allclose(grad.asnumpy(), want.grad * (1 + head[1]), rtol=1e-5)
    for state in executor.aux_arrays:
        assert_allclose(state.asnumpy(), want.centers, rtol=1e-5)


def test_attributes_in_json_are_what_was_given():
    attributes = next(n['attrs'] for n in json.loads(node(alpha=.25).tojson())['nodes']
                      if n['op'] == 'Custom')
    assert attributes == {'op_type': 'centerloss', 'num_class': '4', 'alpha': '0.25'}
