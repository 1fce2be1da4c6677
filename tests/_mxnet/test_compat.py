"""Importing MXNet where NumPy, ONNX or Python are newer than it, and where nothing can help it."""
import ast
import ctypes
import importlib.util
import multiprocessing
import platform
import subprocess
import sys
import warnings
from pathlib import Path

from center_loss_op._mxnet import compat

import mxnet as mx
import numpy as np
import pytest

# Calls whose results a reader can check by hand, and the values of the other names.
CALLS = [
    ('alltrue', ([[1, 1], [1, 0]],), {'axis': 0}, [True, False]),
    ('sometrue', ([[1, 0], [0, 0]],), {'axis': 1}, [True, False]),
    ('product', ([2, 3, 4],), {}, 24),
    ('round_', ([1.25, 2.75],), {'decimals': 1}, [1.2, 2.8]),
    ('msort', (np.array([[3., 1.], [2., 4.]]),), {}, [[2, 1], [3, 4]]),
    ('in1d', ([[1, 2], [3, 1]], [1, 5, 3]), {}, [True, False, True, True]),
    ('in1d', ([[1, 2], [3, 1]], [1, 5, 3]), {'invert': True}, [False, True, False, False]),
    ('trapz', ([1, 2, 4],), {'dx': 2}, 9),
]
VALUES = {'Inf': 'inf', 'PINF': 'inf', 'NINF': '-inf', 'NaN': 'nan', 'NAN': 'nan', 'PZERO': '0.0',
          'NZERO': '-0.0', 'bool': "<class 'bool'>", 'int': "<class 'int'>"}

NUMPY_WITHOUT_ALIASES = '''
import sys, warnings
warnings.simplefilter('error', FutureWarning)  # NumPy 1.24 warns whoever asks for np.bool
import numpy
former = numpy.__getattr__
def without_aliases(name):
    if name in ('bool', 'int'):
        raise AttributeError("module 'numpy' has no attribute %r" % name)
    return former(name)
numpy.__getattr__ = without_aliases
vars(numpy).pop('bool', None), vars(numpy).pop('int', None)  # NumPy 1.19 has them as they are
'''


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_names_are_what_they_were():
    """Ours, and NumPy's own where it still has them."""
    own = {name: getattr(np, name) for name in compat.NAMES
           if name not in compat.RESTORED and hasattr(np, name)}
    for name, args, options, expected in CALLS:
        new = {'trapz': 'trapezoid'}.get(name)
        for function in own.get(name), compat.NAMES[name] if not new or hasattr(np, new) else None:
            if function:
                assert np.asarray(function(*args, **options)).tolist() == expected
    for name, expected in VALUES.items():
        assert repr(compat.NAMES[name]) == expected
        # From 2.0 on `bool` is NumPy's own.
        assert name not in own or repr(own[name]) == expected or own[name] is np.bool_
    with pytest.raises(RuntimeError, match='pmt.*numpy-financial'):
        compat.NAMES['pmt'](1, 2)


def test_numpy_has_each_name_that_mxnet_reads():
    """What stands behind a dot after NumPy in MXNet's source, or behind `getattr` in its list."""
    read = {}
    folder = Path(mx.__file__).parent
    for path in folder.rglob('*.py'):
        text = path.read_text(encoding='utf-8')
        if 'import numpy' not in text:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of escapes in MXNet's strings
            nodes = list(ast.walk(ast.parse(text)))
        numpy_here = {alias.asname or alias.name for node in nodes if isinstance(node, ast.Import)
                      for alias in node.names if alias.name == 'numpy'}
        for node in nodes:
            names = []
            while isinstance(node, ast.Attribute):
                names.append(node.attr)
                node = node.value
            if names and isinstance(node, ast.Name) and node.id in numpy_here:
                read['.'.join(reversed(names))] = path.relative_to(folder)
    assert len(read) > 200 and 'compat.basestring' in read
    read.update(dict.fromkeys(mx.numpy_dispatch_protocol._NUMPY_ARRAY_FUNCTION_LIST, 'the list'))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        missing = {name: file for name, file in read.items() if not has(np, name)}
    assert not missing


def has(found, names):
    for name in names.split('.'):
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


def test_lends_numpy_only_the_names_that_it_lacks(child):
    """After MXNet alone has failed, too."""
    done = child((NUMPY_WITHOUT_ALIASES if np.__version__ < '2' else 'import numpy, sys\n') + '''
try:
    import mxnet
except AttributeError:
    print('failed')
numpy.in1d = numpy.Inf = 'mine'
before = set(vars(numpy))
from center_loss_op._mxnet import compat
new = [name for name in vars(numpy) if name in compat.NAMES and name not in before]
assert sorted(compat.RESTORED) == sorted(new) and 'int' in new and numpy.int is int
assert numpy.in1d == numpy.Inf == 'mine'
import mxnet
print(mxnet.nd.ones(2).sum().asscalar())
''')
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'failed\n2.0\n'


@pytest.mark.skipif(compat.RESTORED, reason='MXNet alone cannot be imported with this NumPy')
def test_mxnet_imported_first(child):
    done = child('import mxnet as mx, center_loss_op\n'
                 'x, y, c = mx.nd.array([[3, 4]]), mx.nd.array([1]), mx.nd.zeros((2, 2))\n'
                 'print(mx.nd.Custom(x, y, c, op_type="centerloss", num_class=2).asscalar())')
    assert (done.returncode, done.stdout) == (0, '12.5\n'), done.stderr


FIND, LOAD = importlib.util.find_spec, ctypes.CDLL
NEW, OLD = (3, 15, 0, 'final', 0), (3, 7, 9, 'final', 0)


@pytest.mark.parametrize('version, numpy, lacks, expected', [
    (NEW, None, ['numpy'],
     'runs on Python 3.8 to 3.14, this is Python 3.15: use an environment with one of these'),
    (OLD, None, [],
     'runs on Python 3.8 to 3.14, this is Python 3.7: use an environment with one of these'),
    (None, '3.0.1', [],
     "runs on NumPy 1.19 to 2, found NumPy 3.0.1: run pip install 'numpy>=1.19,<3'"),
    (None, '1.18.5', [],
     "runs on NumPy 1.19 to 2, found NumPy 1.18.5: run pip install 'numpy>=1.19,<3'"),
    (None, None, ['numpy'], "needs NumPy: run pip install 'numpy>=1.19,<3'"),
    ((3, 13), None, ['mxnet'], 'needs MXNet: run pip install --no-deps mxnet==1.9.1'),
    ((3, 12), None, ['mxnet'], 'needs MXNet: run pip install mxnet==1.9.1'),
    ((3, 12), None, ['distutils'], 'needs distutils for MXNet, but Python 3.12 has none and '
     'setuptools is missing: run pip install setuptools'),
    (None, None, ['libgomp.so.1'],
     'needs libgomp.so.1 for MXNet: run apt install libgomp1 (Fedora: dnf install libgomp)'),
    pytest.param(None, None, ['libgomp.so.1', 'libquadmath.so.0'],
                 'needs libgomp.so.1 and libquadmath.so.0 for MXNet: run apt install libgomp1 '
                 'libquadmath0 (Fedora: dnf install libgomp libquadmath)',
                 marks=pytest.mark.skipif(platform.machine() != 'x86_64', reason='x86-64 only')),
])
def test_says_in_one_line_what_to_do(monkeypatch, version, numpy, lacks, expected):
    def load(name):
        if name in lacks:
            raise OSError
        return LOAD(name)
    monkeypatch.setattr(sys, 'version_info', version or sys.version_info)
    monkeypatch.setattr(np, '__version__', numpy or np.__version__)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name not in lacks and FIND(
        name) or None)
    monkeypatch.setattr(compat.ctypes, 'CDLL', load)
    monkeypatch.delitem(sys.modules, 'mxnet')
    with pytest.raises(ImportError) as error:
        compat.check()
    monkeypatch.undo()
    assert str(error.value) == f'center_loss_op {expected}'


@pytest.mark.parametrize('setting, expected', [
    ('sys.modules["numpy"] = None  # as on a Python that it does not run on\n'
     f'sys.version_info = {NEW}', 'runs on Python 3.8 to 3.14, this is Python 3.15'),
    ('''import ctypes
class CDLL(ctypes.CDLL):
    def __init__(self, name, *args, **options):
        if name and name.endswith('libmxnet.so'):
            raise OSError('libx.so: cannot open shared object file')
        super().__init__(name, *args, **options)
ctypes.CDLL = CDLL''', 'cannot load MXNet: libx.so: cannot open shared object file')])
def test_an_import_says_it(child, setting, expected):
    done = child(f'import sys\n{setting}\ntry:\n    import center_loss_op\n'
                 'except ImportError as error:\n    print(error)\n'
                 'assert "mxnet" not in sys.modules')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f'center_loss_op {expected}')


@pytest.mark.parametrize('library, expected', [
    ('libgomp.so.1', ''),
    ('libnone.so.1', 'center_loss_op needs libnone.so.1 for MXNet: run apt install libgomp1 '
                     '(Fedora: dnf install libgomp)\n')])
def test_make_asks_before_it_downloads(tmp_path, library, expected):
    """By the same code, as a program of its own; Python's modules must not be shadowed by ours."""
    text = Path(compat.__file__).read_text(encoding='utf-8')
    (tmp_path / 'compat.py').write_text(text.replace('libgomp.so.1', library), encoding='utf-8')
    done = subprocess.run([sys.executable, '-I', str(tmp_path / 'compat.py')], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    assert (done.returncode, done.stdout) == (bool(expected), expected)


STARTS = '''
import multiprocessing
import mxnet  # as a module that knows nothing of this package
def start(method, depth):
    if depth:
        process = multiprocessing.get_context(method).Process(target=start,
                                                              args=[method, depth - 1])
        process.start()
        process.join()
        assert process.exitcode == 0
    print(mxnet.nd.full(1, depth).asscalar(), flush=True)
'''


@pytest.mark.slow
def test_children_of_children(child, tmp_path):
    (tmp_path / 'starts.py').write_text(STARTS, encoding='utf-8')
    methods = multiprocessing.get_all_start_methods()
    done = child('import sys; sys.path.insert(0, sys.argv[1])\nimport center_loss_op, starts\n'
                 'for method in sys.argv[2:]: starts.start(method, 2)', tmp_path, *methods,
                 timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout == '0.0\n1.0\n2.0\n' * len(methods)


def test_operators_whose_arguments_hold_numbers_of_numpy():
    """NumPy 2 writes them as [0, np.int64(4)], which MXNet cannot read."""
    parts = mx.np.split(mx.np.arange(6), [np.int64(4)])
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5]]
    node = mx.sym.split_v2(mx.sym.Variable('x'), (np.int64(4),))
    parts = node.bind(mx.cpu(), {'x': mx.nd.arange(6)}).forward()
    assert [part.asnumpy().tolist() for part in parts] == [[0, 1, 2, 3], [4, 5]]
    for value, text in [([0, np.int64(4)], '[0, 4]'), ((np.float32(0.1), None), '(0.1, None)'),
                        ([(np.int32(1),)], '[(1,)]'), (np.float64(0.5), '0.5'),
                        ('np.int64', 'np.int64'), (True, 'True'), (None, 'None')]:
        assert compat._attribute(value) == text


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_onnx_mapping():
    onnx = pytest.importorskip('onnx')
    from onnx import mapping
    for name, of_onnx in {'float32': 'FLOAT', 'uint8': 'UINT8', 'float16': 'FLOAT16'}.items():
        number = getattr(onnx.TensorProto, of_onnx)
        assert mapping.NP_TYPE_TO_TENSOR_TYPE[np.dtype(name)] == number
        assert mapping.TENSOR_TYPE_TO_NP_TYPE[number] == np.dtype(name)
