"""The step in C, which never enters Python: whether it runs is decided here.

If the library in `csrc` was built, MXNet calls its callbacks, and they call Python's for rare and
for wrong cases. If it was not, or with ``CENTER_LOSS_NATIVE=0`` in the environment, MXNet calls
Python's. ``CENTER_LOSS_NATIVE=FILE`` loads another library, for example one with a sanitizer.
"""
import atexit
import ctypes
import os
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from mxnet.base import _LIB, check_call

__all__ = ['VARIABLE', 'library', 'register', 'running', 'switched', 'which']

VARIABLE = 'CENTER_LOSS_NATIVE'

# The library whose callbacks are registered, why there is none, whether nodes are made with it, and
# the ctypes callbacks that MXNet or it calls: C holds no reference. Stays when this module runs
# again.
_state = globals().get('_state') or SimpleNamespace(
    library=None, why_not='not registered', enabled=False, callbacks=[])

_FUNCTIONS = ('init', 'enable', 'creator', 'on_unfollowed', 'on_overlapping', 'on_use', 'claim',
              'release')


def _load():
    """The library and None, or None and why there is none."""
    wish = os.environ.get(VARIABLE, '')
    if wish == '0':
        return None, f'{VARIABLE}=0'
    files = [wish] if wish not in ('', '1') else sorted(map(str, Path(__file__).parent.glob(
        'csrc/native*.so')))
    if not files:
        return None, 'no compiler was there when it was installed'
    try:
        loaded = ctypes.CDLL(files[0])
    except OSError as error:
        return None, str(error)
    if not all(hasattr(loaded, 'center_loss_' + name) for name in _FUNCTIONS):
        return None, f'{files[0]} is of another version: install again'
    return loaded, None


def _address(function):
    return ctypes.cast(function, ctypes.c_void_p)


def register(op_type, creator, use, **warnings):
    """Register an operator with MXNet.

    Parameters
    ----------
    op_type : str
    creator : ctypes function
        Makes Python's callbacks for a node.
    use : callable
        Called, with no argument, when a node is made in C.
    unfollowed, overlapping : tuple of callable and int
        A function without arguments that logs a warning, and how many passes in a row of equal
        arguments are too many: training forwards in C without a backward pass, and updates of
        centers that another update has moved since the forward pass.
    """
    _state.callbacks.append(creator)
    _state.library, _state.why_not = _load()
    if _state.library is None:
        check_call(_LIB.MXCustomOpRegister(op_type.encode(), creator))
        return
    _call_back('use', ctypes.CFUNCTYPE(None)(use))
    for name, (function, limit) in warnings.items():
        _call_back(name, ctypes.CFUNCTYPE(None)(function), limit)
    _state.library.center_loss_init(_address(_LIB.MXNDArrayGetData), _address(_LIB.MXNDArrayFree),
                                    _address(creator))
    _switch(True)
    check_call(_LIB.MXCustomOpRegister(op_type.encode(),
                                       _address(_state.library.center_loss_creator)))


def _call_back(name, function, limit=0):
    """Have C call a ctypes function until the end of the process, when Python is gone."""
    tell = getattr(_state.library, f'center_loss_on_{name}')
    _state.callbacks.append(function)
    tell(function, limit)
    atexit.register(tell, None, 0)


def _switch(on):
    _state.enabled = on
    _state.library.center_loss_enable(on)


def library():
    """The library whose callbacks are registered, or None."""
    return _state.library


def running():
    """Whether the usual step of a node that is made now runs natively."""
    return _state.enabled


def which():
    """The way that a step runs, for a report: one line."""
    if _state.library is None:
        return f'Python ({_state.why_not})'
    return f'C ({_state.library._name})' if _state.enabled else 'Python (switched off)'


@contextmanager
def switched(on):
    """Nodes made in this context run natively, or in Python: for tests and benchmarks.

    Raises
    ------
    RuntimeError
        There is no library to switch on.
    """
    if on and _state.library is None:
        raise RuntimeError(f'a step cannot run natively: {_state.why_not}')
    before = _state.enabled
    if on != before:
        _switch(on)
    try:
        yield
    finally:
        if on != before:
            _switch(before)
