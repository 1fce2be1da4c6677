"""A step that never enters Python: which way it runs is decided here.

Where the callbacks in `csrc` were built, MXNet calls those, and they call Python's for what is
rare or wrong. Where they were not, or with ``CENTER_LOSS_NATIVE=0`` in the environment, MXNet
calls Python's. ``CENTER_LOSS_NATIVE=FILE`` takes another library: one with a sanitizer in it.
"""
import atexit
import ctypes
import os
from contextlib import contextmanager
from pathlib import Path

from mxnet.base import _LIB, check_call

__all__ = ['VARIABLE', 'library', 'register', 'running', 'switched', 'which']

VARIABLE = 'CENTER_LOSS_NATIVE'

_library = None     # the callbacks that are registered
_warnings = []      # the functions that they call; referenced here because C holds no reference
_enabled = False
_why_not = 'not registered'

_FUNCTIONS = ('init', 'enable', 'creator', 'on_unfollowed', 'on_overlapping', 'claim',
              'release')


def _load():
    """The library, or None; and why not."""
    wish = os.environ.get(VARIABLE, '')
    if wish == '0':
        return None, '%s=0' % VARIABLE
    files = [wish] if wish not in ('', '1') else sorted(map(str, Path(__file__).parent.glob(
        'csrc/native*.so')))
    if not files:
        return None, 'no compiler was there when it was installed'
    try:
        library = ctypes.CDLL(files[0])
    except OSError as error:
        return None, str(error)
    if not all(hasattr(library, 'center_loss_' + name) for name in _FUNCTIONS):
        return None, '%s is of another version: install again' % files[0]
    return library, None


def _address(function):
    return ctypes.cast(function, ctypes.c_void_p)


def register(op_type, creator, **warnings):
    """Register an operator with MXNet.

    Parameters
    ----------
    op_type : str
    creator : ctypes function
        Makes Python's callbacks for a node.
    unfollowed, overlapping : tuple of callable and int
        A function without arguments that logs a warning, and how many passes in a row of equal
        arguments are too many: native training forwards without a backward pass, and updates of
        centers that another update has moved since the forward pass.
    """
    global _library, _why_not  # pylint: disable=global-statement
    _library, _why_not = _load()
    if _library is None:
        check_call(_LIB.MXCustomOpRegister(op_type.encode(), creator))
        return
    for name, (function, limit) in warnings.items():
        tell = getattr(_library, f'center_loss_on_{name}')
        _warnings.append(ctypes.CFUNCTYPE(None)(function))
        tell(_warnings[-1], limit)
        atexit.register(tell, None, 0)  # C must not call Python after its end
    _library.center_loss_init(_address(_LIB.MXNDArrayGetData), _address(_LIB.MXNDArrayFree),
                              _address(creator))
    _switch(True)
    check_call(_LIB.MXCustomOpRegister(op_type.encode(), _address(_library.center_loss_creator)))


def _switch(on):
    global _enabled  # pylint: disable=global-statement
    _enabled = on
    _library.center_loss_enable(on)


def library():
    """The library whose callbacks are registered, or None."""
    return _library


def running():
    """Whether the usual step of a node that is made now runs natively."""
    return _enabled


def which():
    """The way that a step runs, for a report: one line."""
    if _library is None:
        return 'Python (%s)' % _why_not
    return 'C (%s)' % _library._name if _enabled else 'Python (switched off)'


@contextmanager
def switched(on):
    """Nodes made in this context run natively, or in Python: for tests and benchmarks.

    Raises
    ------
    RuntimeError
        There is no library to switch on.
    """
    if on and _library is None:
        raise RuntimeError('a step cannot run natively: %s' % _why_not)
    before = _enabled
    if on != before:
        _switch(on)
    try:
        yield
    finally:
        if on != before:
            _switch(before)
