"""The operator's callbacks for MXNet: names, shapes, types, and the passes."""
import ctypes
import logging
import traceback
from functools import wraps
from types import FunctionType, SimpleNamespace
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.ndarray.ndarray import _DTYPE_MX_TO_NP

from .._mxnet.graph import OP_TYPE
from .._mxnet.interrupts import defer_sigint
from . import arguments, arrays, native
from .labels import Batch, LabelError, largest_exact
from .step import Step, warn_overlapping, warn_without_backward

logger = logging.getLogger('center_loss_op')


def _logged(callback):
    """Log what a callback raises, because MXNet's MXNetError does not contain the message."""
    @wraps(callback)
    def logging_callback(*args, **kwargs):
        try:
            return callback(*args, **kwargs)
        except Exception as error:
            logger.error('%s: %s', type(error).__name__, error)
            raise
    return logging_callback


def _report_bad_label(labels, number, samples, *arguments):
    """Report what is wrong with labels that C refused, of the type that has MXNet's `number`."""
    dtype = np.dtype(_DTYPE_MX_TO_NP[number])
    memory = (ctypes.c_char * (samples * dtype.itemsize)).from_address(labels)
    try:
        with np.errstate(all='ignore'):
            _logged(Batch)(np.frombuffer(memory, dtype), *arguments)
    except LabelError:
        print('Error in CustomOp: ' + traceback.format_exc())  # as MXNet prints what it catches


class CenterLossOp(mx.operator.CustomOp):
    """The operator on one context, for one set of shapes: see :class:`CenterLossProp`."""

    def __init__(self, given, context, shapes, dtypes):
        super().__init__()
        self.step = Step(given, context)
        (data, label, centers), (data_type, label_type, centers_type) = shapes, dtypes
        out = (1,) if given.reduction != 'none' else data[:1]
        self.data = arrays.access(context, data, data_type)
        self.label = arrays.access(context, label, label_type)
        self.grad = arrays.access(context, data, data_type)
        self.centers = arrays.access(context, centers, centers_type)
        self.out = arrays.access(context, out, data_type if given.scale_output else centers_type)

    @_logged
    def forward(self, is_train, req, in_data, out_data, aux):
        with np.errstate(all='ignore'):  # the loss shows an overflow
            self.step.forward(is_train, req[0], self.data(in_data[0]), self.label(in_data[1]),
                              self.out(out_data[0]), self.centers(aux[0]))

    @_logged
    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        head_gradient = self.out(out_grad[0]) if self.step.arguments.need_top_grad else None
        with np.errstate(all='ignore'):
            self.step.backward(req[0], head_gradient, self.grad(in_grad[0]),
                               self.data(in_data[0]), self.label(in_data[1]),
                               self.centers(aux[0]))
        if req[1] in ('write', 'inplace'):
            self.label(in_grad[1]).clear()


class CenterLossProp(mx.operator.CustomOpProp):
    """Center loss of Wen et al., ECCV 2016 (equations 2, 4, 5), as ``op_type='centerloss'``.

%(formulas)s

    M samples count, n_j of them of class j. With `need_top_grad`, the gradient is multiplied by the
    head gradient. The backward pass of a training forward moves the centers, once.

    Arguments (as attributes of the node)
    -------------------------------------
%(arguments)s

    Inputs: data (N, d), float16, float32 or float64; label (N,) or (N, 1), whole numbers from 0 to
    C − 1 of any real type. Auxiliary state: center_bias (C, d), the centers, float32, or float64
    for float64 data; its name ends in ``_bias`` so that MXNet's initializers set it to zero.
    Output: (1,) or (N,), in the dtype of the centers, or of data with `scale_output`.
    """

    def __init__(self, **kwargs):
        # An exception here would end the process: MXNet would free callbacks that it never got.
        # list_arguments is the first callback that may raise.
        defer_sigint()
        self.error = None
        try:
            self.arguments = arguments.Arguments.of_node(kwargs)
        except (TypeError, ValueError) as error:
            self.error = error
        super().__init__(need_top_grad=self.error is None and self.arguments.need_top_grad)

    @_logged
    def list_arguments(self):
        if self.error is not None:
            raise self.error
        return ['data', 'label']

    def list_auxiliary_states(self):
        return ['center_bias']

    @_logged
    def infer_shape(self, in_shape):
        # A length that MXNet does not know yet is −1, and a whole shape []. Returned to MXNet, []
        # is the shape of a scalar.
        data, label = in_shape[0] or [-1, -1], in_shape[1] or [-1]
        num_class, reduction = self.arguments.num_class, self.arguments.reduction
        arguments.check_shapes('data', tuple(data), tuple(label), num_class)
        batch, features = max(data[0], label[0]), data[1]
        label = [batch, 1][:len(label)]
        arguments.check_elements(num_class, features)
        out = (1,) if reduction != 'none' else (batch,)
        return [[batch, features], label], [out], [(num_class, features)]

    @_logged
    def infer_type(self, in_type):
        data, label = in_type
        if data is not None:
            arguments.check_data_type('data', data)
        if label is None and data is np.float32:
            label = data
        # For other features the type of the label stays unknown, because a SoftmaxOutput of the
        # same label may decide it: its scores may have been cast to float32.
        if label is not None:
            largest = largest_exact(label)
            if largest is not None and self.arguments.num_class - 1 > largest:
                raise TypeError(f'a label of type {np.dtype(label)} cannot tell classes above '
                                f'{largest} apart, but num_class is {self.arguments.num_class}: '
                                'give the label another type, int32 for example')
        centers = {None: None, np.float64: np.float64}.get(data, np.float32)
        return [data, label], [data if self.arguments.scale_output else centers], [centers]

    @_logged
    def create_operator(self, ctx, in_shapes, in_dtypes):
        return CenterLossOp(self.arguments, ctx, in_shapes,
                          [_DTYPE_MX_TO_NP[dtype] for dtype in in_dtypes])


arguments.complete_docstring(CenterLossProp, arguments.Arguments)


def _dense(handle, writable=True, stype=None):
    return mx.nd.NDArray(handle, writable=writable)


class _Held(dict):
    """What MXNet's Python layer holds until MXNet frees it, by number.

    The layer ties each operator into a reference cycle. In imperative training, hundreds of dead
    operators, each with N · d numbers, would wait for Python's cyclic collector.
    """

    def __delitem__(self, number):
        held = self.pop(number)
        if isinstance(held, CenterLossOp):
            held.step.free()


def install():
    """Register the operator with MXNet; its callbacks get plain NDArrays.

    MXNet keeps one list per process of the arrays that a backward pass reads: that of the operator
    made last. By that of another operator, it can ask for the storage type of an array that does
    not exist, and fails. All arrays of this operator are dense, so its callbacks do not ask.
    """
    creators: list = []
    library = SimpleNamespace(
        MXCustomOpRegister=lambda name, creator: creators.append(creator) or 0)  # type: ignore
    registry = mx.operator._Registry()
    registry.ref_holder = _Held()
    # MXNet's `register` as it is, but its global names stand for these.
    replaced = {**vars(mx.operator), '_ndarray_cls': _dense, '_np_ndarray_cls': _dense,
                '_LIB': library, '_registry': registry}
    register: Any = FunctionType(mx.operator.register.__code__, replaced)
    register(OP_TYPE)(CenterLossProp)
    native.register(OP_TYPE, *creators, defer_sigint, _report_bad_label, warn_without_backward,
                    warn_overlapping)
    return f'{OP_TYPE!r}, in {native.which()}'
