"""A trained network used without this package: docs/using.md."""
from center_loss_op._mxnet import compat
from center_loss_op.symbol import center_loss

import mxnet as mx
import numpy as np
import pytest
from numpy.testing import assert_allclose

DATA = np.random.RandomState(1).randn(4, 5).astype('float32')

LOAD = '''
import sys
import mxnet as mx, numpy as np
assert 'center_loss_op' not in sys.modules
symbol, params, data, out = sys.argv[1:]
net = mx.gluon.SymbolBlock.imports(symbol, ['data'], params)
np.save(out, net(mx.nd.array(np.load(data))).asnumpy())
'''


@pytest.mark.slow
@pytest.mark.skipif(compat.RESTORED, reason='MXNet alone cannot be imported with this NumPy')
def test_embedding_without_the_package(child, tmp_path):
    label = mx.sym.var('softmax_label')
    embedding = mx.sym.FullyConnected(mx.sym.var('data'), num_hidden=2, name='embedding')
    softmax = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(embedding, num_hidden=3), label,
                                   name='softmax')
    module = mx.mod.Module(mx.sym.Group([softmax, center_loss(embedding, label, 3, name='c')]))
    module.fit(mx.io.NDArrayIter(DATA, np.arange(4) % 3), num_epoch=2,
               eval_metric=mx.metric.Accuracy(output_names=['softmax_output']))
    arg_params, _ = module.get_params()
    mx.model.save_checkpoint(str(tmp_path / 'features'), 0,
                             module.symbol.get_internals()['embedding_output'],
                             {name: value for name, value in arg_params.items()
                              if name.startswith('embedding')}, {})
    np.save(str(tmp_path / 'data.npy'), DATA)
    weight, bias = (arg_params['embedding_' + name].asnumpy() for name in ('weight', 'bias'))
    want = DATA @ weight.T + bias
    done = child(LOAD, *(tmp_path / name for name in (
        'features-symbol.json', 'features-0000.params', 'data.npy', 'out.npy')))
    assert done.returncode == 0, done.stderr
    assert_allclose(np.load(str(tmp_path / 'out.npy')), want, rtol=1e-5, atol=1e-6)
