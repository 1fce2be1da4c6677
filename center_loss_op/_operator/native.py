"""Whether a step runs in C: if the library in `csrc` was built, whose callbacks MXNet then calls.

``CENTER_LOSS_NATIVE=0`` in the environment switches it off, ``CENTER_LOSS_NATIVE=FILE`` loads
another library, for example one with a sanitizer.
"""
import atexit
import ctypes
import os
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from mxnet.base import _LIB, check_call

# The library whose callbacks are registered, why there is none, whether nodes are made with it, and
# the ctypes callbacks that MXNet or it calls: C holds no reference. Stays when this module runs
# again.
_state = globals().get('_state') or SimpleNamespace(
    library=None, why_not='not registered', enabled=False, callbacks=[])


def _load():
    """The library and None, or None and why there is none."""
    wish = os.environ.get('CENTER_LOSS_NATIVE', '')
    if wish == '0':
        return None, 'CENTER_LOSS_NATIVE=0'
    files = [wish] if wish not in ('', '1') else sorted(map(str, Path(__file__).parent.glob(
        'csrc/native*.so')))
    if not files:
        return None, 'no compiler was there when it was installed'
    try:
        loaded = ctypes.CDLL(files[0])
    except OSError as error:
        return None, str(error)
    if not hasattr(loaded, 'center_loss_init_4'):
        return None, f'{files[0]} is of another version: install again'
    return loaded, None


def register(op_type, creator, use, bad_label, *warnings):
    """Register an operator with MXNet.

    `creator`, a ctypes function, makes Python's callbacks for a node. C calls the others: `use`
    when it makes a node, `bad_label` with the labels of a batch, `warnings` as in step.h.
    """
    told = ctypes.CFUNCTYPE(None)
    told_of_labels = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int] * 4, ctypes.c_double)
    callbacks = [creator, told(use), told_of_labels(bad_label), *map(told, warnings)]
    _state.callbacks += callbacks
    _state.library, _state.why_not = _load()
    if _state.library is not None:
        _state.library.center_loss_init_4(_LIB.MXNDArrayGetData, _LIB.MXNDArrayFree, *callbacks)
        atexit.register(_state.library.center_loss_be_silent)
        _switch(True)
        creator = _state.library.center_loss_creator
    check_call(_LIB.MXCustomOpRegister(op_type.encode(), creator))


def _switch(on):
    if _state.library is not None:
        _state.enabled = on
        _state.library.center_loss_enable(on)


def library():
    """The library whose callbacks are registered, or None."""
    return _state.library


def running():
    """Whether the usual step of a node that is made now runs in C."""
    return _state.enabled


def which():
    """The way that a step runs, for a report: one line."""
    if _state.library is None:
        return f'Python ({_state.why_not})'
    return f'C ({_state.library._name})' if _state.enabled else 'Python (switched off)'


@contextmanager
def switched(on):
    """Nodes made in this context run in C, if it is there, or in Python: for tests, benchmarks."""
    before = _state.enabled
    _switch(on)
    try:
        yield
    finally:
        _switch(before)
