"""Classifying by centers against the distances themselves, in float64."""
import contextlib
import math
from unittest import mock

import mxnet as mx
import numpy as np
import pytest

from center_loss_op import nearest
from center_loss_op.gluon import CenterLoss
from center_loss_op.labels import BFLOAT16
from center_loss_op.nearest import nearest_center


def imperative(embedding, centers, *threshold):
    label, distance = nearest_center(mx.nd.array(embedding, dtype=embedding.dtype),
                                     mx.nd.array(centers, dtype=centers.dtype), *threshold)
    return label.asnumpy(), distance.asnumpy()


def in_small_blocks(*args):
    with mock.patch.object(nearest, '_CHUNK', 7 * 3):
        return imperative(*args)


@contextlib.contextmanager
def set_np():
    """As after npx.set_np(), for as long as it lasts."""
    with mx.util.np_shape(True), mx.util.np_array(True):
        yield


def numpy_interface(embedding, centers, *threshold):
    with set_np():
        label, distance = nearest_center(mx.np.array(embedding, dtype=embedding.dtype),
                                         mx.np.array(centers, dtype=centers.dtype), *threshold)
        assert type(label) is type(distance) is mx.np.ndarray
        return label.asnumpy(), distance.asnumpy()


class Classifier(mx.gluon.HybridBlock):
    """As in a net of a user's own: the centers are its parameter."""

    def __init__(self, centers, threshold):
        super().__init__()
        self.threshold = threshold
        self.centers = self.params.get('centers', shape=centers.shape, dtype=centers.dtype,
                                       init=mx.init.Constant(mx.nd.array(centers)))

    def hybrid_forward(self, F, embedding, centers):  # pylint: disable=arguments-differ
        return nearest_center(embedding, centers, *self.threshold)


def hybridized(embedding, centers, *threshold):
    net = Classifier(centers, threshold)
    net.initialize()
    net.hybridize()
    return [out.asnumpy() for out in net(mx.nd.array(embedding, dtype=embedding.dtype))]


def numpy_hybridized(embedding, centers, *threshold):
    with set_np():
        net = Classifier(centers, threshold)
        net.centers.init = 'zeros'
        net.initialize()
        net.centers.set_data(mx.np.array(centers, dtype=centers.dtype))
        net.hybridize()
        outs = net(mx.np.array(embedding, dtype=embedding.dtype))
        assert all(type(out) is mx.np.ndarray for out in outs)
        return [out.asnumpy() for out in outs]


def exported(embedding, centers, *threshold, tmp_path):
    net = Classifier(centers, threshold)
    net.initialize()
    net.hybridize()
    data = mx.nd.array(embedding, dtype=embedding.dtype)
    net(data)
    net.export(str(tmp_path / 'net'))
    net = mx.gluon.SymbolBlock.imports(str(tmp_path / 'net-symbol.json'), 'data',
                                       str(tmp_path / 'net-0000.params'))
    return [out.asnumpy() for out in net(data)]


@pytest.fixture(name='classify', params=[imperative, in_small_blocks, numpy_interface, hybridized,
                                         numpy_hybridized, exported])
def fixture_classify(request, tmp_path):
    if request.param is exported:
        return lambda *args: exported(*args, tmp_path=tmp_path)
    return request.param


@pytest.mark.parametrize('offset', [0, 1000])  # far from the origin: x² − 2xc + c² would cancel
@pytest.mark.parametrize('samples, classes, size', [(1, 1, 1), (20, 10, 2), (9, 40, 5),
                                                    (30, 3, 64)])
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


# dtypes of embedding, centers and distance
TYPES = [('float16', 'float32', 'float32'), ('float64', 'float64', 'float64'),
         ('float64', 'float32', 'float32'), ('float32', 'float64', 'float64'),
         ('float16', 'float16', 'float32'), ('float32', 'float16', 'float32')]


@pytest.mark.parametrize('classify', [imperative, numpy_interface])
@pytest.mark.parametrize('data, centers, distances', TYPES)
def test_types(data, centers, distances, classify):
    embedding = np.arange(8).reshape(4, 2).astype(data)
    label, distance = classify(embedding, embedding[::2].astype(centers))
    assert label.dtype == np.int32 and distance.dtype == np.dtype(distances)
    np.testing.assert_array_equal(label[::2], [0, 1])
    np.testing.assert_allclose(distance, np.sqrt([0, 8, 0, 8]), rtol=1e-6)


def test_bfloat16():
    """As mixed precision makes it."""
    embedding = mx.nd.array([[1, 2], [4, 6]]).astype(BFLOAT16)
    _, distance = nearest_center(embedding, mx.nd.array([[1, 2]]))
    np.testing.assert_array_equal(distance.asnumpy(), [0, 5])


def test_float16_is_computed_in_float32():
    """Squares and sums that no float16 can hold."""
    embedding = np.full((1, 400), 100, 'float16')
    label, distance = imperative(embedding, np.zeros((1, 400), 'float16'), 2001)
    np.testing.assert_array_equal(label, [0])
    np.testing.assert_array_equal(distance, [2000])


@pytest.mark.parametrize('classify', [imperative, numpy_interface])
@pytest.mark.parametrize('dtype, distances', [('float16', 'float32'), ('float32', 'float32'),
                                              ('float64', 'float64')])
def test_empty_batch(dtype, distances, classify):
    label, distance = classify(np.ones((0, 3), dtype), np.ones((4, 3), dtype))
    assert label.shape == distance.shape == (0,)
    assert label.dtype == np.int32 and distance.dtype == np.dtype(distances)


def test_empty_slice():
    """What filtering with a[begin:end] leaves."""
    label, distance = nearest_center(mx.nd.ones((5, 3))[0:0], mx.nd.ones((4, 3)))
    assert label.shape == distance.shape == (0,)


def test_parameter_of_a_loss():
    """`centers.data()` is an mx.np array after npx.set_np(), and the embedding may be either."""
    with set_np():
        loss = CenterLoss(2, in_units=2, center_initializer='ones')
        loss.initialize()
        for embedding in mx.np.array([[4, 5]]), mx.nd.array([[4, 5]]):
            label, distance = nearest_center(embedding, loss.centers.data())
            assert type(label) is type(distance) is type(embedding)
            assert label.asnumpy() == [0] and distance.asnumpy() == [5]


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


@pytest.mark.parametrize('threshold, error', [
    (-1, ValueError), (math.nan, ValueError), ('1', TypeError), (None, TypeError),
    (True, TypeError)])
def test_bad_threshold(threshold, error):
    with pytest.raises(error, match='threshold must be a number >= 0, got %r' % (threshold,)):
        nearest_center(mx.nd.ones((2, 3)), mx.nd.ones((2, 3)), threshold)


@pytest.mark.parametrize('embedding, centers', [((2, 3), (4, 2)), ((3,), (4, 3)),
                                                ((2, 3), (4, 3, 1)), ((2, 3), (0, 3)),
                                                ((2, 0), (4, 0))])
def test_bad_shapes(embedding, centers):
    with pytest.raises(ValueError) as caught:
        nearest_center(mx.nd.array(np.ones(embedding)), mx.nd.array(np.ones(centers)))
    assert str(embedding) in str(caught.value) and str(centers) in str(caught.value)


@pytest.mark.parametrize('classify', [imperative, numpy_interface])
@pytest.mark.parametrize('embedding, centers, text', [
    ('int32', 'float32', 'embedding must hold floating-point numbers, got int32'),
    ('float32', 'int64', 'centers must hold floating-point numbers, got int64'),
    ('uint8', 'uint8', 'embedding must hold floating-point numbers, got uint8'),
    ('float32', 'bool', 'centers must hold floating-point numbers, got bool')])
def test_integers(embedding, centers, text, classify):
    with pytest.raises(TypeError, match=text):
        classify(np.ones((2, 3), embedding), np.ones((4, 3), centers))


def test_bad_types():
    with pytest.raises(TypeError, match='got ndarray and NDArray'):
        nearest_center(np.ones((2, 3)), mx.nd.ones((2, 3)))
    with pytest.raises(TypeError, match='got Symbol and NDArray'):
        nearest_center(mx.sym.var('x'), mx.nd.ones((2, 3)))
