"""The samples that backward passes leave for a CenterTrainer, by the key of their node."""
import itertools
import logging
import threading
import weakref

__all__ = ['LOCK', 'RECORDED', 'Recorded', 'next_forward_number', 'record']

# Backward passes between two steps of a CenterTrainer. So many are rare even with gradient
# accumulation: warn. So many never happen in training: samples pile up in memory, so raise.
_MANY, _TOO_MANY = 32, 1000

logger = logging.getLogger('center_loss_op')


class Recorded(dict):
    """The samples of one Gatherer: {context: [(forward number, features, classes), ...]}."""


LOCK = threading.Lock()
# By key. Samples are freed with their Gatherer, because no other object can read them.
RECORDED = weakref.WeakValueDictionary()
_forward_numbers = itertools.count()


def next_forward_number():
    """A number that tells which of two forward passes on one context came first."""
    return next(_forward_numbers)


def record(key, context, forward_number, features, classes):
    """Record the samples of one backward pass on one context, for the Gatherer of `key`.

    Raises
    ------
    RuntimeError
        There is no Gatherer of `key`, or its step was not called for a long time.
    """
    with LOCK:
        recorded = RECORDED.get(key)
        if recorded is None:
            raise RuntimeError(
                'nothing moves the centers of key=%r: create its CenterTrainer before the first '
                'step and keep it, or leave `key` away to let the operator move them' % key)
        passes = recorded.setdefault(context, [])
        if len(passes) >= _TOO_MANY:
            raise RuntimeError(f'{len(passes)} backward passes of key={key!r} on {context} since '
                               'the last step of its CenterTrainer: call its step() once after '
                               'each step of the optimizer')
        passes.append((forward_number, features, classes))
        if len(passes) == _MANY:
            logger.warning('%d backward passes of key=%r on %s, and no step of its CenterTrainer: '
                           'the centers stand still until its step() is called, once after each '
                           'step of the optimizer', _MANY, key, context)
