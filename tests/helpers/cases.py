"""What tests of the operator share: its arguments, one entry each, and random batches."""
from fractions import Fraction
from typing import Any, NamedTuple, Sequence, Tuple, Type

import numpy as np
from hypothesis import strategies as st


class Case(NamedTuple):
    """What tests know of one argument: a usual value that is not the default; numbers and texts,
    and the values that they stand for; what an error says that it must be; bad values, and their
    exceptions; and strategies for random steps: values for which the oracle is right within the
    tolerance, and those for which all arithmetics agree (None if the step does not depend on it).
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
         (None, TypeError), (1j, TypeError), (10 ** 400, ValueError)],
        usual=_USUAL_NUMBERS, extreme=st.sampled_from([0, .5, 1e-3, 1.9, 1e13, 1e300])),
    'scale': Case(
        .25, [('0', 0.0), (3, 3.0), ('1e-3', 1e-3)], _NUMBER,
        [(-1, ValueError), ('-1', ValueError), ('inf', ValueError), ((1,), TypeError),
         (Fraction(10 ** 400), ValueError)],
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
        [('nan', ValueError), ('inf', ValueError), ('none', ValueError), (None, TypeError),
         (-10 ** 400, ValueError)],
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


# -- random steps

_BAD_LABELS = [-1, .5, np.nan, np.inf, -np.inf, -2. ** 31, 2. ** 31 - 1, 2. ** 62, 2. ** 63, 1e30]


@st.composite
def random_steps(draw, kind='usual', dtypes=('float16', 'float32', 'float64'), label_types=(
        'float32', 'float64', 'int32', 'int64', 'float16', 'uint8', 'int8')):
    """Features, labels, centers and arguments: most labels and numbers are good."""
    arguments = draw(random_arguments(kind))
    classes = arguments['num_class']
    samples, size = draw(st.integers(1, 30)), draw(st.sampled_from([1, 2, 3, 5, 31, 32, 33, 70]))
    if draw(st.sampled_from([False] * 9 + [True])):
        samples, size = 300, 70
    dtype, label_type = draw(st.sampled_from(dtypes)), draw(st.sampled_from(label_types))
    random = np.random.RandomState(draw(st.integers(0, 999)))
    data, centers = random.randn(samples, size), random.randn(classes, size)
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        data[random.randint(samples), random.randint(size)] = draw(st.sampled_from(
            [np.nan, np.inf, -np.inf, 1e30, 0] + [3e38] * (kind == 'extreme')))
    if draw(st.sampled_from([False] * 9 + [True])):
        centers[random.randint(classes)] = np.nan
    label = random.randint(0, classes, samples).astype(float)
    if draw(st.booleans()):
        label[random.rand(samples) < .3] = arguments['ignore_label']
    if draw(st.sampled_from([False] * 3 + [True])):
        label[random.randint(samples)] = draw(st.sampled_from(
            [classes, classes + 200, *_BAD_LABELS]))
    with np.errstate(over='ignore', invalid='ignore'):
        if label_type[0] != 'f':
            largest = np.iinfo(label_type).max
            label[~(np.abs(label) < largest)] = min(largest, 2 ** 62)
            label = label.astype('int64')
        label, data = label.astype(label_type), data.astype(dtype)
    shape = (samples, 1) if draw(st.booleans()) else (samples,)
    return data, label.reshape(shape), centers.astype(centers_dtype(dtype)), arguments


def passes(seed):
    """Passes in any order, with requests, the last one a backward pass.

    (kind, request for the loss or the gradient, request for the gradient of the labels, whether the
    gradient takes the memory of the features, a number to make the head gradient of)
    """
    random = np.random.RandomState(seed)
    kinds = ['train', *random.choice(['train', 'infer', 'back', 'back'], random.randint(6)), 'back']
    return [(kind, *random.choice(['write', 'inplace', 'add', 'null'], 2), random.rand() < .3,
             random.randint(99)) for kind in kinds]


def are_good(label, num_class, use_ignore=False, ignore_label=-1, **_):
    """Whether the contract allows these labels."""
    label = np.asarray(label).reshape(-1)
    good = (label >= 0) & (label < num_class) & (label == np.floor(label))
    return bool((good | (use_ignore & (label == ignore_label))).all())
