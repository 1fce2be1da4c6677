"""The ways into the operator, each as a function that trains one step.

All take NumPy arrays (data, label, centers) and the operator's arguments, and return the
loss, the gradient and the moved centers as NumPy arrays.
"""
import collections

import mxnet as mx
import numpy as np

from center_loss_op.gluon import CenterLoss
from center_loss_op.operator import CenterLossProp
from center_loss_op.symbol import center_loss

Result = collections.namedtuple('Result', 'loss grad centers')


def array(values):
    """An NDArray of the dtype of `values`."""
    return mx.nd.array(values, dtype=values.dtype)


def settle():
    """Wait for everything, whatever becomes of it: no queued exception reaches what follows."""
    try:
        mx.nd.waitall()
    except mx.MXNetError:
        pass


def custom(data, label, centers, **arguments):
    """The operator on NDArrays."""
    return mx.nd.Custom(data, label, centers, op_type='centerloss', **arguments)


def imperative(data, label, centers, head=None, **arguments):
    """``mx.nd.Custom`` under autograd."""
    data, label, centers = array(data), array(label), array(centers)
    data.attach_grad()
    with mx.autograd.record():
        loss = custom(data, label, centers, **arguments)
    loss.backward(None if head is None else array(head.astype(loss.dtype)))
    mx.nd.waitall()
    return Result(loss.asnumpy(), data.grad.asnumpy(), centers.asnumpy())


def bind(symbol, data, label, centers, grad_req='write', grad=None):
    """An executor of a symbol with the arguments data and label and one auxiliary state."""
    args = {'data': array(data), 'label': array(label)}
    grads = {'data': array(np.zeros_like(data) if grad is None else grad)}
    return symbol.bind(mx.cpu(), args, grads, {'data': grad_req, 'label': 'null'},
                       [array(centers)])


def run(executor, head=None):
    """A training step of what :func:`bind` returns."""
    loss, = executor.forward(is_train=True)
    executor.backward(None if head is None else array(head.astype(loss.dtype)))
    mx.nd.waitall()
    return Result(loss.asnumpy(), executor.grad_arrays[0].asnumpy(),
                  executor.aux_arrays[0].asnumpy())


def symbolic(data, label, centers, head=None, **arguments):
    """``mx.sym.Custom``, bound."""
    symbol = mx.sym.Custom(mx.sym.var('data'), mx.sym.var('label'), op_type='centerloss',
                           **arguments)
    return run(bind(symbol, data, label, centers), head)


def built(data, label, centers, head=None, **arguments):
    """``center_loss_op.symbol.center_loss``, bound."""
    symbol = center_loss(mx.sym.var('data'), mx.sym.var('label'), **arguments)
    return run(bind(symbol, data, label, centers), head)


def from_json(data, label, centers, head=None, **arguments):
    """A graph that was saved and loaded."""
    symbol = center_loss(mx.sym.var('data'), mx.sym.var('label'), **arguments)
    return run(bind(mx.sym.load_json(symbol.tojson()), data, label, centers), head)


def block(centers, hybridize=False, **arguments):
    """A Gluon block with these centers; the operator's arguments that it does not take go away."""
    arguments = {name: value for name, value in arguments.items()
                 if name not in ('num_class', 'scale', 'reduction', 'need_top_grad')}
    loss = CenterLoss(len(centers), in_units=centers.shape[1], **arguments)
    loss.initialize()
    loss.cast(centers.dtype)
    loss.centers.set_data(array(centers))
    if hybridize:
        loss.hybridize(static_alloc=hybridize == 'static', static_shape=hybridize == 'static')
    return loss


def run_block(loss, data, label, head=None):
    """A training step of a Gluon block."""
    data, label = array(data), array(label)
    data.attach_grad()
    with mx.autograd.record():
        output = loss(data, label)
    output.backward(None if head is None else array(head.astype(output.dtype)))
    return Result(output.asnumpy(), data.grad.asnumpy(), loss.centers.data().asnumpy())


def gluon(data, label, centers, head=None, **arguments):
    """``center_loss_op.gluon.CenterLoss``."""
    return run_block(block(centers, **arguments), data, label, head)


def gluon_hybrid(data, label, centers, head=None, **arguments):
    """The same, hybridized."""
    return run_block(block(centers, hybridize=True, **arguments), data, label, head)


def gluon_static(data, label, centers, head=None, **arguments):
    """The same, with static_alloc and static_shape."""
    return run_block(block(centers, hybridize='static', **arguments), data, label, head)


# Gluon has one reduction and chains its gradient: `reduction='none', need_top_grad=True`.
WITH_REDUCTION = [imperative, symbolic, built, from_json]
BLOCKS = [gluon, gluon_hybrid, gluon_static]
ALL = WITH_REDUCTION + BLOCKS


class Direct:
    """The CustomOp that MXNet calls, called directly: for every `req` there is.

    Parameters
    ----------
    data, label, centers : numpy.ndarray
    """

    def __init__(self, data, label, centers, **arguments):
        self.inputs = [array(data), array(label)]
        self.centers = array(centers)
        self.out = mx.nd.zeros(len(data) if arguments.get('reduction') == 'none' else 1,
                               dtype=centers.dtype)
        self.grads = [mx.nd.zeros(data.shape, dtype=data.dtype),
                      mx.nd.zeros(label.shape, dtype=label.dtype)]
        prop = CenterLossProp(**{name: str(value) for name, value in arguments.items()})
        types = [mx.nd.ndarray._DTYPE_NP_TO_MX[a.dtype.type] for a in (data, label, centers)]
        self.operator = prop.create_operator(
            mx.cpu(), [data.shape, label.shape, centers.shape], types)

    def forward(self, req='write', is_train=True):
        """A forward pass: the loss."""
        mx.nd.waitall()
        self.operator.forward(is_train, [req], self.inputs, [self.out], [self.centers])
        return self.out.asnumpy()

    def backward(self, req='write', label_req='null', head=1.0):
        """A backward pass: the gradient."""
        head = self.out * 0 + head
        mx.nd.waitall()  # in a callback every array is ready
        self.operator.backward([req, label_req], [head], self.inputs, [self.out], self.grads,
                               [self.centers])
        mx.nd.waitall()
        return self.grads[0].asnumpy()
