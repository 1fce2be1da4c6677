"""MXNet 1.9.1 made importable and usable where Python, NumPy or ONNX are newer than it.

Child processes that import MXNet before this package get the same.
"""
import importlib
import importlib.abc
import importlib.machinery
import multiprocessing
import sys

import numpy

from .numpy_names import RESTORED

__all__ = ['install_in_children', 'install_onnx_mapping', 'install_text_of_attributes']


class _OnnxMapping(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``onnx.mapping``, which MXNet's exporter reads, if ONNX no longer has it."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != 'onnx.mapping':
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module):
        """Add the two dictionaries between ONNX's element types and NumPy's."""
        from onnx import TensorProto, helper
        module.TENSOR_TYPE_TO_NP_TYPE = {
            number: helper.tensor_dtype_to_np_dtype(number)
            for number in TensorProto.DataType.values() if number != TensorProto.UNDEFINED}
        module.NP_TYPE_TO_TENSOR_TYPE = {
            dtype: helper.np_dtype_to_tensor_dtype(dtype)
            for dtype in module.TENSOR_TYPE_TO_NP_TYPE.values()}


def install_onnx_mapping():
    """Add a finder of modules, the last one: a module that ONNX has is found before it."""
    if not any(type(finder).__name__ == _OnnxMapping.__name__ for finder in sys.meta_path):
        sys.meta_path.append(_OnnxMapping())
    return 'added'


class _Inherited:
    """Makes a child process import this package before MXNet.

    A child that is not forked unpickles its task. The task begins with the settings that
    multiprocessing hands down from process to process, and unpickling this object imports this
    module. The target and its arguments, which may need MXNet, come after the settings.
    """

    def __reduce__(self):
        return importlib.import_module, (__name__,)


def install_in_children():
    """Add an object to the settings that child processes inherit."""
    if not RESTORED:
        return None

    multiprocessing.current_process()._config[__package__] = _Inherited()
    return 'added'


def _attribute(value):
    """str(value), with numbers as before NumPy 2: ``[0, 4]`` instead of ``[0, np.int64(4)]``."""
    text = str(value)
    if 'np.' in text and isinstance(value, (list, tuple)):
        with numpy.printoptions(legacy='1.25'):
            text = str(value)
    return text


def install_text_of_attributes():
    """Import MXNet, and replace `str` in the modules that write the arguments of operators."""
    try:
        from mxnet._ctypes import ndarray, symbol
    except OSError as error:  # from the loader: a library that `requirements` does not look for
        raise ImportError('center_loss_op cannot load MXNet: %s' % error) from error
    if numpy.__version__ < '2':
        return None
    ndarray.str = symbol.str = _attribute
    return 'replaced'
