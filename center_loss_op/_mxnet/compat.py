"""MXNet 1.9.1 made importable and usable where Python, NumPy or ONNX are newer than it.

:func:`check` says what a machine lacks. Before `make` downloads anything, it runs this file as a
script (``python -I center_loss_op/_mxnet/compat.py``), so NumPy is imported only inside functions.
"""
import ctypes
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import multiprocessing
import platform
import sys
import types
import warnings

__all__ = ['LIBRARIES', 'MXNET', 'NAMES', 'NUMPYS', 'PACKAGES', 'PYTHONS', 'RESTORED', 'check',
           'install_in_children', 'install_numpy_names', 'install_onnx_mapping',
           'install_text_of_attributes', 'lacking', 'restore']

# -- what a machine must have before MXNet can be loaded

PYTHONS = ((3, 8), (3, 14))
NUMPYS = ((1, 19), (2,))
MXNET = '1.9.1'

# What libmxnet.so and the libgfortran.so.3 beside it are linked with and MXNet's wheel leaves out.
# GCC has no libquadmath where `long double` has 128 bits, as on aarch64.
LIBRARIES = ('libgomp.so.1',) + (('libquadmath.so.0',) if platform.machine() == 'x86_64' else ())
# What Debian and Ubuntu call the packages, and Fedora.
PACKAGES = {'libgomp.so.1': ('libgomp1', 'libgomp'),
            'libquadmath.so.0': ('libquadmath0', 'libquadmath')}


def check():
    """Raise ImportError, one line, where MXNet cannot be loaded: what to do."""
    looks = [_python, _numpy]
    if 'mxnet' not in sys.modules:
        looks += [_mxnet, _distutils, _libraries]
    for look in looks:  # in this order: NumPy itself fails on a Python that is too old
        line = look()
        if line:
            raise ImportError('center_loss_op ' + line)


def lacking():
    """What must be there before anything is installed, but is not: a list of lines."""
    return ['center_loss_op ' + line for line in (_python(), _venv(), _libraries()) if line]


def _python():
    python = sys.version_info[:2]
    if PYTHONS[0] <= python <= PYTHONS[1]:
        return None
    return ('runs on Python %d.%d to %d.%d, this is Python %d.%d: use an environment with one of '
            'these' % (PYTHONS[0] + PYTHONS[1] + python))


def _numpy():
    if importlib.util.find_spec('numpy') is None:
        return "needs NumPy: run pip install 'numpy%s'" % _numpy_range()
    import numpy
    version = tuple(map(int, numpy.__version__.split('.')[:2]))
    if NUMPYS[0] <= version and version[:1] <= NUMPYS[1]:
        return None
    return "runs on NumPy %d.%d to %d, found NumPy %s: run pip install 'numpy%s'" % (
        NUMPYS[0] + NUMPYS[1] + (numpy.__version__, _numpy_range()))


def _numpy_range():
    return '>=%d.%d,<%d' % (NUMPYS[0] + (NUMPYS[1][0] + 1,))


def _mxnet():
    if importlib.util.find_spec('mxnet') is not None:
        return None
    # Its metadata forbids NumPy 2, and there is no other for Python 3.13.
    options = '--no-deps ' if sys.version_info >= (3, 13) else ''
    return 'needs MXNet: run pip install %smxnet==%s' % (options, MXNET)


def _distutils():
    if importlib.util.find_spec('distutils') is not None:
        return None
    return ('needs distutils for MXNet, but Python %d.%d has none and setuptools is missing: run '
            'pip install setuptools' % sys.version_info[:2])


def _venv():
    if importlib.util.find_spec('venv') and importlib.util.find_spec('ensurepip'):
        return None
    return 'needs venv and ensurepip to be installed: run apt install python3-venv'


def _libraries():
    if not sys.platform.startswith('linux'):
        return None
    missing = [name for name in LIBRARIES if not _loads(name)]
    if not missing:
        return None
    debian, fedora = zip(*(PACKAGES[name] for name in missing))
    return 'needs %s for MXNet: run apt install %s (Fedora: dnf install %s)' % (
        ' and '.join(missing), ' '.join(debian), ' '.join(fedora))


def _loads(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


# -- the names that MXNet reads in NumPy, and that NumPy has removed since MXNet's release.
# Each gets the value or the behaviour that it had. A name that NumPy has is never changed, and this
# package uses none of them.


def _renamed(new):
    """The function `numpy.<new>`, looked up when it is called: not every NumPy has it."""
    def function(*args, **kwargs):
        return getattr(sys.modules['numpy'], new)(*args, **kwargs)
    function.__doc__ = 'numpy.%s, under its former name.' % new
    return function


def _in1d(ar1, ar2, assume_unique=False, invert=False):
    """Which elements of `ar1` are in `ar2`, flat: numpy.isin keeps the shape."""
    import numpy
    return numpy.isin(numpy.asarray(ar1).ravel(), ar2, assume_unique, invert)


def _msort(a):
    """A copy, sorted along the first axis."""
    import numpy
    return numpy.sort(a, axis=0)


def _financial(name):
    """A function that only raises, as in NumPy 1.20 to 1.26: MXNet copies it to mx.np."""
    def function(*args, **kwargs):
        raise RuntimeError('NumPy 1.20 removed the function %s; the package numpy-financial '
                           'has it' % name)
    return function


NAMES = {
    # Aliases of Python's types: gone in NumPy 1.24; 2.0 has a `bool` again, NumPy's own.
    'bool': bool,
    'int': int,
    # Gone in NumPy 2.0. Numbers:
    'Inf': float('inf'),
    'PINF': float('inf'),
    'NINF': float('-inf'),
    'NaN': float('nan'),
    'NAN': float('nan'),
    'PZERO': 0.0,
    'NZERO': -0.0,
    # functions:
    'alltrue': _renamed('all'),
    'sometrue': _renamed('any'),
    'product': _renamed('prod'),
    'round_': _renamed('round'),
    'msort': _msort,
    # helpers for Python 2:
    'compat': types.SimpleNamespace(basestring=str),
    # Gone in NumPy 2.4.
    'in1d': _in1d,
    'trapz': _renamed('trapezoid'),
    # Without a function since NumPy 1.20, gone in 2.0. MXNet copies them to mx.np.
    **{name: _financial(name) for name in ('mirr', 'npv', 'pmt', 'ppmt', 'pv', 'rate')},
}


# The names that this process lacked. Stays when this module is executed again.
RESTORED = globals().get('RESTORED', [])


def restore():
    """Give NumPy those of `NAMES` that it lacks, and return these names."""
    import numpy
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # NumPy warns about names that it is going to remove
        missing = [name for name in NAMES if not hasattr(numpy, name)]
    for name in missing:
        setattr(numpy, name, NAMES[name])
    RESTORED.extend(missing)
    return missing


def install_numpy_names():
    """Restore the names; None if NumPy has all of them."""
    restore()
    return ', '.join(RESTORED) or None


# -- ONNX, child processes, and the arguments of operators


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
    settings = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    settings[__package__] = _Inherited()
    return 'added'


def _attribute(value):
    """str(value), with numbers as before NumPy 2: ``[0, 4]`` instead of ``[0, np.int64(4)]``."""
    text = str(value)
    if 'np.' in text and isinstance(value, (list, tuple)):
        import numpy
        with numpy.printoptions(legacy='1.25'):
            text = str(value)
    return text


def install_text_of_attributes():
    """Import MXNet, and replace `str` in the modules that write the arguments of operators."""
    try:
        from mxnet._ctypes import ndarray, symbol
    except OSError as error:  # from the loader: a library that `check` does not look for
        raise ImportError('center_loss_op cannot load MXNet: %s' % error) from error
    if sys.modules['numpy'].__version__ < '2':
        return None
    ndarray.str = symbol.str = _attribute
    return 'replaced'


if __name__ == '__main__':
    sys.exit('\n'.join(lacking()) or None)
