"""Importing MXNet where NumPy, ONNX or Python are newer than it, and where nothing can help it."""
import ast
import collections
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path

from center_loss_op._mxnet import compat

import mxnet as mx
import numpy as np
import pytest

IN_1D = np.array([[1, 2], [3, 1]]), [1, 5, 3]
UNSORTED = np.array([[3., 1.], [2., 4.]])

# Calls whose results a reader can check by hand.
CALLS = [
    ('alltrue', ([[1, 1], [1, 0]],), {'axis': 0}, [True, False]),
    ('sometrue', ([[1, 0], [0, 0]],), {'axis': 1}, [True, False]),
    ('product', ([2, 3, 4],), {}, 24),
    ('round_', ([1.25, 2.75],), {'decimals': 1}, [1.2, 2.8]),
    ('msort', (UNSORTED,), {}, [[2, 1], [3, 4]]),
    ('in1d', IN_1D, {}, [True, False, True, True]),
    ('in1d', IN_1D, {'invert': True}, [False, True, False, False]),
    ('trapz', ([1, 2, 4],), {'dx': 2}, 9),
]
VALUES = [
    ('bool', bool), ('int', int), ('Inf', math.inf), ('PINF', math.inf), ('NINF', -math.inf),
    ('NaN', math.nan), ('NAN', math.nan), ('PZERO', 0.0), ('NZERO', -0.0),
]
FINANCIAL = 'mirr', 'npv', 'pmt', 'ppmt', 'pv', 'rate'

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


def numpys_own(name):
    """NumPy's own attribute, or None where it has none or was given ours."""
    if name in compat.RESTORED:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return getattr(np, name)


@pytest.mark.parametrize('name, args, options, expected', CALLS)
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_functions_do_what_they_did(name, args, options, expected):
    for function in compat.NAMES[name], numpys_own(name):
        if function is compat.NAMES['trapz'] and not hasattr(np, 'trapezoid'):
            continue  # not needed here: NumPy has trapz
        if function is not None:
            result = np.asarray(function(*args, **options))
            assert result.tolist() == expected
    if name == 'msort':
        assert UNSORTED[0, 0] == 3  # a copy was sorted


@pytest.mark.parametrize('name, expected', VALUES)
def test_values_are_what_they_were(name, expected):
    value, own = compat.NAMES[name], numpys_own(name)
    assert type(value) is type(expected) and repr(value) == repr(expected)
    # From 2.0 on `bool` is NumPy's own.
    assert own is None or repr(own) == repr(expected) or own is np.bool_


@pytest.mark.parametrize('name', FINANCIAL)
def test_financial_functions_are_there_and_say_where_they_went(name):
    with pytest.raises(RuntimeError, match='%s.*numpy-financial' % name):
        compat.NAMES[name](1, 2)


def test_numpy_has_each_name_that_mxnet_reads():
    """What stands behind a dot after NumPy in MXNet's source, or behind `getattr` in its list."""
    read = collections.defaultdict(set)
    folder = Path(mx.__file__).parent
    for path in folder.rglob('*.py'):
        tree = parsed(path)
        numpy_here = {alias.asname or alias.name for node in ast.walk(tree)
                      if isinstance(node, ast.Import)
                      for alias in node.names if alias.name == 'numpy'}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                names = []
                while isinstance(node, ast.Attribute):
                    names.append(node.attr)
                    node = node.value
                if isinstance(node, ast.Name) and node.id in numpy_here:
                    read['.'.join(reversed(names))].add(str(path.relative_to(folder)))
    assert len(read) > 200 and 'compat.basestring' in read
    for name in mx.numpy_dispatch_protocol._NUMPY_ARRAY_FUNCTION_LIST:
        read[name].add('numpy_dispatch_protocol.py')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        missing = {name: files for name, files in read.items() if not has(np, name)}
    assert not missing


def parsed(path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of escapes in MXNet's strings
        return ast.parse(path.read_text(encoding='utf-8'))


def has(found, names):
    for name in names.split('.'):
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


@pytest.mark.parametrize('first, second', [('center_loss_op', 'mxnet'),
                                           ('mxnet', 'center_loss_op')])
def test_imports_in_both_orders(child, first, second):
    if first == 'mxnet' and compat.RESTORED:
        pytest.skip('with NumPy %s mxnet alone cannot be imported' % np.__version__)
    done = child('import %s, %s\n'
                 'import mxnet as mx\n'
                 'x, y, c = mx.nd.array([[3, 4]]), mx.nd.array([1]), mx.nd.zeros((2, 2))\n'
                 'print(mx.nd.Custom(x, y, c, op_type="centerloss", num_class=2).asscalar())'
                 % (first, second))
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 12.5


@pytest.mark.skipif(np.__version__ >= '2', reason='NumPy has a bool of its own again')
def test_lends_numpy_the_names_that_it_lacks(child):
    done = child(NUMPY_WITHOUT_ALIASES + '''
before = set(vars(numpy))
import center_loss_op
new = set(vars(numpy)) - before
print(sorted(name for name in new if not hasattr(vars(numpy)[name], '__path__')))  # no modules
assert numpy.bool is bool and numpy.int is int
assert 'mxnet' in sys.modules
''')
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['bool', 'int']\n"


def test_touches_no_numpy_that_has_them(child):
    done = child('''
import numpy
from center_loss_op._mxnet.compat import NAMES, restore
for name in NAMES:
    setattr(numpy, name, 'mine')
print(restore(), {getattr(numpy, name) for name in NAMES})
''')
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[] {'mine'}\n"


def test_recovers_from_a_failed_import_of_mxnet(child):
    done = child(('' if compat.RESTORED else NUMPY_WITHOUT_ALIASES) + '''
try:
    import mxnet
except AttributeError:
    print('failed')
import center_loss_op, mxnet
print(mxnet.nd.ones(2).sum().asscalar())
''')
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'failed\n2.0\n'


# NumPy is imported first, for packages of others look at the version too.
WITHOUT = ('import numpy; import importlib.util as u; find = u.find_spec; '
           'u.find_spec = lambda name, package=None: name != %r and find(name) or None')
WITHOUT_LIBRARIES = '''import ctypes
class CDLL(ctypes.CDLL):
    def __init__(self, name, *args, **options):
        if name in %r:
            raise OSError(name + ": cannot open shared object file: No such file or directory")
        super().__init__(name, *args, **options)
ctypes.CDLL = CDLL'''
X86_64 = pytest.mark.skipif(platform.machine() != 'x86_64', reason='libquadmath is of x86-64')


@pytest.mark.parametrize('setting, expected', [
    ('sys.modules["numpy"] = None  # as on a Python that it does not run on\n'
     'sys.version_info = (3, 15, 0, "final", 0)',
     'runs on Python 3.8 to 3.14, this is Python 3.15: use an environment with one of these'),
    ('sys.version_info = (3, 7, 9, "final", 0)',
     'runs on Python 3.8 to 3.14, this is Python 3.7: use an environment with one of these'),
    ('import numpy; numpy.__version__ = "3.0.1"',
     "runs on NumPy 1.19 to 2, found NumPy 3.0.1: run pip install 'numpy>=1.19,<3'"),
    ('import numpy; numpy.__version__ = "1.18.5"',
     "runs on NumPy 1.19 to 2, found NumPy 1.18.5: run pip install 'numpy>=1.19,<3'"),
    (WITHOUT % 'numpy', "needs NumPy: run pip install 'numpy>=1.19,<3'"),
    (WITHOUT % 'mxnet' + '\nsys.version_info = (3, 13, 0, "final", 0)',
     'needs MXNet: run pip install --no-deps mxnet==1.9.1'),
    (WITHOUT % 'mxnet' + '\nsys.version_info = (3, 12, 0, "final", 0)',
     'needs MXNet: run pip install mxnet==1.9.1'),
    (WITHOUT % 'distutils' + '\nsys.version_info = (3, 12, 0, "final", 0)',
     'needs distutils for MXNet, but Python 3.12 has none and setuptools is missing: '
     'run pip install setuptools'),
    (WITHOUT_LIBRARIES % ('libgomp.so.1',),
     'needs libgomp.so.1 for MXNet: run apt install libgomp1 (Fedora: dnf install libgomp)'),
    pytest.param(WITHOUT_LIBRARIES % (('libgomp.so.1', 'libquadmath.so.0'),),
                 'needs libgomp.so.1 and libquadmath.so.0 for MXNet: run apt install libgomp1 '
                 'libquadmath0 (Fedora: dnf install libgomp libquadmath)', marks=X86_64),
    (WITHOUT_LIBRARIES % ([os.path.join(os.path.dirname(mx.__file__), 'libmxnet.so')],),
     'cannot load MXNet: %s: cannot open shared object file: No such file or directory'
     % os.path.join(os.path.dirname(mx.__file__), 'libmxnet.so')),
])
def test_says_in_one_line_what_to_do_where_mxnet_cannot_run(child, setting, expected):
    done = child('import sys\n%s\ntry:\n    import center_loss_op\nexcept ImportError as error:\n'
                 '    print(error)\nassert "mxnet" not in sys.modules' % setting)
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'center_loss_op %s\n' % expected


@pytest.mark.parametrize('lacking', [False, True])
def test_make_asks_before_it_downloads(tmp_path, lacking):
    """By the same code, as a program of its own; Python's modules must not be shadowed by ours."""
    script = Path(compat.__file__)
    if lacking:
        script = tmp_path / script.name
        script.write_text(Path(compat.__file__).read_text(encoding='utf-8').replace(
            "'libgomp.so.1'", "'libnone.so.1'"), encoding='utf-8')
    done = subprocess.run([sys.executable, '-I', str(script)], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    if lacking:
        assert done.returncode == 1
        assert done.stdout == ('center_loss_op needs libnone.so.1 for MXNet: run apt install '
                               'libgomp1 (Fedora: dnf install libgomp)\n')
    else:
        assert (done.returncode, done.stdout) == (0, '')


DATA_LOADER = '''
import multiprocessing, sys
import center_loss_op, mxnet as mx, numpy as np
if sys.argv[1:]:
    multiprocessing.set_start_method(sys.argv[1])
images = mx.gluon.data.ArrayDataset(np.ones((12, 2), np.float32), np.arange(12))
for data, label in mx.gluon.data.DataLoader(images, batch_size=4, num_workers=1):
    print(data.sum().asscalar(), label.sum().asscalar())
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(1) as pool:
    print(pool.submit(mx.nd.array, [7]).result().asscalar())
'''


@pytest.mark.slow
@pytest.mark.parametrize('method', ['default', *multiprocessing.get_all_start_methods()])
def test_workers_import_mxnet_however_they_start(child, method):
    done = child(DATA_LOADER, *[method][:method != 'default'], timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout == '8.0 6\n8.0 22\n8.0 38\n7.0\n'


@pytest.mark.slow
def test_children_of_children(child, tmp_path):
    (tmp_path / 'starts.py').write_text('''
import multiprocessing
import mxnet  # as a module that knows nothing of this package
def start(depth):
    if depth:
        process = multiprocessing.get_context('spawn').Process(target=start, args=[depth - 1])
        process.start()
        process.join()
        assert process.exitcode == 0
    print(depth, flush=True)
''', encoding='utf-8')
    done = child('import sys; sys.path.insert(0, sys.argv[1])\n'
                 'import center_loss_op, starts\nstarts.start(2)', tmp_path, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout == '0\n1\n2\n'


def test_operators_whose_arguments_hold_numbers_of_numpy():
    """NumPy 2 writes them as [0, np.int64(4)], which MXNet cannot read."""
    parts = mx.np.split(mx.np.arange(6), [np.int64(4)])
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5]]
    assert mx.np.sum(mx.np.ones((2, 3)), axis=(np.int64(1),)).tolist() == [3, 3]
    assert mx.nd.ones((np.int64(2), np.int32(3))).shape == (2, 3)
    node = mx.sym.split_v2(mx.sym.Variable('x'), (np.int64(4),))
    parts = node.bind(mx.cpu(), {'x': mx.nd.arange(6)}).forward()
    assert [part.asnumpy().tolist() for part in parts] == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize('value, text', [
    ([0, 4], '[0, 4]'), ([0, np.int64(4)], '[0, 4]'), ((np.float32(0.1), None), '(0.1, None)'),
    ([(np.int32(1),)], '[(1,)]'), (np.float64(0.5), '0.5'), ('np.int64', 'np.int64'),
    (True, 'True'), (None, 'None'),
])
def test_attributes_are_written_as_before_numpy_2(value, text):
    assert (compat._attribute if np.__version__ >= '2' else str)(value) == text


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_onnx_mapping():
    onnx = pytest.importorskip('onnx')
    from onnx import mapping
    pairs = {'float32': 1, 'uint8': 2, 'int8': 3, 'int32': 6, 'int64': 7, 'bool': 9,
             'float16': 10, 'float64': 11}
    for name, number in pairs.items():
        assert getattr(onnx.TensorProto, {'float32': 'FLOAT', 'float64': 'DOUBLE'}.get(
            name, name.upper())) == number
        assert mapping.NP_TYPE_TO_TENSOR_TYPE[np.dtype(name)] == number
        assert mapping.TENSOR_TYPE_TO_NP_TYPE[number] == np.dtype(name)
