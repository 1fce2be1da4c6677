"""The names that MXNet 1.9.1 reads in NumPy, and that NumPy has taken away since its release.

Each gets the value or the behaviour that it had. A name that NumPy has is never touched, and this
package uses none of them.
"""
import types
import warnings

import numpy

__all__ = ['NAMES', 'put_back']


def _renamed(new):
    """NumPy's function of that name, looked up when it is called: not each NumPy has it."""
    def function(*args, **kwargs):
        return getattr(numpy, new)(*args, **kwargs)
    function.__doc__ = 'numpy.%s, under its former name.' % new
    return function


def _in1d(ar1, ar2, assume_unique=False, invert=False):
    """Which elements of `ar1` are in `ar2`, flat: numpy.isin keeps the shape."""
    return numpy.isin(numpy.asarray(ar1).ravel(), ar2, assume_unique, invert)


def _msort(a):
    """A copy, sorted along the first axis."""
    return numpy.sort(a, axis=0)


def _financial(name):
    """What it is in NumPy 1.20 to 1.26: there, so that mx.np can have it, and no more."""
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
    # Useless since NumPy 1.20, gone in 2.0. MXNet copies them to mx.np.
    **{name: _financial(name) for name in ('mirr', 'npv', 'pmt', 'ppmt', 'pv', 'rate')},
}


def put_back():
    """Give NumPy those of `NAMES` that it lacks, and return these names."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # NumPy warns whoever asks for one that it will take away
        lost = [name for name in NAMES if not hasattr(numpy, name)]
    for name in lost:
        setattr(numpy, name, NAMES[name])
    return lost
