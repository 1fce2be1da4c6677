"""The ways into the operator, each as a function that trains one step.

All take NumPy arrays (data, label, centers) and the operator's arguments, and return the
loss, the gradient and the moved centers as NumPy arrays.
"""
import collections
import ctypes
import logging

from center_loss_op._operator import native
from center_loss_op._operator.labels import LabelError
from center_loss_op._operator.operator import CenterLossProp
from center_loss_op.gluon import CenterLoss
from center_loss_op.symbol import center_loss

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call

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


class Inside(mx.gluon.HybridBlock):
    """A block with the loss inside, which may be inside another."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def hybrid_forward(self, F, x, label, *sample_weight):
        return self.loss(1 * x, label, *sample_weight)


def block(centers, hybridize=False, **arguments):
    """A Gluon block with these centers."""
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


# Gluon has one reduction and chains its gradient: tests/test_gluon.py.
WITH_REDUCTION = [imperative, symbolic, built, from_json]


class Direct:
    """The CustomOp that MXNet calls, called directly: for every `req` there is.

    Parameters
    ----------
    data, label, centers : numpy.ndarray
    """

    def __init__(self, data, label, centers, **arguments):
        self.inputs = [array(data), array(label)]
        # With spare rows around it, so that a label that is not checked gives a wrong result, and
        # does not end the process.
        spare = min(300, (1 << 16) // centers.shape[1])
        room = mx.nd.zeros((len(centers) + 2 * spare, centers.shape[1]), dtype=centers.dtype)
        self.centers = room[spare:spare + len(centers)]
        self.centers[:] = centers
        self.out = mx.nd.zeros(len(data) if arguments.get('reduction') == 'none' else 1,
                               dtype=data.dtype if arguments.get('scale_output') else centers.dtype)
        self.grads = [mx.nd.zeros(data.shape, dtype=data.dtype),
                      mx.nd.zeros(label.shape, dtype=label.dtype)]
        arguments = {name: str(value) for name, value in arguments.items()}
        shapes = [data.shape, label.shape, centers.shape]
        types = [mx.nd.ndarray._DTYPE_NP_TO_MX[a.dtype.type] for a in (data, label, centers)]
        if native.running():
            self.operator = NativeOperator(arguments, shapes, types)
        else:
            self.operator = CenterLossProp(**arguments).create_operator(mx.cpu(), shapes, types)

    def values(self):
        """The loss, the gradient of the features, the centers, the gradient of the labels."""
        return [part.asnumpy() for part in (self.out, self.grads[0], self.centers, self.grads[1])]

    def forward(self, req='write', is_train=True):
        """A forward pass: the loss."""
        mx.nd.waitall()
        self.operator.forward(is_train, [req], self.inputs, [self.out], [self.centers])
        return self.out.asnumpy()

    def backward(self, req='write', label_req='null', head=1.0):
        """A backward pass: the gradient."""
        head = array(np.zeros(self.out.shape, self.out.dtype) + np.asarray(head, self.out.dtype))
        mx.nd.waitall()  # in a callback every array is ready
        self.operator.backward([req, label_req], [head], self.inputs, [self.out], self.grads,
                               [self.centers])
        mx.nd.waitall()
        return self.grads[0].asnumpy()


class _CallbackList(ctypes.Structure):
    """MXNet's list of a node's or an operator's callbacks."""
    _fields_ = [('size', ctypes.c_int), ('callbacks', ctypes.POINTER(ctypes.c_void_p)),
                ('contexts', ctypes.POINTER(ctypes.c_void_p))]

    def __call__(self, number, *args):
        """What callback `number` returns."""
        function = ctypes.CFUNCTYPE(ctypes.c_int)(self.callbacks[number])
        return function(*args, ctypes.c_void_p(self.contexts[number]))


def _c_array(kind, values):
    return (kind * len(values))(*values)


def _handle(array):
    """Another handle of an NDArray, for a callback, which frees what it gets."""
    handle = ctypes.c_void_p()
    check_call(_LIB.MXShallowCopyNDArray(array.handle, ctypes.byref(handle)))
    return handle.value


class NativeOperator:
    """The native callbacks, called as MXNet calls them: a CustomOp to the tests.

    Parameters
    ----------
    arguments : dict of str to str
    shapes : list of tuple of int
        Of data, label and centers.
    types : list of int
        MXNet's numbers.
    """
    DELETE, FORWARD, BACKWARD, CREATE = 0, 1, 2, 6
    REQS = {'null': 0, 'write': 1, 'inplace': 2, 'add': 3}

    def __init__(self, arguments, shapes, types):
        self.prop, self.operator = _CallbackList(), _CallbackList()
        texts = [_c_array(ctypes.c_char_p, [text.encode() for text in part])
                 for part in (arguments, arguments.values())]
        assert native.library().center_loss_creator(b'centerloss', len(arguments), *texts,
                                                   ctypes.byref(self.prop))
        shapes = [_c_array(ctypes.c_uint, shape) for shape in shapes]
        pointers = _c_array(ctypes.POINTER(ctypes.c_uint), [
            ctypes.cast(shape, ctypes.POINTER(ctypes.c_uint)) for shape in shapes])
        assert self.prop(self.CREATE, b'cpu(0)', 3, pointers,
                         _c_array(ctypes.c_int, [len(shape) for shape in shapes]),
                         _c_array(ctypes.c_int, types), ctypes.byref(self.operator))

    def __del__(self):
        self.operator(self.DELETE)
        self.prop(self.DELETE)

    def forward(self, is_train, req, in_data, out_data, aux):
        self._compute(self.FORWARD, req, is_train, [(0, in_data), (1, out_data), (4, aux)])

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        self._compute(self.BACKWARD, req, True, [(3, out_grad), (0, in_data), (1, out_data),
                                                 (2, in_grad), (4, aux)])

    def _compute(self, callback, reqs, is_train, arrays):
        """Call it, and raise what was logged where it fails."""
        tags = [tag for tag, group in arrays for _ in group]
        handles = [_handle(array) for _, group in arrays for array in group]
        records = []
        handler = logging.Handler()
        handler.emit = records.append
        logger = logging.getLogger('center_loss_op')
        logger.addHandler(handler)
        try:
            done = self.operator(callback, len(handles), _c_array(ctypes.c_void_p, handles),
                                 _c_array(ctypes.c_int, tags),
                                 _c_array(ctypes.c_int, [self.REQS[req] for req in reqs]),
                                 ctypes.c_int(is_train))
        finally:
            logger.removeHandler(handler)
        if not done:
            kind, _, text = records[-1].getMessage().partition(': ')
            raise {'LabelError': LabelError}[kind](text)
