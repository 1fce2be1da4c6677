"""The samples that backward passes leave for a CenterTrainer, by the key of their node."""
import itertools
import logging
import threading
import weakref

__all__ = ['LOCK', 'NOTES', 'Notes', 'note', 'ticket']

# Passes without a step that gradient accumulation seldom has, and that it never has: the samples
# are being hoarded.
_MANY, _TOO_MANY = 32, 1000

logger = logging.getLogger('center_loss_op')


class Notes(dict):
    """The samples of one Gatherer: {context: [(ticket, features, classes), ...]}."""


# All three stay when this module is executed again.
LOCK = globals().get('LOCK') or threading.Lock()
# By key. Notes go with their Gatherer: afterwards nobody could read them.
NOTES = globals().get('NOTES', weakref.WeakValueDictionary())
_tickets = globals().get('_tickets') or itertools.count()


def ticket():
    """A number that tells which of two forward passes on one context came first."""
    return next(_tickets)


def note(key, context, order, features, classes):
    """Note the samples of one backward pass on one context, for the Gatherer of `key`.

    Raises
    ------
    RuntimeError
        Nothing gathers for `key`, or it was not asked to for a long time.
    """
    with LOCK:
        notes = NOTES.get(key)
        if notes is None:
            raise RuntimeError(
                'nothing moves the centers of key=%r: create its CenterTrainer before the first '
                'step and keep it, or leave `key` away to let the operator move them' % key)
        notes = notes.setdefault(context, [])
        if len(notes) >= _TOO_MANY:
            raise RuntimeError('%d backward passes of key=%r on %s since the last step of its '
                               'CenterTrainer: call its step() once after each step of the '
                               'optimizer' % (len(notes), key, context))
        notes.append((order, features, classes))
        if len(notes) == _MANY:
            logger.warning('%d backward passes of key=%r on %s, and no step of its CenterTrainer: '
                           'the centers stand still until its step() is called, once after each '
                           'step of the optimizer', _MANY, key, context)
