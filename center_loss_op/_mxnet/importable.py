"""Imports MXNet 1.9.1 where Python, NumPy or ONNX are newer than it.

What can be missing is looked up first, so that its absence is one line that says what to do.
Child processes that import MXNet before this package get the same.
"""
import importlib.abc
import importlib.machinery
import multiprocessing
import sys

from . import requirements

requirements.check()

import numpy  # pylint: disable=wrong-import-position

from .numpy_names import put_back  # pylint: disable=wrong-import-position

__all__ = ['LENT']

LENT = put_back()


class _OnnxMapping(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """``onnx.mapping``, which MXNet's exporter reads, found where ONNX has it no more."""

    def find_spec(self, fullname, path=None, target=None):  # pylint: disable=unused-argument
        if fullname != 'onnx.mapping':
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module):
        """The two dictionaries, between ONNX's element types and NumPy's."""
        from onnx import TensorProto, helper  # pylint: disable=import-outside-toplevel
        module.TENSOR_TYPE_TO_NP_TYPE = {
            number: helper.tensor_dtype_to_np_dtype(number)
            for number in TensorProto.DataType.values() if number != TensorProto.UNDEFINED}
        module.NP_TYPE_TO_TENSOR_TYPE = {
            dtype: helper.np_dtype_to_tensor_dtype(dtype)
            for dtype in module.TENSOR_TYPE_TO_NP_TYPE.values()}


class _Inherited:  # pylint: disable=too-few-public-methods
    """Every child process inherits one, so that it imports this package before MXNet.

    A child that is not forked unpickles what it is to do. That begins with the settings that
    multiprocessing hands down from process to process, and to unpickle this is to import this
    module; the target and its arguments, objects of MXNet's perhaps, come after them.
    """


def _attribute(value):
    """str(value), with numbers as before NumPy 2: ``[0, 4]``, which is ``[0, np.int64(4)]`` now."""
    text = str(value)
    if 'np.' in text and isinstance(value, (list, tuple)):
        with numpy.printoptions(legacy='1.25'):
            text = str(value)
    return text


# The last one: what ONNX has is found before it.
sys.meta_path.append(_OnnxMapping())
if LENT:
    # pylint: disable-next=protected-access
    multiprocessing.current_process()._config[__package__] = _Inherited()

try:
    from mxnet._ctypes import ndarray, symbol  # pylint: disable=wrong-import-position
except OSError as error:  # from the loader: another library than those that were looked for
    raise ImportError('center_loss_op cannot load MXNet: %s' % error) from error

if numpy.__version__ >= '2':
    # MXNet writes the arguments of operators with str(), in these modules.
    ndarray.str = symbol.str = _attribute
