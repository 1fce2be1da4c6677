"""Modules of the package executed again, as by autoreload: all goes on."""
import pytest

HEAD = '''
import importlib, os, signal, subprocess, sys
import center_loss_op, center_loss_op.module
import mxnet as mx
import numpy as np
from center_loss_op import gluon

def patched():
    return mx.executor.Executor.backward, mx.gluon.SymbolBlock.__init__, \\
        vars(mx.base._LIB).get('MXNotifyShutdown'), sys.meta_path[:]

def step():
    x, y, centers = mx.nd.array([[2, 4], [4, 8]]), mx.nd.array([1, 1]), mx.nd.zeros((2, 2))
    x.attach_grad()
    with mx.autograd.record():
        loss = mx.nd.Custom(x, y, centers, op_type='centerloss', num_class=2, reduction='none')
    loss.backward()
    mx.nd.waitall()
    assert loss.asnumpy().tolist() == [10, 40] and np.allclose(centers.asnumpy(), [[0, 0], [1, 2]])

def trained(loss, trainer=None):
    x, y = mx.nd.array([[2, 4], [4, 8]]), mx.nd.array([1, 1])
    x.attach_grad()
    with mx.autograd.record():
        value = loss(x, y)
    value.backward()
    if trainer:
        trainer.step()
    assert np.allclose(loss.centers.data().asnumpy(), [[0, 0], [1, 2]])
    loss.centers.set_data(mx.nd.zeros((2, 2)))

def made():
    loss = sys.modules['center_loss_op.gluon'].CenterLoss(2)
    loss.initialize()
    return loss

def fork():
    step()
    child = os.fork()
    if child == 0:
        step()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    step()

alone, gathered = made(), made()
trainer = gluon.CenterTrainer(gathered, 'device')
before = patched()
native = sys.modules['center_loss_op._operator.native']
which = native.which()

def check():
    assert patched() == before
    fork()
    trained(alone)
    trained(gathered, trainer)
    loss = made()
    trained(loss)
    trained(loss, sys.modules['center_loss_op.gluon'].CenterTrainer(loss, 'device'))
    trained(gathered, trainer)
    assert sys.modules['center_loss_op._operator.native'].which() == which

for name in sys.argv[1:]:
    importlib.reload(sys.modules['center_loss_op.' + name])
    check()
    print(name)
'''

MODULES = ['_operator.operator', '_mxnet', 'gluon']


@pytest.mark.parametrize('native', [1, pytest.param(0, marks=pytest.mark.slow)])
def test_executed_again(native, child):
    done = child(HEAD, *MODULES, CENTER_LOSS_NATIVE=native)
    assert (done.returncode, done.stdout.split()) == (0, MODULES), done.stderr[-3000:]
