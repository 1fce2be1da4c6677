"""A trained network used without this package: docs/using.md."""
from center_loss_op._mxnet import compat
from center_loss_op.symbol import center_loss

import mxnet as mx
import numpy as np
import pytest
from numpy.testing import assert_allclose

DATA = np.random.RandomState(1).randn(4, 5).astype('float32')

# C's predict API, called with ctypes as a C program calls it.
PREDICT = '''
import ctypes, sys
import numpy
from mxnet.base import _LIB, check_call
assert 'center_loss_op' not in sys.modules
symbol, params = (open(name, 'rb').read() for name in sys.argv[1:3])
data = numpy.load(sys.argv[3])
handle = ctypes.c_void_p()
check_call(_LIB.MXPredCreate(symbol, params, len(params), 1, 0, 1,
                             (ctypes.c_char_p * 1)(b'data'), (ctypes.c_uint * 2)(0, data.ndim),
                             (ctypes.c_uint * data.ndim)(*data.shape), ctypes.byref(handle)))
floats = ctypes.POINTER(ctypes.c_float)
check_call(_LIB.MXPredSetInput(handle, b'data', data.ctypes.data_as(floats), data.size))
check_call(_LIB.MXPredForward(handle))
out = numpy.empty((len(data), 2), 'float32')
check_call(_LIB.MXPredGetOutput(handle, 0, out.ctypes.data_as(floats), out.size))
numpy.save(sys.argv[4], out)
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
    done = child(PREDICT, *(tmp_path / name for name in (
        'features-symbol.json', 'features-0000.params', 'data.npy', 'out.npy')))
    assert done.returncode == 0, done.stderr
    assert_allclose(np.load(str(tmp_path / 'out.npy')), want, rtol=1e-5, atol=1e-6)
