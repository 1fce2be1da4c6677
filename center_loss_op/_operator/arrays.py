"""MXNet's arrays as NumPy arrays: on a CPU the same memory, elsewhere copies of what is asked for.

`access` gives an operator what it opens the arrays of its passes with: a `View` or a `Copy`. In a
callback of a custom operator, the inputs are ready, and no other operator uses the outputs.
"""
import ctypes
import math
from typing import Any

import numpy as np
from mxnet import nd
from mxnet.base import _LIB, check_call

from .labels import BFLOAT16

# PyDLL keeps Python's lock during the call, which returns at once. CDLL would release the lock, and
# then wait for it if another thread takes it.
_get_data = ctypes.PyDLL(_LIB._name).MXNDArrayGetData


def _address(array):
    pointer = ctypes.c_void_p()
    check_call(_get_data(array.handle, ctypes.byref(pointer)))
    return pointer.value


def is_host_memory(context):
    return context.device_type.startswith('cpu')


def access(context, shape, dtype):
    """A function that opens NDArrays on `context`, of one shape and dtype, for NumPy."""
    return View(shape, dtype) if is_host_memory(context) else Copy


def opened(array):
    """An NDArray outside a callback, opened for NumPy when it is ready."""
    array.wait_to_read()
    return access(array.context, array.shape, array.dtype)(array)


def _store(target, req, values, factor):
    """target ← factor · values, or added to it.

    The product is cast to the dtype of `target` last: ½‖x‖² may overflow float16 where λ · ½‖x‖²
    does not.
    """
    if req == 'add':
        np.add(target, values * factor, out=target)
    elif req != 'null':
        np.multiply(values, factor, out=target)


class View:
    """The memory of an NDArray on a CPU."""

    def __init__(self, shape, dtype):
        self._shape, self._dtype = tuple(shape), np.dtype(dtype)
        self._bytes = ctypes.c_char * (math.prod(self._shape) * self._dtype.itemsize)
        self.address = None
        self._array: Any = np.empty(self._shape, self._dtype) if 0 in self._shape else None

    def __call__(self, array):
        address = _address(array)
        if address != self.address:     # it stays the same for a bound executor
            self._array = np.ndarray(self._shape, self._dtype, self._bytes.from_address(address))
            self.address = address
        return self

    def read(self):
        return self._array

    def clear(self):
        self._array[...] = 0

    def store(self, req, values, factor):
        """Store factor · values as `req` says: 'write', 'inplace', 'add' or 'null'."""
        _store(self._array, req, values, factor)

    def take(self, rows, out=None):
        """A copy of some rows, in the memory of `out` if that is given and the case allows it."""
        # 'clip' never clips, because the labels are checked. 'raise' would copy `out`.
        return self._array.take(rows, 0, out, 'clip')

    def put(self, rows, values):
        """Replace some rows; none occurs twice."""
        self._array[rows] = values


class Copy:
    """An NDArray on another device, with the methods of a View, which copy."""

    def __init__(self, array):
        self._array = array

    def _on_device(self, values, dtype):
        return nd.array(values, self._array.context, dtype)

    @property
    def address(self):
        return _address(self._array)

    def read(self):
        array = self._array
        return (array.astype(np.float32) if array.dtype == BFLOAT16 else array).asnumpy()

    def clear(self):
        self._array[:] = 0

    def store(self, req, values, factor):
        if req == 'null':
            return
        array = self._array
        target = array.asnumpy() if req == 'add' else np.empty(array.shape, array.dtype)
        _store(target, req, values, factor)
        array[:] = target

    def take(self, rows, out=None):
        return nd.take(self._array, self._on_device(rows, np.int64), mode='clip').asnumpy()

    def put(self, rows, values):
        if len(rows):
            self._array[self._on_device(rows, np.int64)] = self._on_device(values, values.dtype)
            # The next step gets another NDArray of this memory: the engine would not let it wait.
            self._array.wait_to_read()
