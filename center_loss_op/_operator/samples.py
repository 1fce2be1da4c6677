"""The samples that backward passes leave for a CenterTrainer, by the key of their node."""
import collections
import logging
import threading
import weakref
from typing import Any, Counter

__all__ = ['RECORDED', 'Recorded', 'count_forward', 'record']

# Backward passes between two steps of a CenterTrainer. So many are rare even with gradient
# accumulation: warn. So many never happen in training: samples pile up in memory, so raise.
_MANY, _TOO_MANY = 32, 1000

logger = logging.getLogger('center_loss_op')


class Recorded:
    """The training passes of one Gatherer's key.

    A forward pass that fails on one context, for a bad label, says nothing to the others, whose
    samples are recorded before it or after it. But each context computes the forward passes of
    all steps in order. So if n have succeeded on the context since one failed there, the last n of
    each context are those of the step at hand, and what came before them is of a step that failed.
    """

    def __init__(self):
        # By context: how many forward passes there were,
        self.forwards: Counter[Any] = collections.Counter()
        self.failed = {}                        # the number of the last that failed since the step,
        # and the passes that have had a backward: (number, forwards until then, features, classes)
        self.passes = {}

    def take(self):
        """Forget the passes since the last step: those of steps that did not fail, how many failed.

        Returns
        -------
        dict of Context to list, and int
        """
        with LOCK:
            passes, failed, forwards = self.passes, self.failed, self.forwards.copy()
            self.passes, self.failed = {}, {}
        if not failed:
            return passes, 0
        good = min(forwards[context] - number for context, number in failed.items())
        kept = {context: [one for one in passes[context] if one[0] > forwards[context] - good]
                for context in passes}
        return kept, sum(map(len, passes.values())) - sum(map(len, kept.values()))


# Both stay when this module is executed again.
LOCK = globals().get('LOCK') or threading.Lock()
# By key. Samples are freed with their Gatherer, because no other object can read them.
RECORDED = globals().get('RECORDED', weakref.WeakValueDictionary())


def count_forward(key, context, failed=False):
    """Count a training forward pass, or one that has failed: its number on this context."""
    with LOCK:
        recorded = RECORDED.get(key)
        if recorded is None:
            return 0
        recorded.forwards[context] += 1
        if failed:
            recorded.failed[context] = recorded.forwards[context]
        return recorded.forwards[context]


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
        passes = recorded.passes.setdefault(context, [])
        if len(passes) >= _TOO_MANY:
            raise RuntimeError(f'{len(passes)} backward passes of key={key!r} on {context} since '
                               'the last step of its CenterTrainer: call its step() once after '
                               'each step of the optimizer')
        passes.append((forward_number, recorded.forwards[context], features, classes))
        if len(passes) == _MANY:
            logger.warning('%d backward passes of key=%r on %s, and no step of its CenterTrainer: '
                           'the centers stand still until its step() is called, once after each '
                           'step of the optimizer', _MANY, key, context)
