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


@contextlib.contextmanager
def set_np():
    """As after npx.set_np(), for as long as it lasts."""
    with mx.util.np_shape(True), mx.util.np_array(True):
        yield


def numpy_interface(embedding, centers, *arguments):
    with set_np():
        label, distance = nearest_center(mx.np.array(embedding, dtype=embedding.dtype),
                                         mx.np.array(centers, dtype=centers.dtype), *arguments)
        assert type(label) is type(distance) is mx.np.ndarray
        return label.asnumpy(), distance.asnumpy()


class Classifier(mx.gluon.HybridBlock):
    """As in a net of a user's own: the centers are its parameter."""

    def __init__(self, centers, arguments):
        super().__init__()
        self.arguments = arguments
        self.centers = self.params.get('centers', shape=centers.shape, dtype=centers.dtype,
                                       init=mx.init.Constant(mx.nd.array(centers)))

    def hybrid_forward(self, F, embedding, centers):
        return nearest_center(embedding, centers, *self.arguments)


def hybridized(embedding, centers, *arguments):
    net = Classifier(centers, arguments)
    net.initialize()
    net.hybridize()
    return [out.asnumpy() for out in net(mx.nd.array(embedding, dtype=embedding.dtype))]


def numpy_hybridized(embedding, centers, *arguments):
    with set_np():
        net = Classifier(centers, arguments)
        net.centers.init = 'zeros'
        net.initialize()
        net.centers.set_data(mx.np.array(centers, dtype=centers.dtype))
        net.hybridize()
        outs = net(mx.np.array(embedding, dtype=embedding.dtype))
        assert all(type(out) is mx.np.ndarray for out in outs)
        return [out.asnumpy() for out in outs]


def exported(embedding, centers, *arguments, tmp_path):
    net = Classifier(centers, arguments)
    net.initialize()
    net.hybridize()
    data = mx.nd.array(embedding, dtype=embedding.dtype)
    net(data)
    net.export(str(tmp_path / 'net'))
    net = mx.gluon.SymbolBlock.imports(str(tmp_path / 'net-symbol.json'), 'data',
                                       str(tmp_path / 'net-0000.params'))
    return [out.asnumpy() for out in net(data)]


@pytest.fixture(name='classify', params=[imperative, in_small_blocks, on_a_device, numpy_interface,
                                         hybridized, numpy_hybridized, exported])
def fixture_classify(request, tmp_path):
    if request.param is exported:
        return lambda *args: exported(*args, tmp_path=tmp_path)
    return request.param


# Far from the origin x² − 2xc + c² would cancel.
@pytest.mark.parametrize('samples, classes, size, offset', [(1, 1, 1, 0), (20, 10, 2, 1000),
                                                            (9, 40, 5, 0)])
def test_against_all_distances(classify, samples, classes, size, offset):
    rng = np.random.RandomState(samples)
    embedding = (rng.standard_normal((samples, size)) + offset).astype('float32')
    centers = (rng.standard_normal((classes, size)) + offset).astype('float32')
    distances = np.array([[np.linalg.norm(x - c) for c in centers.astype('float64')]
                          for x in embedding.astype('float64')])
    label, distance = classify(embedding, centers)
    assert label.dtype == np.int32 and distance.dtype == np.float32
    np.testing.assert_array_equal(label, distances.argmin(axis=1))
    np.testing.assert_allclose(distance, distances.min(axis=1), rtol=1e-5, atol=1e-6)

    threshold = float(np.median(distances.min(axis=1))) + 1e-4
    label, distance = classify(embedding, centers, threshold)
    known = distances.min(axis=1) < threshold
    np.testing.assert_array_equal(label, np.where(known, distances.argmin(axis=1), -1))
    np.testing.assert_allclose(distance, distances.min(axis=1), rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize('spoiled', [-np.inf, np.nan])
def test_a_center_that_is_not_finite_never_wins(classify, spoiled):
    embedding = np.array([[.9, 0], [0, 4], [.1, .1]], 'float32')
    centers = np.array([[spoiled, 0], [0, 0], [1, 0], [0, spoiled], [spoiled, spoiled]], 'float32')
    label, distance = classify(embedding, centers)
    np.testing.assert_array_equal(label, [2, 1, 1])
    np.testing.assert_allclose(distance, [.1, 4, .1 * 2 ** .5], rtol=1e-6)


@pytest.mark.parametrize('far', [3e38])
def test_a_center_far_away_spoils_no_other(classify, far):
    rng = np.random.RandomState(5)
    embedding = rng.standard_normal((50, 8)).astype('float32')
    near = rng.standard_normal((20, 8)).astype('float32')
    centers = np.concatenate([np.full((1, 8), far, 'float32'), near])
    want = np.linalg.norm(embedding.astype(float)[:, None] - near.astype(float), axis=2)
    label, distance = classify(embedding, centers)
    np.testing.assert_array_equal(label, 1 + want.argmin(axis=1))
    np.testing.assert_allclose(distance, want.min(axis=1), rtol=1e-5)


@pytest.mark.parametrize('classify', [imperative, on_a_device, numpy_interface])
def test_excluded_by_flags(classify):
    """Such as (centers == 0).all(axis=1): classes that training never saw."""
    centers = np.array([[0, 0], [3, 0], [0, 0]], 'float32')
    label, distance = classify(np.zeros((2, 2), 'float32'), centers, math.inf,
                               (centers == 0).all(axis=1))
    np.testing.assert_array_equal(label, [1, 1])
    np.testing.assert_array_equal(distance, [3, 3])
    label, _ = classify(np.zeros((2, 2), 'float32'), centers, math.inf, [True] * 3)
    np.testing.assert_array_equal(label, [-1, -1])


EXCLUDED = [0, [11], (9, 10, 11), range(0, 12, 2), range(12), mx.nd.array([3, 3, 4])]


@pytest.mark.parametrize('exclude', EXCLUDED, ids=str)
def test_any_places_are_excluded(classify, exclude):
    """First, last, neighbours, every second one, all."""
    random = np.random.RandomState(2)
    centers = random.standard_normal((12, 3)).astype('float32')
    numbers = exclude.asnumpy() if isinstance(exclude, mx.nd.NDArray) else exclude
    left = sorted(set(range(12)) - set(np.atleast_1d(numbers)))
    label, distance = classify(centers, centers, math.inf, exclude)
    if left:
        want = np.linalg.norm(centers[:, None] - centers[left], axis=2)
        np.testing.assert_array_equal(label, np.array(left)[want.argmin(axis=1)])
        np.testing.assert_allclose(distance, want.min(axis=1), rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(label, np.full(12, -1))


def test_a_graph_has_the_same_size_whatever_is_excluded():
    def nodes(exclude):
        outs = nearest_center(mx.sym.var('embedding'), mx.sym.var('centers'), exclude=exclude)
        return len(json.loads(mx.sym.Group(outs).tojson())['nodes'])
    assert {nodes(exclude) for exclude in (*EXCLUDED, range(0, 2000, 2))} == {nodes([0])}
    assert nodes([0]) < nodes(None) + 10


@pytest.mark.parametrize('exclude', EXCLUDED[2:4])
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
    inputs = [value for value in model.graph.input if value.name == 'embedding']
    del model.graph.input[:]        # which names constants, too: they would not be folded
    model.graph.input.extend(inputs)
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


def test_bad_exclude():
    for exclude in [3], [-1], [0.5], [[1]], [True, False], 'a':
        with pytest.raises(ValueError, match='exclude must hold classes, whole numbers from 0 to '):
            nearest_center(mx.nd.ones((2, 2)), mx.nd.ones((3, 2)), exclude=exclude)


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


@pytest.mark.parametrize('classify', [imperative, on_a_device])
def test_float64_features_next_to_float32_centers(classify):
    """No float32 holds the first feature, nor tells the second one from 1."""
    label, distance = classify(np.array([[1e39], [1 + 1e-9]]), np.array([[0], [2]], 'float32'))
    assert label[0] in (0, 1) and label[1] == 1
    np.testing.assert_allclose(distance, [1e39, 1 - 1e-9], rtol=1e-12)


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


# dtypes of embedding, centers and distance
TYPES = [('float16', 'float32', 'float32'), ('float64', 'float64', 'float64'),
         ('float64', 'float32', 'float64'), ('float32', 'float64', 'float64'),
         ('float16', 'float16', 'float32'), ('float32', 'float16', 'float32')]


@pytest.mark.parametrize('classify', [imperative, numpy_interface])
@pytest.mark.parametrize('data, centers, distances', TYPES)
def test_types(data, centers, distances, classify):
    embedding = np.arange(8).reshape(4, 2).astype(data)
    label, distance = classify(embedding, embedding[::2].astype(centers))
    assert label.dtype == np.int32 and distance.dtype == np.dtype(distances)
    np.testing.assert_array_equal(label[::2], [0, 1])
    np.testing.assert_allclose(distance, np.sqrt([0, 8, 0, 8]), rtol=1e-6)


def test_float16_is_computed_in_float32():
    """Squares and sums that no float16 can hold."""
    embedding = np.full((1, 400), 100, 'float16')
    label, distance = imperative(embedding, np.zeros((1, 400), 'float16'), 2001)
    np.testing.assert_array_equal(label, [0])
    np.testing.assert_array_equal(distance, [2000])


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


def test_bad_threshold():
    for threshold, error in (-1, ValueError), (math.nan, ValueError), ('1', TypeError), (
            None, TypeError), (True, TypeError):
        with pytest.raises(error, match='threshold must be a number >= 0, got %r' % (threshold,)):
            nearest_center(mx.nd.ones((2, 3)), mx.nd.ones((2, 3)), threshold)


def test_bad_shapes():
    for embedding, centers in [((2, 3), (4, 2)), ((3,), (4, 3)), ((2, 3), (4, 3, 1)),
                               ((2, 3), (0, 3)), ((2, 0), (4, 0))]:
        with pytest.raises(ValueError) as caught:
            nearest_center(mx.nd.array(np.ones(embedding)), mx.nd.array(np.ones(centers)))
        assert str(embedding) in str(caught.value) and str(centers) in str(caught.value)


def test_bad_types():
    for embedding, centers, text in ('int32', 'float32', 'embedding must'), (
            'float32', 'bool', 'centers must'):
        with pytest.raises(TypeError, match=text + ' hold floating-point numbers, got '):
            imperative(np.ones((2, 3), embedding), np.ones((4, 3), centers))
    with pytest.raises(TypeError, match='got ndarray and NDArray'):
        nearest_center(np.ones((2, 3)), mx.nd.ones((2, 3)))
    with pytest.raises(TypeError, match='got Symbol and NDArray'):
        nearest_center(mx.sym.var('x'), mx.nd.ones((2, 3)))
