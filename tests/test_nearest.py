"""Classifying by centers against the distances themselves, in float64."""
import contextlib
import itertools
import json
import math
from unittest import mock

from center_loss_op import nearest
from center_loss_op.gluon import CenterLoss
from center_loss_op.nearest import nearest_center

import hypothesis
import mxnet as mx
import mxnet.onnx
import numpy as np
import pytest
from hypothesis import strategies as st


def imperative(embedding, centers, *arguments):
    label, distance = nearest_center(mx.nd.array(embedding, dtype=embedding.dtype),
                                     mx.nd.array(centers, dtype=centers.dtype), *arguments)
    return label.asnumpy(), distance.asnumpy()


def in_small_blocks(*args):
    with mock.patch.multiple(nearest, _BLOCK=7 * 3):
        return imperative(*args)


def on_a_device(*args):
    """As on a GPU, which NumPy does not reach."""
    with mock.patch.object(nearest, '_BLOCK', 40), mock.patch(
            'center_loss_op._operator.arrays.is_host_memory', lambda context: False):
        return imperative(*args)


class Classifier(mx.gluon.HybridBlock):
    """As in a net of a user's own: the centers are its parameter."""

    def __init__(self, arguments, **centers):
        super().__init__()
        self.arguments = arguments
        self.centers = self.params.get('centers', **centers)

    def hybrid_forward(self, F, embedding, centers):
        return nearest_center(embedding, centers, *self.arguments)


def in_a_graph(embedding, centers, *arguments, hybridize=True, kind=mx.nd):
    net = Classifier(arguments, shape=centers.shape, dtype=centers.dtype, init='zeros')
    net.initialize()
    net.centers.set_data(kind.array(centers, dtype=centers.dtype))
    net.hybridize(hybridize)
    outs = net(kind.array(embedding, dtype=embedding.dtype))
    assert all(type(out) is type(kind.array([0])) for out in outs)
    return [out.asnumpy() for out in outs]


@contextlib.contextmanager
def set_np():
    """As after npx.set_np(), for as long as it lasts."""
    with mx.util.np_shape(True), mx.util.np_array(True):
        yield


def numpy_interface(*args):
    with set_np():
        return in_a_graph(*args, hybridize=False, kind=mx.np)


def numpy_in_a_graph(*args):
    with set_np():
        return in_a_graph(*args, kind=mx.np)


EAGER = pytest.mark.parametrize('classify', [imperative, in_small_blocks, on_a_device,
                                             numpy_interface])
EACH = pytest.mark.parametrize('classify', [imperative, in_small_blocks, on_a_device,
                                            numpy_interface, in_a_graph, numpy_in_a_graph])


@st.composite
def inputs(draw):
    """Features, centers, a threshold, classes to exclude: single ones, neighbours, all."""
    samples, classes, size = (draw(st.integers(1, most)) for most in (20, 30, 6))
    random = np.random.RandomState(draw(st.integers(0, 2 ** 31)))
    offset = draw(st.sampled_from([0, 1000]))   # x² − 2xc + c² would cancel
    embedding = (random.standard_normal((samples, size)) + offset).astype('float32')
    centers = (random.standard_normal((classes, size)) + offset).astype('float32')
    spoiled = draw(st.sampled_from([None, np.nan, -np.inf, 3e38]))
    if spoiled is not None:
        centers[random.rand(classes) < .2, random.randint(size)] = spoiled
    exclude = draw(st.none() | st.lists(st.integers(0, classes - 1), max_size=classes)
                   | st.sampled_from([0, range(classes), range(0, classes, 2)]))
    if isinstance(exclude, list) and exclude:
        exclude = draw(st.sampled_from([exclude, tuple(exclude), mx.nd.array(exclude)]))
    return embedding, centers, draw(st.sampled_from([math.inf, .5, 2.])), exclude


@EACH
@hypothesis.given(inputs())
def test_against_all_distances(classify, given):
    embedding, centers, threshold, exclude = given
    allowed = np.isfinite(centers).all(axis=1)
    if exclude is not None:
        allowed[np.array([int(j) for j in np.atleast_1d(
            exclude.asnumpy() if isinstance(exclude, mx.nd.NDArray) else exclude)], int)] = False
    distances = np.linalg.norm(embedding.astype(float)[:, None] - centers.astype(float), axis=2)
    distances[:, ~allowed] = np.inf
    smallest = distances.min(axis=1)
    label, distance = classify(*given)
    assert label.dtype == np.int32 and distance.dtype == np.float32
    np.testing.assert_array_equal(label >= 0, smallest < threshold)
    known = label >= 0
    np.testing.assert_allclose(distances[known, label[known]], smallest[known], rtol=1e-6)
    if allowed.any():
        np.testing.assert_allclose(distance, smallest, rtol=1e-5, atol=1e-6)


@EACH
def test_by_hand(classify):
    centers = np.array([[0, 0], [3, 4], [0, 0]], 'float32')
    embedding = np.array([[0, 0], [0, 1], [3, 0], [3, 4], [6, 8], [np.nan, 0], [0, np.inf]],
                         'float32')
    label, distance = classify(embedding, centers, 3)
    # A tie goes to the first, a distance of the threshold is beyond it, so are NaN and infinity.
    np.testing.assert_array_equal(label, [0, 0, -1, 1, -1, -1, -1])
    np.testing.assert_array_equal(distance, [0, 1, 3, 0, 5, np.nan, np.inf])
    label, _ = classify(embedding, centers)
    np.testing.assert_array_equal(label[[0, 1, 3, 4, 5, 6]], [0, 0, 1, 1, -1, -1])


@EAGER
def test_excluded_by_flags(classify):
    """Such as (centers == 0).all(axis=1): classes that training never saw."""
    centers = np.array([[0, 0], [3, 0], [0, 0]], 'float32')
    flags = (centers == 0).all(axis=1)
    label, distance = classify(np.zeros((2, 2), 'float32'), centers, math.inf, flags)
    np.testing.assert_array_equal(label, [1, 1])
    np.testing.assert_array_equal(distance, [3, 3])


# -- graphs


def test_a_graph_has_the_same_size_whatever_is_excluded():
    def nodes(exclude):
        outs = nearest_center(mx.sym.var('embedding'), mx.sym.var('centers'), exclude=exclude)
        return len(json.loads(mx.sym.Group(outs).tojson())['nodes'])
    assert {nodes(exclude) for exclude in (0, [11], (9, 10), range(0, 2000, 2))} == {nodes([0])}
    assert nodes([0]) < nodes(None) + 10


@pytest.mark.parametrize('exclude', [(9, 10, 11), range(0, 12, 2)])
def test_excluded_in_onnx(exclude, tmp_path, monkeypatch):
    onnx, runtime = map(pytest.importorskip, ('onnx', 'onnxruntime'))
    # MXNet writes operators of this version, and marks them as of the newest.
    monkeypatch.setattr(onnx.checker.DEFAULT_CONTEXT, 'opset_imports', {'': 13})
    random = np.random.RandomState(3)
    centers = random.standard_normal((12, 3)).astype('float32')
    embedding = random.standard_normal((20, 3)).astype('float32')
    outs = nearest_center(mx.sym.var('embedding'), mx.sym.var('centers'), 2, exclude)
    path = str(tmp_path / 'nearest.onnx')
    mx.onnx.export_model(mx.sym.Group(outs), {'centers': mx.nd.array(centers)}, [(20, 3)],
                         np.float32, path)
    model = onnx.load(path)
    values = [value for value in model.graph.input if value.name == 'embedding']
    del model.graph.input[:]        # which names constants, too: they would not be folded
    model.graph.input.extend(values)
    model.opset_import[0].version = 13
    model.ir_version = 8
    found = runtime.InferenceSession(model.SerializeToString(),
                                     providers=['CPUExecutionProvider']).run(
                                         None, {'embedding': embedding})
    for value, want in zip(found, imperative(embedding, centers, 2, exclude)):
        np.testing.assert_allclose(value, want, rtol=1e-5)


def test_a_graph_refuses_to_exclude_a_class_that_is_not_there():
    outs = nearest_center(mx.sym.var('embedding'), mx.sym.var('centers'), exclude=[9])
    with pytest.raises(RuntimeError, match='end 9'):
        mx.sym.Group(outs).simple_bind(mx.cpu(), embedding=(2, 2), centers=(3, 2))


# -- numbers


@st.composite
def any_finite(draw):
    """Features and centers of every magnitude, offset and closeness."""
    dtype = np.dtype(draw(st.sampled_from(['float32', 'float64'])))
    samples, classes, size = (draw(st.integers(1, most)) for most in (20, 30, 6))
    rng = np.random.RandomState(draw(st.integers(0, 2 ** 31)))
    top = draw(st.integers(0, int(np.log10(np.finfo(dtype).max)) - 2))

    def numbers(shape):
        return (rng.standard_normal(shape) * 10.0 ** rng.randint(-top, top + 1, (shape[0], 1))
                + rng.choice([0, 0, 10.0 ** rng.randint(0, top + 1)])).astype(dtype)
    centers = numbers((classes, size))
    embedding = numbers((samples, size))
    close = rng.randint(0, 2, samples).astype(bool)
    embedding[close] = centers[rng.randint(0, classes, close.sum())] * dtype.type(
        1 + rng.choice([0, 1e-6, 1e-2]))
    return embedding, centers


@hypothesis.given(any_finite())
@pytest.mark.parametrize('classify', [imperative, in_small_blocks])
def test_every_finite_input(classify, given):
    """The distance to the label's center is the smallest there is, in numbers of 80 bits."""
    embedding, centers = given
    exact = np.sqrt(((embedding.astype(np.longdouble)[:, None]
                      - centers.astype(np.longdouble)) ** 2).sum(axis=2))
    label, distance = classify(embedding, centers)
    of_label = exact[np.arange(len(label)), label]
    smallest = exact.min(axis=1)
    np.testing.assert_array_less(of_label, smallest * (1 + 1e-14) + np.finfo(np.float64).tiny)
    with np.errstate(over='ignore'):
        np.testing.assert_allclose(distance, smallest.astype(distance.dtype), rtol=1e-6,
                                   atol=np.finfo(distance.dtype).tiny)


# dtypes of embedding, centers and distance
TYPES = [('float16', 'float32', 'float32'), ('float64', 'float64', 'float64'),
         ('float64', 'float32', 'float64'), ('float32', 'float64', 'float64'),
         ('float16', 'float16', 'float32'), ('float32', 'float16', 'float32')]


@EAGER
def test_types(classify):
    for data, centers, distances in TYPES:
        embedding = np.arange(8).reshape(4, 2).astype(data)
        label, distance = classify(embedding, embedding[::2].astype(centers))
        assert label.dtype == np.int32 and distance.dtype == np.dtype(distances)
        np.testing.assert_array_equal(label[::2], [0, 1])
        np.testing.assert_allclose(distance, np.sqrt([0, 8, 0, 8]), rtol=1e-6)


@EAGER
def test_numbers_that_a_shorter_type_cannot_hold(classify):
    """No float32 holds 1e39, nor tells 1 + 1e-9 from 1; no float16 holds the squares of 100."""
    label, distance = classify(np.array([[1e39], [1 + 1e-9]]), np.array([[0], [2]], 'float32'))
    assert label[0] in (0, 1) and label[1] == 1
    np.testing.assert_allclose(distance, [1e39, 1 - 1e-9], rtol=1e-12)
    half = np.full((1, 400), 100, 'float16')
    assert [out.item() for out in classify(half, 0 * half, 2001)] == [0, 2000]


@pytest.mark.parametrize('stype', ['csr', 'row_sparse'])
def test_sparse_arrays(stype):
    """Such as bags of words."""
    x, c = np.random.RandomState(0).standard_normal((2, 20, 6)).astype('float32')
    x[abs(x) < .8] = c[abs(c) < .2] = 0
    x[4] = 0
    for arrays in itertools.product((mx.nd.array(x), mx.nd.array(x).tostype(stype)),
                                    (mx.nd.array(c), mx.nd.array(c).tostype(stype))):
        label, _ = nearest_center(*arrays)
        np.testing.assert_array_equal(label.asnumpy(), imperative(x, c)[0])


def test_parameter_of_a_loss():
    """`centers.data()` is an mx.np array after npx.set_np(), and the embedding may be either."""
    with set_np():
        loss = CenterLoss(2, in_units=2, center_initializer='ones')
        loss.initialize()
        for embedding in mx.np.array([[4, 5]]), mx.nd.array([[4, 5]]):
            label, distance = nearest_center(embedding, loss.centers.data())
            assert type(label) is type(distance) is type(embedding)
            assert label.asnumpy() == [0] and distance.asnumpy() == [5]


@pytest.mark.slow
def test_memory_does_not_grow_with_samples_times_classes(child):
    done = child('''
import resource
import center_loss_op, mxnet as mx
from center_loss_op.nearest import nearest_center
x, c = mx.nd.random.normal(shape=(3000, 8)), mx.nd.random.normal(shape=(30000, 8))
[out.wait_to_read() for out in nearest_center(x[:9], c[:9])]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
[out.wait_to_read() for out in nearest_center(x, c)]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
''')
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 100  # MB; all scores at once would take 343


ONES = mx.nd.ones((2, 3))


@pytest.mark.parametrize('embedding, centers, arguments, error, text', [
    *[(ONES, ONES, (value,), error, r'^threshold must be a number >= 0, got ')
      for value, error in [(-1, ValueError), (math.nan, ValueError), ('1', TypeError),
                           (None, TypeError), (True, TypeError)]],
    *[(ONES, ONES, (1, value), ValueError, 'exclude must hold classes, whole numbers from 0 to 1')
      for value in ([2], [-1], [.5], [[1]], [True], 'a')],
    (ONES, mx.nd.ones((4, 2)), (), ValueError, r'got \(2, 3\) and \(4, 2\)'),
    (mx.nd.ones(3), ONES, (), ValueError, r'got \(3,\) and \(2, 3\)'),
    (ONES, mx.nd.ones((4, 3, 1)), (), ValueError, r'got \(2, 3\) and \(4, 3, 1\)'),
    (ONES, mx.nd.array(np.ones((0, 3))), (), ValueError, r'got \(2, 3\) and \(0, 3\)'),
    (ONES.astype('int32'), ONES, (), TypeError, 'embedding must hold floating-point numbers'),
    (ONES, ONES.astype('bool'), (), TypeError, 'centers must hold floating-point numbers'),
    (np.ones((2, 3)), ONES, (), TypeError, 'got ndarray and NDArray'),
    (mx.sym.var('x'), ONES, (), TypeError, 'got Symbol and NDArray')])
def test_bad_input(embedding, centers, arguments, error, text):
    with pytest.raises(error, match=text):
        nearest_center(embedding, centers, *arguments)
