"""What tests of the operator share: its arguments, one entry each, and random batches."""
from typing import Any, NamedTuple, Sequence, Tuple, Type

import numpy as np
from hypothesis import strategies as st


class Case(NamedTuple):
    """What tests know of one argument.

    Attributes
    ----------
    plain : object
        A usual value that is not the default.
    good : sequence of (given, parsed)
        Numbers and texts, and the values that they stand for.
    wanted : str
        What an error says the argument must be.
    bad : sequence of (given, exception)
    usual, extreme : strategy or None
        Values for random steps: those for which the oracle is right within the tolerance, and
        those for which all arithmetics agree. None: the step does not depend on it.
    """
    plain: Any
    good: Sequence[Tuple[Any, Any]]
    wanted: str = ''
    bad: Sequence[Tuple[Any, Type[Exception]]] = ()
    usual: Any = None
    extreme: Any = None


_NUMBER, _FLAG = 'a finite number >= 0', 'True or False'
_USUAL_NUMBERS = st.just(0.0) | st.floats(1e-6, 4)

# A new argument needs an entry here; test_arguments.py says where else.
ARGUMENTS = {
    'num_class': Case(
        7, [(1, 1), ('10', 10), (np.int64(3), 3)], 'a positive integer',
        [(0, ValueError), (-3, ValueError), ('0', ValueError), ('', ValueError),
         ('ten', ValueError), ('2.5', ValueError), (2.0, TypeError), (True, TypeError),
         (None, TypeError), ([3], TypeError)],
        usual=st.integers(1, 9), extreme=st.sampled_from([1, 2, 5, 300])),
    'alpha': Case(
        .25, [(0, 0.0), ('0.5', 0.5), (1e30, 1e30), (np.float32(.5), .5)], _NUMBER,
        [(-0.1, ValueError), (float('nan'), ValueError), (float('inf'), ValueError),
         ('nan', ValueError), ('1e999', ValueError), ('fast', ValueError), (True, TypeError),
         (None, TypeError), (1j, TypeError)],
        usual=_USUAL_NUMBERS, extreme=st.sampled_from([0, .5, 1e-3, 1.9, 1e13, 1e300])),
    'scale': Case(
        .25, [('0', 0.0), (3, 3.0), ('1e-3', 1e-3)], _NUMBER,
        [(-1, ValueError), ('-1', ValueError), ('inf', ValueError), ((1,), TypeError)],
        usual=_USUAL_NUMBERS, extreme=st.sampled_from([0, 1, .1, 1e-320])),
    'reduction': Case(
        'sum', [('sum', 'sum'), ('none', 'none'), ('mean', 'mean')], 'one of mean, sum, none',
        [('avg', ValueError), ('', ValueError), ('Mean', ValueError), (None, TypeError),
         (0, TypeError)],
        usual=st.sampled_from(['mean', 'sum', 'none']),
        extreme=st.sampled_from(['mean', 'sum', 'none'])),
    'use_ignore': Case(
        True, [(True, True), ('True', True), ('true', True), ('1', True), ('False', False),
               ('0', False), (np.bool_(True), True)], _FLAG,
        [('maybe', ValueError), (1, TypeError), (None, TypeError), ('2', ValueError)],
        usual=st.booleans(), extreme=st.booleans()),
    'ignore_label': Case(
        255, [(-1, -1.0), ('255', 255.0), (0.5, 0.5)], 'a finite number',
        [('nan', ValueError), ('inf', ValueError), ('none', ValueError), (None, TypeError)],
        usual=st.sampled_from([-1, 0, 255, .5]),
        extreme=st.sampled_from([-1, 0, .5, 255, 1e300, 0.1])),
    'need_top_grad': Case(
        True, [('False', False), (True, True)], _FLAG,
        [('yes', ValueError), (0.0, TypeError)],
        usual=st.booleans(), extreme=st.booleans()),
    'scale_output': Case(
        True, [('1', True), (False, False)], _FLAG, [('yes', ValueError), (2, TypeError)],
        usual=st.booleans(), extreme=st.booleans()),
    'key': Case('faces', [('', ''), ('faces', 'faces')], 'a string', [(3, TypeError)]),
    'batchsize': Case(64, [('128', None), (128, None), ('anything', None)]),
}
# argument, given, parsed
GOOD = [(name, *pair) for name, case in ARGUMENTS.items() for pair in case.good]
# argument, given, what it must be, the exception
BAD = [(name, given, case.wanted, error)
       for name, case in ARGUMENTS.items() for given, error in case.bad]
# The same from Python, where a text is no number and no flag.
_TEXTS = 'reduction', 'key', 'batchsize'
BAD_IN_PYTHON = [
    (name, given, wanted,
     TypeError if isinstance(given, str) and name not in _TEXTS else error)
    for name, given, wanted, error in BAD] + [
    (name, given, ARGUMENTS[name].wanted, TypeError) for name, given, _ in GOOD
    if isinstance(given, str) and name not in _TEXTS]


def message(name, value, wanted):
    """The text of the error for a bad argument."""
    return '%s must be %s, got %r' % (name, wanted, value)


def random_arguments(kind):
    """A strategy for all arguments that a step depends on, of a kind: 'usual' or 'extreme'."""
    values = {name: getattr(case, kind) for name, case in ARGUMENTS.items()}
    return st.fixed_dictionaries({name: each for name, each in values.items() if each is not None})


def centers_dtype(dtype):
    """The dtype of the centers of features of `dtype`."""
    return np.float64 if dtype == 'float64' else np.float32


def batch(samples, size, classes, dtype='float32', seed=0, used=None):
    """Random features, labels (of the first `used` classes) and centers."""
    random = np.random.RandomState(seed)
    return (random.randn(samples, size).astype(dtype),
            random.randint(0, used or classes, samples).astype('float32'),
            random.randn(classes, size).astype(centers_dtype(dtype)))
