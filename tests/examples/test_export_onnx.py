"""export_onnx.py: networks of any kind as ONNX files that compute what MXNet does."""
import math

from center_loss_op.gluon import CenterLoss  # before mxnet, for newer NumPys

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

import export_onnx

DATA, EXTRA = mx.sym.var('data'), mx.sym.var('extra')
SHAPE = (2, 8, 8)


def convolution():
    return mx.sym.Convolution(DATA, num_filter=6, kernel=(3, 3), name='conv')


def batch_norm():
    return mx.sym.FullyConnected(mx.sym.BatchNorm(convolution(), name='norm'), num_hidden=3)


def several_outputs():
    features = convolution()
    return mx.sym.Group([mx.sym.relu(features, name='rectified'), features])


NETWORKS = {
    'FullyConnected behind a convolution':
        lambda: mx.sym.FullyConnected(convolution(), num_hidden=3, name='embedding'),
    'BatchNorm with a stored gamma that counts for nothing': batch_norm,
    'PReLU with a slope per channel':
        lambda: mx.sym.LeakyReLU(convolution(), act_type='prelu', name='prelu'),
    'PReLU with a slope per feature': lambda: mx.sym.LeakyReLU(
        mx.sym.FullyConnected(DATA, num_hidden=5), act_type='prelu', name='prelu'),
    'LRN': lambda: mx.sym.LRN(convolution(), nsize=3, name='lrn'),
    'SoftmaxOutput': lambda: mx.sym.SoftmaxOutput(
        mx.sym.FullyConnected(DATA, num_hidden=3), name='softmax'),
    'several outputs, not in the order of their nodes': several_outputs,
    'several inputs': lambda: mx.sym.concat(
        mx.sym.FullyConnected(DATA, num_hidden=3), EXTRA, name='both'),
    'a name with an umlaut': lambda: mx.sym.FullyConnected(DATA, num_hidden=3, name='für'),
}


def filled(symbol, **shapes):
    """Random parameters of a network, by name as `mx.nd.load` gives them."""
    random = np.random.RandomState(0)
    arguments, _, states = symbol.infer_shape(**shapes)
    params = {}
    for kind, names, sizes in (('arg', symbol.list_arguments(), arguments),
                               ('aux', symbol.list_auxiliary_states(), states)):
        params.update({f'{kind}:{name}': mx.nd.array(random.uniform(0.2, 1.2, size))
                       for name, size in zip(names, sizes)
                       if name not in shapes and not name.endswith('label')})
    return params


def run(path, **inputs):
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return session.run(None, inputs)


def expected(symbol, params, **inputs):
    """What MXNet computes."""
    executor = symbol.simple_bind(mx.cpu(), grad_req='null',
                                  **{name: value.shape for name, value in inputs.items()})
    params = {name[4:]: value for name, value in params.items()}
    executor.copy_params_from(params, params, allow_extra_params=True)
    outputs = executor.forward(**{name: mx.nd.array(value) for name, value in inputs.items()})
    return [output.asnumpy() for output in outputs]


def inputs_of(symbol, batch):
    random = np.random.RandomState(1)
    sizes = {'data': SHAPE, 'extra': (4,)}
    return {name: random.randn(batch, *sizes[name]).astype('float32')
            for name in ('data', 'extra') if name in symbol.list_arguments()}


@pytest.mark.parametrize('network', NETWORKS)
def test_the_file_computes_what_mxnet_does(network, tmp_path):
    symbol = NETWORKS[network]()
    params = filled(symbol, **{name: value.shape for name, value in inputs_of(symbol, 1).items()})
    path = tmp_path / 'net.onnx'
    difference = export_onnx.export(
        symbol, params, [value.shape[1:] for value in inputs_of(symbol, 1).values()], str(path))
    assert difference < 1e-5
    for batch in 1, 7:
        inputs = inputs_of(symbol, batch)
        outputs = run(path, **inputs)   # a free batch
        wanted = expected(symbol, params, **inputs)
        assert len(outputs) == len(wanted)
        for output, value in zip(outputs, wanted):
            np.testing.assert_allclose(output, value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('damage', [
    lambda output: [output * 1.001], lambda output: [output * np.nan]], ids=['value', 'NaN'])
def test_a_file_that_differs_is_not_written(damage, tmp_path, monkeypatch):
    class Session(onnxruntime.InferenceSession):
        def run(self, *args):
            return damage(*super().run(*args))
    monkeypatch.setattr(export_onnx.onnxruntime, 'InferenceSession', Session)
    symbol = mx.sym.FullyConnected(DATA, num_hidden=3)
    with pytest.raises(export_onnx.ExportError, match='ONNX Runtime'):
        export_onnx.export(symbol, filled(symbol, data=(1, *SHAPE)), [SHAPE],
                           str(tmp_path / 'net.onnx'))
    assert not list(tmp_path.iterdir())


def test_shapes_that_do_not_fit_the_inputs(tmp_path):
    symbol = NETWORKS['several inputs']()
    with pytest.raises(export_onnx.ExportError, match='2 inputs .*data, extra, but 1 shapes'):
        export_onnx.export(symbol, filled(symbol, data=(1, *SHAPE), extra=(1, 4)), [SHAPE],
                           str(tmp_path / 'net.onnx'))


@pytest.mark.parametrize('known', [0.5])
def test_what_gluon_exports_with_the_nearest_center(known, example):
    """The command line, on a network and centers that were saved as Gluon saves them."""
    net = nn.HybridSequential()
    center_loss = CenterLoss(5, in_units=3, center_initializer='uniform')
    net.add(nn.Conv2D(4, 3), nn.PReLU(), nn.Dense(3))
    for block in net, center_loss:
        block.initialize(mx.init.Normal(1))
    net.hybridize()
    images = np.random.RandomState(0).randn(20, *SHAPE).astype('float32')
    embedding = net(mx.nd.array(images)).asnumpy()
    net.export(str(example.folder / 'net'))
    center_loss.save_parameters(str(example.folder / 'centers.params'))

    distances = np.linalg.norm(embedding[:, None] - center_loss.centers.data().asnumpy(), axis=2)
    nearest = distances.min(axis=1)
    threshold = math.inf if known == 1 else float(np.median(nearest))   # between two of 20

    done = example('export_onnx.py', 'net-symbol.json', 'net-0000.params', '--input-shape', '2,8,8',
                   '--centers', 'centers.params', '--threshold', threshold)
    assert 'wrote net.onnx; largest difference to MXNet ' in done.stdout
    session = onnxruntime.InferenceSession(str(example.folder / 'net.onnx'),
                                           providers=['CPUExecutionProvider'])
    found, label, distance = session.run(None, {'data': images})
    assert [value.name for value in session.get_outputs()][1:] == ['label', 'distance']
    np.testing.assert_allclose(found, embedding, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(distance, nearest, rtol=1e-4)
    np.testing.assert_array_equal(
        label, np.where(nearest < threshold, distances.argmin(axis=1), -1))
    assert (label >= 0).mean() == known
