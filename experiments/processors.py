"""Imported before MXNet: it computes on every processor, not on half of them.

MXNet takes every second processor for a hyperthread of the first and leaves it idle. Where that is
not so, as on most virtual machines, an epoch then takes 1.5 times as long. OMP_NUM_THREADS, if the
user sets it, has the last word.
"""
import os


def _present():
    try:
        return len(os.sched_getaffinity(0))  # a container may have been given a few of them
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _workers():
    """The workers that share this machine, as launch_local.py starts them."""
    local = os.environ.get('DMLC_PS_ROOT_URI') == '127.0.0.1'
    return int(os.environ['DMLC_NUM_WORKER']) if local else 1


os.environ.setdefault('OMP_NUM_THREADS', str(max(1, _present() // _workers())))
