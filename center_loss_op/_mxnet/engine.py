"""Waiting until every queued operator is done, and the threads that run its callbacks, too.

MXNet runs the callbacks of custom operators in threads of its own. Its shutdown stops these threads
while operators are still queued, and waits for the queue after that, so it never ends. Its
preparation of a fork holds Python's lock while it waits for a thread that needs this lock.
"""
import ctypes
import logging
import os
import time

import mxnet as mx
from mxnet.base import _LIB

__all__ = ['wait_for_engine']

logger = logging.getLogger('center_loss_op')


def wait_for_engine():
    """Wait for every queued operator, and for the threads that run callbacks to end.

    MXNet starts new threads when it needs them. An operator that failed is logged, not raised.
    """
    try:
        mx.nd.waitall()
    except mx.MXNetError as error:
        logger.error('a queued operator failed: %s', error)
    # After its callback, a thread still has to free the callback, which needs Python's lock again.
    if not _restart_threads():
        time.sleep(0.01)  # enough, unless the machine is very busy


def _restart_threads():
    """End the threads that run callbacks and start new ones; False if MXNet cannot do that."""
    if os.environ.get('MXNET_ENGINE_TYPE') == 'ThreadedEngine':
        return False  # 7 of 25 processes that did this with the pooled engine crashed at their end
    # MXNet calls these functions in a fork, before it and after it. Called through ctypes, they
    # release Python's lock while they wait.
    try:
        initializer = _LIB['_ZN5mxnet18LibraryInitializer3GetEv']
        stop = _LIB['_ZN5mxnet18LibraryInitializer14atfork_prepareEv']
        start = _LIB['_ZN5mxnet18LibraryInitializer13atfork_parentEv']
    except AttributeError:  # another build of MXNet
        return False
    initializer.restype = ctypes.c_void_p
    this = ctypes.c_void_p(initializer())
    stop(this)
    start(this)
    return True
