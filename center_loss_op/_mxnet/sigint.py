"""Ctrl-C that comes where Python would drop it, or MXNet crash, is held back until it can be raised.

MXNet calls a custom operator's Python callbacks in the midst of `mx.nd.Custom`. An exception that
is raised there, be it only by Ctrl-C, is dropped, and MXNet goes on with pointers that nobody
has set: one interrupt in six to seventeen crashed a tight eager loop, with an empty operator, too.
What is raised in `__del__`, which runs each time that an array goes away, is dropped by Python.
And where `autograd.record()` begins or ends, an interrupt left recording switched on for good.
"""
import signal
import sys
import threading
from _signal import getsignal  # signal's own takes 5 us: it looks for a name of the handler

from mxnet import autograd, operator

__all__ = ['defer_sigint']

_CALLBACKS, _RECORDING = operator.__file__, autograd.__file__


def _is_bad_moment(frame):
    while frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        if (name == '__del__' or file == _CALLBACKS
                or name in ('__enter__', '__exit__') and file == _RECORDING):
            return True
        frame = frame.f_back
    return False


class _Handler:  # pylint: disable=too-few-public-methods
    """A handler of SIGINT: that of before, as soon as what it raises does no harm."""

    def __init__(self, before):
        self.before = before

    def __call__(self, signum, frame):
        if not _is_bad_moment(frame):
            self.before(signum, frame)
            return
        profile = sys.getprofile()

        def watch(frame, event, arg):  # pylint: disable=unused-argument
            if not _is_bad_moment(frame):
                # A profiler in C cannot be set again from here; it has seen the last of it.
                sys.setprofile(profile if callable(profile) else None)
                self.before(signum, frame)
        # Called when this thread enters or leaves a function; what it raises is raised there.
        sys.setprofile(watch)


def defer_sigint():
    """Have the handler of Ctrl-C wait while what it raises would be dropped, or do harm.

    To be called often: it costs nothing where it is done already. A notebook sets the handler
    anew for each cell.
    """
    before = getsignal(signal.SIGINT)
    if isinstance(before, _Handler) or not callable(before):
        return
    if threading.current_thread() is threading.main_thread():  # others must not set it
        signal.signal(signal.SIGINT, _Handler(before))


defer_sigint()
