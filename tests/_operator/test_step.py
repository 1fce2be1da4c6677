"""Loss, gradient and update against numbers, and against the oracle: all backends."""
from center_loss_op._operator.labels import LabelError

import mxnet as mx
import numpy as np
import pytest
from cases import batch, centers_dtype
from entries import Direct, array, bind, custom, imperative, run, symbolic
from numpy.testing import assert_allclose, assert_array_equal
from oracle import center_loss, tolerance

pytestmark = pytest.mark.usefixtures('backend')

DTYPES = ['float16', 'float32', 'float64']
REDUCTIONS = ['mean', 'sum', 'none']

# Cases to be checked by hand: features, labels, centers, arguments, and what is expected of
# reduction='none': the losses, the gradient, the centers after the update.
CASES = {
    # c ← 0 + 0.5 · 1 · (2, 4) / (1 + 1)
    'one sample, one class': dict(
        data=[[2, 4]], label=[0], centers=[[0, 0]], arguments={},
        losses=[10], grad=[[2, 4]], moved=[[.5, 1]]),
    # Class 1: c ← 1 + 0.75 · (1 + 3) / (1 + 2)
    'duplicates': dict(
        data=[[2, 0], [4, 0]], label=[1, 1], centers=[[5, 6], [1, 0]], arguments={'alpha': .75},
        losses=[.5, 4.5], grad=[[1, 0], [3, 0]], moved=[[5, 6], [2, 0]]),
    # Two samples that pull in opposite directions leave their center where it is.
    'balance': dict(
        data=[[1], [-1]], label=[0, 0], centers=[[0]], arguments={},
        losses=[.5, .5], grad=[[1], [-1]], moved=[[0]]),
    'absent classes': dict(
        data=[[1, 1], [0, 8]], label=[3, 1], centers=[[.1, .2], [0, 0], [.3, .4], [1, 3]],
        arguments={}, losses=[2, 32], grad=[[0, -2], [0, 8]],
        moved=[[.1, .2], [0, 2], [.3, .4], [1, 2.5]]),
    'already there': dict(
        data=[[3, 4], [3, 4]], label=[0, 0], centers=[[3, 4]], arguments={},
        losses=[0, 0], grad=[[0, 0], [0, 0]], moved=[[3, 4]]),
    # Class 0 counts one sample of three: c ← 0 + 0.5 · 2 / (1 + 1)
    'ignored': dict(
        data=[[2], [7], [9]], label=[0, -1, -1], centers=[[0]], arguments={'use_ignore': True},
        losses=[2, 0, 0], grad=[[2], [0], [0]], moved=[[.5]]),
    'all ignored': dict(
        data=[[2], [7]], label=[-1, -1], centers=[[1]], arguments={'use_ignore': True},
        losses=[0, 0], grad=[[0], [0]], moved=[[1]]),
    # 0 is a class like any other, and here the one to leave out.
    'ignored class': dict(
        data=[[2], [4]], label=[0, 1], centers=[[1], [0]],
        arguments={'use_ignore': True, 'ignore_label': 0},
        losses=[0, 8], grad=[[0], [4]], moved=[[1], [1]]),
    'scale': dict(
        data=[[2, 4]], label=[0], centers=[[0, 0]], arguments={'scale': .25},
        losses=[10], grad=[[.5, 1]], moved=[[.5, 1]]),
    'scale 0': dict(
        data=[[2, 4]], label=[0], centers=[[0, 0]], arguments={'scale': 0},
        losses=[10], grad=[[0, 0]], moved=[[.5, 1]]),
    'alpha 0': dict(
        data=[[2, 4]], label=[0], centers=[[0, 0]], arguments={'alpha': 0},
        losses=[10], grad=[[2, 4]], moved=[[0, 0]]),
    # α = 2 lands on the sample, α = 1000 beyond it: 0 + 1000 · 2 / 2.
    'alpha 2': dict(
        data=[[2, 4]], label=[0], centers=[[0, 0]], arguments={'alpha': 2},
        losses=[10], grad=[[2, 4]], moved=[[2, 4]]),
    'alpha 1000': dict(
        data=[[2]], label=[0], centers=[[0]], arguments={'alpha': 1000},
        losses=[2], grad=[[2]], moved=[[1000]]),
}


def arrays(case, dtype):
    """The features, labels and centers of a case."""
    return (np.array(case['data'], dtype), np.array(case['label'], 'float32'),
            np.array(case['centers'], centers_dtype(dtype)))


def counted(case):
    """How many samples of a case count."""
    ignore = case['arguments'].get('ignore_label', -1)
    return len(case['label']) - (case['label'].count(ignore)
                                 if 'use_ignore' in case['arguments'] else 0)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('reduction', REDUCTIONS)
@pytest.mark.parametrize('name', CASES)
def test_case(name, reduction, dtype):
    case = CASES[name]
    data, label, centers = arrays(case, dtype)
    got = imperative(data, label, centers, num_class=len(centers), reduction=reduction,
                     **case['arguments'])
    count = max(counted(case), 1)
    losses, grad = np.array(case['losses'], float), np.array(case['grad'], float)
    if reduction != 'none':
        losses = losses.sum(keepdims=True)
    if reduction == 'mean':
        losses, grad = losses / count, grad / count
    limits = tolerance(dtype, data, centers)
    assert_allclose(got.loss, losses, rtol=1e-6)
    assert_allclose(got.grad, grad, **limits)
    assert_allclose(got.centers, case['moved'], rtol=1e-6)
    assert (got.loss.dtype, got.grad.dtype) == (centers.dtype, data.dtype)


@pytest.mark.parametrize('name', CASES)
def test_oracle(name):
    """The oracle, too, is held against the numbers above."""
    case = CASES[name]
    arguments = dict(case['arguments'])
    ignore = arguments.pop('ignore_label', -1) if arguments.pop('use_ignore', False) else None
    want = center_loss(*arrays(case, 'float64'), reduction='none', ignore_label=ignore,
                       **arguments)
    assert_allclose(want.loss, case['losses'])
    assert_allclose(want.grad, case['grad'])
    assert_allclose(want.centers, case['moved'])


# N, d, C, classes used. The kernels change their ways with size and number of duplicates.
SIZES = [(1, 1, 1, 1), (1, 5, 3, 3), (5, 1, 2, 2), (7, 3, 4, 4), (128, 2, 10, 10),
         (64, 33, 7, 1), (64, 300, 1500, 1500), (300, 70, 20, 20), (300, 70, 400, 400),
         (300, 70, 100, 2), (40, 513, 60, 60)]


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('reduction', REDUCTIONS)
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_sizes(size, reduction, dtype):
    data, label, centers = batch(*size[:3], dtype, used=size[3])
    got = imperative(data, label, centers, num_class=len(centers), alpha=0.7, scale=0.3,
                     reduction=reduction)
    want = center_loss(data, label, centers, 0.7, 0.3, reduction)
    loss_limits = tolerance(centers.dtype, data, centers)
    assert_allclose(got.loss, want.loss, **loss_limits)
    assert_allclose(got.grad, want.grad, **tolerance(dtype, data, centers))
    assert_allclose(got.centers, want.centers, **loss_limits)
    absent = np.setdiff1d(np.arange(len(centers)), label)
    assert_array_equal(got.centers[absent], centers[absent])
    for j in np.unique(label.astype(int)):
        assert not (got.centers[j] == centers[j]).all()


@pytest.mark.parametrize('ignore_label', [-1, 0, 3, 255, 0.5])
@pytest.mark.parametrize('reduction', REDUCTIONS)
@pytest.mark.parametrize('size', [(9, 3, 4), (300, 70, 20)], ids=str)
def test_ignored(size, reduction, ignore_label):
    data, label, centers = batch(*size)
    label[::3] = ignore_label
    got = imperative(data, label, centers, num_class=len(centers), reduction=reduction,
                     use_ignore=True, ignore_label=ignore_label)
    want = center_loss(data, label, centers, reduction=reduction, ignore_label=ignore_label)
    limits = tolerance('float32', data, centers)
    for value, expected in zip(got, want):
        assert_allclose(value, expected, **limits)
    assert not got.grad[label == ignore_label].any()


def test_ignored_features_do_not_matter():
    data, label, centers = batch(9, 3, 4)
    label[[2, 5]] = -1
    arguments = dict(num_class=4, use_ignore=True, reduction='sum')
    want = imperative(data, label, centers, **arguments)
    data[2], data[5] = np.nan, np.inf
    got = imperative(data, label, centers, **arguments)
    for value, expected in zip(got, want):
        assert_array_equal(value, expected)


@pytest.mark.parametrize('label', [0, 3])
def test_ignore_label_is_a_class_without_use_ignore(label):
    data, _, centers = batch(2, 3, 4)
    labels = np.array([label, 1], 'float32')
    got = imperative(data, labels, centers, num_class=4, ignore_label=label)
    assert_allclose(got.centers, center_loss(data, labels, centers).centers, rtol=1e-5)


@pytest.mark.parametrize('reduction', REDUCTIONS)
@pytest.mark.parametrize('need_top_grad', [False, True])
@pytest.mark.parametrize('dtype', DTYPES)
def test_head_gradient(dtype, need_top_grad, reduction):
    """It weighs the gradient with need_top_grad, and nothing without; never the update."""
    data, label, centers = batch(6, 3, 4, dtype)
    head = np.array([0.5, -2, 0, 1, 3, 4] if reduction == 'none' else [-3], float)
    got = imperative(data, label, centers, head, num_class=4, scale=0.5, reduction=reduction,
                     need_top_grad=need_top_grad)
    want = center_loss(data, label, centers, scale=0.5, reduction=reduction,
                       head=head if need_top_grad else None)
    assert_allclose(got.grad, want.grad, **tolerance(dtype, data * 4, centers))
    assert_allclose(got.centers, want.centers, **tolerance('float32', data, centers))


@pytest.mark.parametrize('shape', [(6,), (6, 1)])
@pytest.mark.parametrize('entry', [imperative, symbolic])
def test_label_shape(entry, shape):
    data, label, centers = batch(6, 3, 4)
    got = entry(data, label.reshape(shape), centers, num_class=4)
    want = center_loss(data, label, centers)
    for value, expected in zip(got, want):
        assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize('dtype', DTYPES)
def test_batch_sizes_change(dtype):
    """Twenty steps on one set of centers, with batches that grow and shrink."""
    centers = batch(1, 40, 6, dtype)[2]
    state, want = array(centers), centers
    for step, samples in enumerate([5, 1, 700, 3, 64, 64, 2, 500, 1, 1, 90, 6, 7, 8, 400, 5, 4, 3,
                                    2, 1]):
        data, label, _ = batch(samples, 40, 6, dtype, seed=step)
        features = array(data)
        features.attach_grad()
        with mx.autograd.record():
            loss = custom(features, array(label), state, num_class=6)
        loss.backward()
        mx.nd.waitall()
        expected = center_loss(data, label, want)
        want = expected.centers
        assert_allclose(loss.asnumpy(), expected.loss, rtol=1e-4)
        assert_allclose(features.grad.asnumpy(), expected.grad,
                        **tolerance(dtype, data * 2, centers))
    assert_allclose(state.asnumpy(), want, rtol=1e-4, atol=1e-5)


# -- how results are stored


def result_of(req, old, value):
    """What an array that holds `old` holds after `value` is stored as `req` says."""
    return {'write': value, 'inplace': value, 'add': old + value, 'null': old}[req]


@pytest.mark.parametrize('req', ['write', 'inplace', 'add', 'null'])
@pytest.mark.parametrize('reduction', REDUCTIONS)
@pytest.mark.parametrize('dtype', DTYPES)
def test_req(dtype, reduction, req):
    data, label, centers = batch(6, 3, 4, dtype)
    want = center_loss(data, label, centers, scale=2, reduction=reduction)
    direct = Direct(data, label, centers, num_class=4, scale=2, reduction=reduction)
    direct.out[:] = 3
    assert_allclose(direct.forward(req), result_of(req, 3, want.loss), rtol=1e-5)
    direct.grads[0][:] = 3
    assert_allclose(direct.backward(req), result_of(req, 3, want.grad),
                    **tolerance(dtype, data + 3, centers))
    # The centers move whoever wants the gradient.
    assert_allclose(direct.centers.asnumpy(), want.centers, rtol=1e-5)


@pytest.mark.parametrize('req', ['write', 'inplace', 'add', 'null'])
def test_req_with_head_gradient(req):
    data, label, centers = batch(6, 3, 4)
    want = center_loss(data, label, centers, reduction='none', head=np.full(6, -2.0))
    direct = Direct(data, label, centers, num_class=4, reduction='none', need_top_grad=True)
    direct.forward()
    direct.grads[0][:] = 3
    assert_allclose(direct.backward(req, head=-2.0), result_of(req, 3, want.grad), rtol=1e-5)


def test_inplace_shares_the_memory_of_the_features():
    """MXNet may hand over the features' own memory to take the gradient."""
    data, label, centers = batch(6, 3, 4)
    want = center_loss(data, label, centers)
    direct = Direct(data, label, centers, num_class=4)
    direct.forward()
    direct.grads[0] = direct.inputs[0]
    assert_allclose(direct.backward('inplace'), want.grad, rtol=1e-5)
    assert_allclose(direct.centers.asnumpy(), want.centers, rtol=1e-5)


@pytest.mark.parametrize('req, expected', [('null', 7), ('write', 0), ('inplace', 0), ('add', 7)])
def test_label_gradient(req, expected):
    """A label has the gradient zero."""
    direct = Direct(*batch(6, 3, 4), num_class=4)
    direct.forward()
    direct.grads[1][:] = 7
    direct.backward(label_req=req)
    assert_array_equal(direct.grads[1].asnumpy(), expected)


@pytest.mark.parametrize('req', ['write', 'add', 'null'])
@pytest.mark.parametrize('dtype', DTYPES)
def test_grad_req_of_an_executor(dtype, req):
    data, label, centers = batch(6, 3, 4, dtype)
    symbol = mx.sym.Custom(mx.sym.var('data'), mx.sym.var('label'), op_type='centerloss',
                           num_class=4)
    if req == 'null':  # MXNet then runs no backward pass
        executor = bind(symbol, data, label, centers, req, np.full_like(data, 2))
        executor.forward(is_train=True)
        executor.backward()
        mx.nd.waitall()
        assert_array_equal(executor.grad_dict['data'].asnumpy(), 2)
        assert_array_equal(executor.aux_arrays[0].asnumpy(), centers)
        return
    got = run(bind(symbol, data, label, centers, req, np.full_like(data, 2)))
    want = center_loss(data, label, centers)
    assert_allclose(got.grad, want.grad + (2 if req == 'add' else 0),
                    **tolerance(dtype, data + 2, centers))
    assert_allclose(got.centers, want.centers, rtol=1e-5)


# -- when centers move


def test_training_forward_alone_moves_nothing():
    data, label, centers = map(array, batch(6, 3, 4))
    before = centers.asnumpy()
    data.attach_grad()
    for _ in range(3):
        with mx.autograd.record():
            custom(data, label, centers, num_class=4)
    mx.nd.waitall()
    assert_array_equal(centers.asnumpy(), before)


def test_inference_moves_nothing():
    data, label, centers = batch(6, 3, 4)
    state = array(centers)
    loss = custom(array(data), array(label), state, num_class=4)
    mx.nd.waitall()
    assert_array_equal(state.asnumpy(), centers)
    assert_allclose(loss.asnumpy(), center_loss(data, label, centers).loss, rtol=1e-5)


def test_predict_mode_moves_nothing():
    data, label, centers = map(array, batch(6, 3, 4))
    before = centers.asnumpy()
    data.attach_grad()
    with mx.autograd.record(train_mode=False):
        custom(data, label, centers, num_class=4)
    mx.nd.waitall()
    assert_array_equal(centers.asnumpy(), before)


def test_inference_of_a_bound_graph_moves_nothing():
    data, label, centers = batch(6, 3, 4)
    symbol = mx.sym.Custom(mx.sym.var('data'), mx.sym.var('label'), op_type='centerloss',
                           num_class=4)
    executor = bind(symbol, data, label, centers)
    loss, = executor.forward(is_train=False)
    assert_allclose(loss.asnumpy(), center_loss(data, label, centers).loss, rtol=1e-5)
    assert_array_equal(executor.aux_arrays[0].asnumpy(), centers)


# The forward passes before a backward pass, each a training one or not. The last one counts.
FORWARDS = {'none': [], 'inference': [False], 'training': [True], 'two of training': [True, True],
            'inference after training': [True, False], 'training after inference': [False, True]}


@pytest.mark.parametrize('need_top_grad', [False, True])
@pytest.mark.parametrize('reduction', REDUCTIONS)
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('name', FORWARDS)
def test_backward_belongs_to_the_last_forward(name, dtype, reduction, need_top_grad):
    """Its gradient is that of the inputs of the last; the centers move if that one trains."""
    data, label, centers = batch(6, 3, 4, dtype)
    label[4] = -1
    want = center_loss(data, label, centers, scale=.3, reduction=reduction, ignore_label=-1,
                       head=np.full(6, -2.) if need_top_grad else None)
    direct = Direct(*batch(6, 3, 4, dtype, seed=1)[:2], centers, num_class=4, scale=.3,
                    reduction=reduction, use_ignore=True, need_top_grad=need_top_grad)
    *before, last = FORWARDS[name] or [None]
    for is_train in before:
        direct.forward(is_train=is_train)
    direct.inputs = [array(data), array(label)]
    if last is not None:
        direct.forward(is_train=last)
    for _ in range(2):
        assert_allclose(direct.backward(head=-2.), want.grad, **tolerance(dtype, data, centers))
        assert_allclose(direct.centers.asnumpy(), want.centers if last else centers,
                        **tolerance('float32', data, centers))


@pytest.mark.parametrize('req', ['write', 'inplace', 'add', 'null'])
def test_req_without_training(req):
    data, label, centers = batch(6, 3, 4)
    direct = Direct(data, label, centers, num_class=4)
    direct.forward(is_train=False)
    direct.grads[0][:] = 3
    want = center_loss(data, label, centers).grad
    assert_allclose(direct.backward(req), result_of(req, 3, want), rtol=1e-5)


def test_inplace_without_training():
    """The gradient takes the memory of the features it is computed from."""
    data, label, centers = batch(6, 3, 4)
    direct = Direct(data, label, centers, num_class=4)
    direct.forward(is_train=False)
    direct.grads[0] = direct.inputs[0]
    assert_allclose(direct.backward('inplace'), center_loss(data, label, centers).grad, rtol=1e-5)


def test_bad_label_after_training():
    """The failed forward is the last one: its backward fails, too, and writes nothing."""
    data, label, centers = batch(6, 3, 4)
    direct = Direct(data, label, centers, num_class=4)
    direct.forward()
    direct.inputs[1][:] = 9
    with pytest.raises(LabelError):
        direct.forward()
    direct.grads[0][:] = 3
    with pytest.raises(LabelError, match=r'label\[0\] is 9.0'):
        direct.backward()
    assert_array_equal(direct.grads[0].asnumpy(), 3)
    assert_array_equal(direct.centers.asnumpy(), centers)
    direct.inputs[1][:] = label
    direct.forward()
    want = center_loss(data, label, centers)
    assert_allclose(direct.backward(), want.grad, rtol=1e-5)
    assert_allclose(direct.centers.asnumpy(), want.centers, rtol=1e-5)


def test_inference_of_a_bound_graph_between_training_and_backward():
    """By hand: centers 0, features 1, then 7."""
    ones, label = np.ones((2, 3), 'float32'), np.zeros(2, 'float32')
    symbol = mx.sym.Custom(mx.sym.var('data'), mx.sym.var('label'), op_type='centerloss',
                           num_class=1, reduction='sum')
    executor = bind(symbol, ones, label, np.zeros((1, 3), 'float32'))
    executor.forward(is_train=True)
    executor.forward(is_train=False, data=array(7 * ones))
    executor.backward()
    mx.nd.waitall()
    assert_array_equal(executor.grad_dict['data'].asnumpy(), 7)
    assert_array_equal(executor.aux_arrays[0].asnumpy(), 0)


@pytest.mark.parametrize('train_mode', [False, True])
def test_predict_mode_has_a_gradient(train_mode):
    """As MXNet's own operators have; the centers stay."""
    data, label, centers = map(array, batch(6, 3, 4))
    want = center_loss(data.asnumpy(), label.asnumpy(), centers.asnumpy())
    before = centers.asnumpy()
    data.attach_grad()
    with mx.autograd.record(train_mode=False):
        loss = custom(data, label, centers, num_class=4)
    loss.backward(train_mode=train_mode)
    mx.nd.waitall()
    assert_allclose(data.grad.asnumpy(), want.grad, rtol=1e-5)
    assert_array_equal(centers.asnumpy(), before)


def test_second_backward_gives_the_gradient_and_moves_nothing():
    data, label, centers = map(array, batch(6, 3, 4))
    want = center_loss(data.asnumpy(), label.asnumpy(), centers.asnumpy())
    data.attach_grad()
    with mx.autograd.record():
        loss = custom(data, label, centers, num_class=4)
    for retain in (True, True, False):
        data.grad[:] = 0
        loss.backward(retain_graph=retain)
        mx.nd.waitall()
        assert_allclose(data.grad.asnumpy(), want.grad, rtol=1e-5)
        assert_allclose(centers.asnumpy(), want.centers, rtol=1e-5)


def test_second_backward_of_a_bound_graph():
    data, label, centers = batch(6, 3, 4)
    symbol = mx.sym.Custom(mx.sym.var('data'), mx.sym.var('label'), op_type='centerloss',
                           num_class=4)
    executor = bind(symbol, data, label, centers)
    first = run(executor)
    executor.backward()
    mx.nd.waitall()
    assert_array_equal(executor.grad_arrays[0].asnumpy(), first.grad)
    assert_array_equal(executor.aux_arrays[0].asnumpy(), first.centers)


def test_every_forward_moves_once():
    """The second forward sees the centers that the first step left."""
    data, label, centers = batch(6, 3, 4)
    symbol = mx.sym.Custom(mx.sym.var('data'), mx.sym.var('label'), op_type='centerloss',
                           num_class=4)
    executor, want = bind(symbol, data, label, centers), centers
    for _ in range(4):
        got, expected = run(executor), center_loss(data, label, want)
        want = expected.centers
        for value, right in zip(got, expected):
            assert_allclose(value, right, rtol=1e-4, atol=1e-6)


def test_backward_uses_the_centers_of_its_forward():
    """Two forwards, then their backwards: gradient and update are those of the own forward."""
    data, label, centers = batch(6, 3, 4)
    want = center_loss(data, label, centers)
    steps = [Direct(data, label, centers, num_class=4) for _ in range(2)]
    steps[1].centers = steps[0].centers
    for step in steps:
        step.forward()
    for step in steps:
        assert_allclose(step.backward(), want.grad, rtol=1e-5)
    assert_allclose(steps[0].centers.asnumpy(), 2 * want.centers - centers, rtol=1e-4, atol=1e-6)


def test_two_losses_share_one_set_of_centers():
    first, second = batch(6, 3, 4), batch(9, 3, 4, seed=1)
    state = array(first[2])
    one, two = array(first[0]), array(second[0])
    one.attach_grad()
    two.attach_grad()
    with mx.autograd.record():
        loss = (custom(one, array(first[1]), state, num_class=4, need_top_grad=True)
                + custom(two, array(second[1]), state, num_class=4, need_top_grad=True))
    loss.backward()
    mx.nd.waitall()
    a, b = center_loss(*first), center_loss(*second[:2], first[2])
    assert_allclose(loss.asnumpy(), a.loss + b.loss, rtol=1e-5)
    assert_allclose(one.grad.asnumpy(), a.grad, rtol=1e-5)
    assert_allclose(two.grad.asnumpy(), b.grad, rtol=1e-5)
    assert_allclose(state.asnumpy(), a.centers + b.centers - first[2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('scale, head', [(0.0, 1.0), (1e-6, 1.0), (1.0, 65536.0), (3.0, 0.0)])
def test_update_depends_on_neither_scale_nor_head_gradient(scale, head):
    case = batch(6, 3, 4)
    plain = imperative(*case, num_class=4)
    got = imperative(*case, np.array([head]), num_class=4, scale=scale, need_top_grad=True)
    assert_array_equal(got.centers, plain.centers)


@pytest.mark.parametrize('alpha', [1e-30, 1e3, 1e10, 1e13])
@pytest.mark.parametrize('size', [(6, 3, 4), (300, 70, 20)], ids=str)
def test_extreme_alpha(size, alpha):
    data, label, centers = batch(*size)
    got = imperative(data, label, centers, num_class=len(centers), alpha=alpha)
    want = center_loss(data, label, centers, alpha)
    assert_allclose(got.centers, want.centers, **tolerance('float32', data, centers, alpha))


def test_alpha_beyond_float32_moves_nothing_to_infinity():
    data, label, centers = batch(6, 3, 4)
    got = imperative(data, label, centers, num_class=4, alpha=1e300)
    assert np.isfinite(got.centers).all()

