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
    # The number is raised with each change of what the library and this module call of each other.
    if not hasattr(loaded, 'center_loss_interface_3'):
        return None, f'{files[0]} is of another version: install again'
    return loaded, None


_Told = ctypes.CFUNCTYPE(None)
_ToldOfLabels = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int] * 4, ctypes.c_double)


def register(op_type, creator, use, bad_label, *warnings):
    """Register an operator with MXNet.

    `creator`, a ctypes function, makes Python's callbacks for a node. C calls the others: `use`
    when it makes a node, `bad_label` with the labels of a batch, `warnings` as in step.h.
    """
    callbacks = [creator, _Told(use), _ToldOfLabels(bad_label), *map(_Told, warnings)]
    _state.callbacks += callbacks
    _state.library, _state.why_not = _load()
    if _state.library is not None:
        _state.library.center_loss_init(_LIB.MXNDArrayGetData, _LIB.MXNDArrayFree, *callbacks)
        atexit.register(_state.library.center_loss_be_silent)
        _switch(True)
        creator = _state.library.center_loss_creator
    check_call(_LIB.MXCustomOpRegister(op_type.encode(), creator))


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
    """Nodes made in this context run natively, or in Python: for tests and benchmarks."""
    before = _state.enabled
    if on != before:
        _switch(on)
    try:
        yield
    finally:
        if on != before:
            _switch(before)
