"""MXNet 1.9.1 made importable and usable where Python, NumPy or ONNX are newer than it.

:func:`check` says what a machine lacks. Before `make` downloads anything, it runs this file as a
script (``python -I center_loss_op/_mxnet/compat.py``), so NumPy is imported only inside functions.
"""
import ctypes
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import math
import multiprocessing
import platform
import sys
import types
import warnings

# -- what a machine must have before MXNet can be loaded

PYTHONS = ((3, 8), (3, 14))
NUMPYS = ((1, 19), (2,))
MXNET = '1.9.1'

# What MXNet's libraries are linked with and its wheel leaves out: as Debian and Ubuntu call it, and
# Fedora. GCC has no libquadmath where `long double` has 128 bits, as on aarch64.
LIBRARIES = ('libgomp.so.1',) + (('libquadmath.so.0',) if platform.machine() == 'x86_64' else ())
PACKAGES = {'libgomp.so.1': ('libgomp1', 'libgomp'),
            'libquadmath.so.0': ('libquadmath0', 'libquadmath')}


def check():
    """Raise ImportError, one line, if MXNet cannot be loaded: what to do first."""
    for line in _lacking():     # the first is enough; what yields the next may rely on it
        raise ImportError(f'center_loss_op {line}')


def _lacking():
    yield from _python()    # first: NumPy itself fails on a Python that is too old
    first, last = '%d.%d' % NUMPYS[0], NUMPYS[1][0]
    install = f"run pip install 'numpy>={first},<{last + 1}'"
    if not _finds('numpy'):
        yield f'needs NumPy: {install}'
    import numpy
    version = tuple(map(int, numpy.__version__.split('.')[:2]))
    if not NUMPYS[0] <= version < (last + 1,):
        yield f'runs on NumPy {first} to {last}, found NumPy {numpy.__version__}: {install}'
    if 'mxnet' in sys.modules:
        return
    if not _finds('mxnet'):
        # Its metadata forbids NumPy 2, and there is no other for Python 3.13.
        options = '--no-deps ' if sys.version_info >= (3, 13) else ''
        yield f'needs MXNet: run pip install {options}mxnet=={MXNET}'
    if not _finds('distutils'):
        yield ('needs distutils for MXNet, but Python %d.%d has none and setuptools is missing: '
               'run pip install setuptools' % sys.version_info[:2])
    yield from _libraries()


def _python():
    python = sys.version_info[:2]
    if not PYTHONS[0] <= python <= PYTHONS[1]:
        first, last, this = ('%d.%d' % version for version in (*PYTHONS, python))
        yield (f'runs on Python {first} to {last}, this is Python {this}: use an environment with '
               'one of these')


def _venv():
    if not (_finds('venv') and _finds('ensurepip')):
        yield 'needs venv and ensurepip to be installed: run apt install python3-venv'


def _libraries():
    missing = [name for name in LIBRARIES if not _loads(name)]
    if missing and sys.platform.startswith('linux'):
        debian, fedora = (' '.join(names) for names in zip(*map(PACKAGES.get, missing)))
        yield (f"needs {' and '.join(missing)} for MXNet: run apt install {debian} "
               f'(Fedora: dnf install {fedora})')


def _finds(module):
    return importlib.util.find_spec(module) is not None


def _loads(library):
    try:
        return ctypes.CDLL(library)
    except OSError:
        return None


# -- the names that MXNet reads in NumPy, and that NumPy has removed since MXNet's release.
# Each gets the value or the behaviour that it had. A name that NumPy has is never changed.


def _renamed(new):
    """The function `numpy.<new>`, looked up when it is called: not every NumPy has it."""
    return lambda *args, **kwargs: getattr(sys.modules['numpy'], new)(*args, **kwargs)


_FINANCIAL = ('mirr', 'npv', 'pmt', 'ppmt', 'pv', 'rate')


def _financial(*args, **kwargs):
    """Only raises, as in NumPy 1.20 to 1.26."""
    raise RuntimeError(f'NumPy 1.20 removed {", ".join(_FINANCIAL)}; numpy-financial has them')


NAMES = {
    # Aliases of Python's types: gone in NumPy 1.24; 2.0 has a `bool` again, NumPy's own.
    'bool': bool, 'int': int,
    # Gone in NumPy 2.0: numbers, functions, helpers for Python 2.
    'Inf': math.inf, 'PINF': math.inf, 'NINF': -math.inf, 'NaN': math.nan, 'NAN': math.nan,
    'PZERO': 0.0, 'NZERO': -0.0,
    'alltrue': _renamed('all'), 'sometrue': _renamed('any'),
    'product': _renamed('prod'), 'round_': _renamed('round'),
    'msort': lambda a: sys.modules['numpy'].sort(a, axis=0),
    'compat': types.SimpleNamespace(basestring=str),
    # Gone in NumPy 2.4. (`isin` keeps the shape.)
    'in1d': lambda *args, **kwargs: sys.modules['numpy'].isin(*args, **kwargs).ravel(),
    'trapz': _renamed('trapezoid'),
    # Without a function since NumPy 1.20, gone in 2.0. MXNet copies them to mx.np.
    **dict.fromkeys(_FINANCIAL, _financial),
}

# The names that this process lacked.
RESTORED = globals().get('RESTORED', [])


def install_numpy_names():
    """Give NumPy those of `NAMES` that it lacks."""
    import numpy
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # NumPy warns about names that it is going to remove
        RESTORED.extend(name for name in NAMES if not hasattr(numpy, name))
    for name in RESTORED:
        setattr(numpy, name, NAMES[name])
    return ', '.join(RESTORED) or None


# -- ONNX, child processes, and the arguments of operators


class _OnnxMapping(importlib.abc.Loader):
    """Finds and loads ``onnx.mapping``, which MXNet's exporter reads."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != 'onnx.mapping':
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module):
        from onnx import TensorProto, helper
        module.TENSOR_TYPE_TO_NP_TYPE = {
            number: helper.tensor_dtype_to_np_dtype(number)
            for number in TensorProto.DataType.values() if number != TensorProto.UNDEFINED}
        module.NP_TYPE_TO_TENSOR_TYPE = {
            dtype: helper.np_dtype_to_tensor_dtype(dtype)
            for dtype in module.TENSOR_TYPE_TO_NP_TYPE.values()}


def install_onnx_mapping():
    sys.meta_path.append(_OnnxMapping())    # the last: a module that ONNX has is found before it
    return 'added'


class _Inherited:
    """Makes a child process import this package before MXNet: a child unpickles its settings before
    the target and its arguments, which may need MXNet.
    """

    def __reduce__(self):
        return importlib.import_module, (__name__,)


def install_in_children():
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
        raise ImportError(f'center_loss_op cannot load MXNet: {error}') from error
    if sys.modules['numpy'].__version__ < '2':
        return None
    ndarray.str = symbol.str = _attribute
    return 'replaced'


if __name__ == '__main__':
    lines = [f'center_loss_op {line}' for line in (*_python(), *_venv(), *_libraries())]
    sys.exit('\n'.join(lines) or None)
