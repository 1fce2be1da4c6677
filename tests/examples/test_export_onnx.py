"""export_onnx.py: networks of any kind as ONNX files that compute what MXNet does."""
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


def network():
    """Each layer that MXNet's exporter alone writes wrongly, or cannot write."""
    x = mx.sym.Convolution(DATA, num_filter=6, kernel=(3, 3), name='conv')
    # With a stored gamma, for which MXNet takes 1.
    x = mx.sym.BatchNorm(x, name='norm')
    x = mx.sym.LeakyReLU(x, act_type='prelu', name='slope_per_channel')
    x = mx.sym.LRN(x, nsize=3, name='lrn')
    x = mx.sym.FullyConnected(x, num_hidden=5, name='für')
    both = mx.sym.concat(mx.sym.LeakyReLU(x, act_type='prelu', name='slope_per_feature'), EXTRA)
    # Not in the order of their nodes.
    return mx.sym.Group([mx.sym.SoftmaxOutput(both, name='softmax'), x])


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


def test_the_file_computes_what_mxnet_does(tmp_path):
    symbol, path = network(), str(tmp_path / 'net.onnx')
    params = filled(symbol, data=(1, *SHAPE), extra=(1, 4))
    assert export_onnx.export(symbol, params, [SHAPE, (4,)], path) < 1e-5
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    random = np.random.RandomState(1)
    for batch in 1, 7:      # a free batch
        inputs = {'data': random.randn(batch, *SHAPE).astype('float32'),
                  'extra': random.randn(batch, 4).astype('float32')}
        executor = symbol.simple_bind(mx.cpu(), grad_req='null',
                                      **{name: value.shape for name, value in inputs.items()})
        plain = {name[4:]: value for name, value in params.items()}
        executor.copy_params_from(plain, plain, allow_extra_params=True)
        wanted = executor.forward(**{name: mx.nd.array(value) for name, value in inputs.items()})
        for output, value in zip(session.run(['softmax', 'für'], inputs), wanted):
            np.testing.assert_allclose(output, value.asnumpy(), rtol=1e-4, atol=1e-5)


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
    symbol = network()
    with pytest.raises(export_onnx.ExportError, match='2 inputs .*data, extra, but 1 shapes'):
        export_onnx.export(symbol, filled(symbol, data=(1, *SHAPE), extra=(1, 4)), [SHAPE],
                           str(tmp_path / 'net.onnx'))


def test_what_gluon_exports_with_the_nearest_center(example, tmp_path):
    """The command line, on a network and centers that were saved as Gluon saves them."""
    net = nn.HybridSequential()
    center_loss = CenterLoss(5, in_units=3, center_initializer='uniform')
    net.add(nn.Conv2D(4, 3), nn.PReLU(), nn.Dense(3))
    for block in net, center_loss:
        block.initialize(mx.init.Normal(1))
    net.hybridize()
    images = np.random.RandomState(0).randn(20, *SHAPE).astype('float32')
    embedding = net(mx.nd.array(images)).asnumpy()
    net.export(str(tmp_path / 'net'))
    center_loss.save_parameters(str(tmp_path / 'centers.params'))

    distances = np.linalg.norm(embedding[:, None] - center_loss.centers.data().asnumpy(), axis=2)
    nearest = distances.min(axis=1)
    threshold = np.median(nearest)      # between two of 20

    done = example('export_onnx.py', 'net-symbol.json', 'net-0000.params', '--input-shape', '2,8,8',
                   '--centers', 'centers.params', '--threshold', threshold)
    assert 'wrote net.onnx; largest difference to MXNet ' in done.stdout
    session = onnxruntime.InferenceSession(str(tmp_path / 'net.onnx'),
                                           providers=['CPUExecutionProvider'])
    found, label, distance = session.run(None, {'data': images})
    assert [value.name for value in session.get_outputs()][1:] == ['label', 'distance']
    np.testing.assert_allclose(found, embedding, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(distance, nearest, rtol=1e-4)
    np.testing.assert_array_equal(
        label, np.where(nearest < threshold, distances.argmin(axis=1), -1))
    assert (label >= 0).sum() == 10
