"""The names that MXNet 1.9.1 reads in NumPy, and that NumPy has removed since MXNet's release.

Each gets the value or the behaviour that it had. A name that NumPy has is never changed, and this
package uses none of them.
"""
import types
import warnings

import numpy

__all__ = ['NAMES', 'RESTORED', 'install', 'restore']


def _renamed(new):
    """The function `numpy.<new>`, looked up when it is called: not every NumPy has it."""
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


# The names that this process lacked. The list stays when this module is executed again.
RESTORED = globals().get('RESTORED', [])


def restore():
    """Give NumPy those of `NAMES` that it lacks, and return these names."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # NumPy warns about names that it is going to remove
        missing = [name for name in NAMES if not hasattr(numpy, name)]
    for name in missing:
        setattr(numpy, name, NAMES[name])
    RESTORED.extend(missing)
    return missing


def install():
    """Restore the names; None if NumPy has all of them."""
    restore()
    return ', '.join(RESTORED) or None
