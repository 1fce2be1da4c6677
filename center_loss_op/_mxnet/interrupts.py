"""An interrupt (Ctrl-C) is deferred while the exception it raises would be lost, or crash MXNet.

An exception in a custom operator's Python callback is dropped, and MXNet goes on with pointers that
nobody has set. Python drops exceptions in `__del__`, which runs each time that an array goes away.
And where `autograd.record()` begins or ends, an exception would leave recording on for good.
"""
import signal
import sys
import threading

# Python's own handler; signal.getsignal takes 5 us, because it looks for a name of the handler.
from _signal import default_int_handler, getsignal

from mxnet import autograd, operator

_CALLBACKS, _RECORDING = operator.__file__, autograd.__file__


def _is_bad_moment(frame):
    while frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        # ctypes drops what defer_sigint raises where C has called it.
        if (name in ('__del__', 'defer_sigint') or file == _CALLBACKS
                or name in ('__enter__', '__exit__') and file == _RECORDING):
            return True
        frame = frame.f_back
    return False


class _Handler:
    """A handler of SIGINT that calls the handler `before` as soon as an exception does no harm."""
    defers_sigint = True

    def __init__(self, before):
        self.before = before

    def __call__(self, signum, frame):
        if not _is_bad_moment(frame):
            self.before(signum, frame)
            return
        profile = sys.getprofile()

        def watch(frame, event, arg):
            if not _is_bad_moment(frame):
                # A profiler in C cannot be set again from Python: it stays off.
                sys.setprofile(profile if callable(profile) else None)
                self.before(signum, frame)
        # Python calls it where the thread enters or leaves a function, and raises what it raises.
        sys.setprofile(watch)


def defer_sigint():
    """Install the handler of SIGINT, if it is needed and not installed.

    Called with every use of center loss, because a notebook sets Python's handler for each cell.
    """
    before = getsignal(signal.SIGINT)
    if getattr(before, 'defers_sigint', False):
        return
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        return  # ignored, or set in C; and Python allows only the main thread to set it
    if before is default_int_handler:
        # asyncio and trio handle SIGINT only if the handler is signal.default_int_handler: it is.
        signal.default_int_handler = _Handler(before)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    elif not _in_event_loop():  # which handles SIGINT itself
        signal.signal(signal.SIGINT, _Handler(before))


def _in_event_loop():
    for module, function in ('asyncio', 'get_running_loop'), ('trio.lowlevel', 'current_task'):
        try:
            getattr(sys.modules[module], function)()
            return True
        except (KeyError, RuntimeError):  # not imported, no loop
            pass
    return False
