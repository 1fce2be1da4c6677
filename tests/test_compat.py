"""Importing the package where MXNet needs help, and where nothing can help it."""
import sys

import pytest

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
'''


@pytest.mark.parametrize('first, second', [('center_loss_op', 'mxnet'),
                                           ('mxnet', 'center_loss_op')])
def test_imports_in_both_orders(child, first, second):
    if first == 'mxnet' and sys.version_info >= (3, 12):
        pytest.skip('on Python 3.12 mxnet alone cannot be imported')
    done = child('import %s, %s\n'
                 'import mxnet as mx\n'
                 'x, y, c = mx.nd.array([[3, 4]]), mx.nd.array([1]), mx.nd.zeros((2, 2))\n'
                 'print(mx.nd.Custom(x, y, c, op_type="centerloss", num_class=2).asscalar())'
                 % (first, second))
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 12.5


def test_lends_numpy_the_names_that_mxnet_reads(child):
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
numpy.bool, numpy.int = 'mine', 'mine'
from center_loss_op import _compat
print(_compat.LENT, numpy.bool, numpy.int)
''' if sys.version_info < (3, 12) else '''
import numpy
numpy.bool, numpy.int = bool, 'mine'
from center_loss_op import _compat
print(_compat.LENT, 'mine' if numpy.bool is bool else 'lost', numpy.int)
''')
    assert done.returncode == 0, done.stderr
    assert done.stdout == '[] mine mine\n'


def test_recovers_from_a_failed_import_of_mxnet(child):
    done = child(NUMPY_WITHOUT_ALIASES + '''
try:
    import mxnet
except AttributeError:
    print('failed')
import center_loss_op, mxnet
print(mxnet.nd.ones(2).sum().asscalar())
''')
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'failed\n2.0\n'


@pytest.mark.parametrize('setting, texts', [
    ('sys.version_info = (3, 13, 0, "final", 0)', ['Python 3.8 to 3.12', 'Python 3.13']),
    ('sys.version_info = (3, 7, 9, "final", 0)', ['Python 3.8 to 3.12', 'Python 3.7']),
    ('import numpy; numpy.__version__ = "2.1.0"', ['NumPy 2.1.0', "pip install 'numpy<2'"]),
    ('import importlib.util as u; find = u.find_spec; '
     'u.find_spec = lambda name, package=None: name != "distutils" and find(name) or None',
     ['distutils', 'pip install setuptools']),
])
def test_says_in_one_line_what_to_do_where_mxnet_cannot_run(child, setting, texts):
    done = child('import sys; %s\ntry:\n    import center_loss_op\nexcept ImportError as error:\n'
                 '    print(error)\nassert "mxnet" not in sys.modules' % setting)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('\n') == 1
    for text in texts:
        assert text in done.stdout
