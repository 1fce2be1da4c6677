"""What a machine must have before MXNet 1.9.1 can be loaded; nothing of MXNet is loaded to see it.

Before `make` downloads anything, it runs ``python -I center_loss_op/_mxnet/requirements.py``, which
says what is missing.
"""
import ctypes
import importlib.util
import platform
import sys

__all__ = ['LIBRARIES', 'MXNET', 'NUMPYS', 'PACKAGES', 'PYTHONS', 'check', 'lacking']

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


if __name__ == '__main__':
    sys.exit('\n'.join(lacking()) or None)
