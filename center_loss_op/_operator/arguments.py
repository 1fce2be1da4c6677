"""The arguments of the operator: documented, parsed and checked in this one place.

MXNet hands a custom operator its arguments as text, Python users hand them over
as numbers; both end up in :class:`Arguments`.
"""
import math
import numbers
from functools import lru_cache

import numpy as np

from .names import unknown_argument

__all__ = ['Arguments', 'DOC', 'check_data_type', 'check_elements', 'check_shapes', 'class_count',
           'flag', 'more_than_two_axes', 'rate', 'unknown_or_size']

REDUCTIONS = ('mean', 'sum', 'none')
# MXNet counts the elements of an array in 32 bits.
_MAX_ELEMENTS = 2 ** 31 - 1
_DATA_TYPES = (np.float16, np.float32, np.float64)

DOC = """\
    num_class : int
        C, the number of classes: a positive integer.
    alpha : float, default 0.5
        α, the rate at which the centers move: finite and >= 0. 0 freezes them, 1 moves a class
        of many samples to their mean; above 2 (1 + n) / n, for n samples of a class in a
        batch, its center runs away.
    scale : float, default 1.0
        λ, the weight of the gradient: finite and >= 0. The output is not scaled. What it means
        beside other losses, for each reduction: docs/lambda.md.
    reduction : {'mean', 'sum', 'none'}, default 'mean'
        What the output holds: the mean of the samples that count, shape (1,);
        their sum, shape (1,); or one loss a sample, shape (N,).
    use_ignore : bool, default False
        Leave samples labelled `ignore_label` out of loss, gradient, counts and centers.
    ignore_label : float, default -1
        The label to leave out: any finite number. Used only with `use_ignore`.
    need_top_grad : bool, default False
        False: a loss layer that ignores the gradient of its output, as SoftmaxOutput
        does, and with it every factor: neither `0.1 * center_loss(…)` nor
        `MakeLoss(center_loss(…), grad_scale=0.1)` pulls any less than 1; `scale=0.1` does.
        True: the gradient is multiplied by that of its output, for use inside a larger loss:
        in a graph one that ends in MakeLoss.
    key : str, default ''
        '': the operator moves the centers itself. A name: it leaves them to the
        `CenterTrainer` of that name, which moves the copies of all devices and workers.
    batchsize : int, optional
        Accepted and unused: the ported operator needed it."""


def _number(name, value, kind, article):
    """`value` as an int or a float, from a number or its text."""
    wanted = (str, numbers.Integral if kind is int else numbers.Real)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, wanted):
        raise TypeError('%s must be %s, got %r' % (name, article, value))
    try:
        return kind(value)
    except (ValueError, OverflowError):  # no number in the text; a number that no float can hold
        raise ValueError('%s must be %s, got %r' % (name, article, value)) from None


def _positive_int(name, value):
    """`value` as an int > 0; `name` is for the error."""
    number = _number(name, value, int, 'a positive integer')
    if number <= 0:
        raise ValueError('%s must be a positive integer, got %r' % (name, value))
    return number


def class_count(name, value):
    """`value` as a positive int that an array has room for; `name` is for the error."""
    number = _positive_int(name, value)
    if number > _MAX_ELEMENTS:
        raise ValueError(f'{name} must be at most {_MAX_ELEMENTS}, as many elements as an MXNet '
                         f'array can have, got {value!r}')
    return number


def unknown_or_size(name, value):
    """`value` as an int >= 0, 0 for not known yet; `name` is for the error."""
    article = 'an integer >= 0'
    number = _number(name, value, int, article)
    if number < 0:
        raise ValueError('%s must be %s, got %r' % (name, article, value))
    return number


def _finite(name, value):
    number = _number(name, value, float, 'a finite number')
    if not math.isfinite(number):
        raise ValueError('%s must be a finite number, got %r' % (name, value))
    return number


def rate(name, value):
    """`value` as a finite float >= 0; `name` is for the error."""
    article = 'a finite number >= 0'
    number = _number(name, value, float, article)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError('%s must be %s, got %r' % (name, article, value))
    return number


def flag(name, value):
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    # The texts that MXNet's own operators take for a flag.
    text = {'True': True, 'true': True, '1': True, 'False': False, 'false': False, '0': False}
    if isinstance(value, str) and value in text:
        return text[value]
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind('%s must be True or False, got %r' % (name, value))


def _reduction(name, value):
    if not isinstance(value, str):
        raise TypeError('%s must be one of %s, got %r' % (name, ', '.join(REDUCTIONS), value))
    if value not in REDUCTIONS:
        raise ValueError('%s must be one of %s, got %r' % (name, ', '.join(REDUCTIONS), value))
    return value


def _name(name, value):
    if not isinstance(value, str):
        raise TypeError('%s must be a string, got %r' % (name, value))
    return value


def _unused(name, value):  # pylint: disable=unused-argument
    return None


# name: (check, default); an argument without a default is required.
_ARGUMENTS = {
    'num_class': (class_count,),
    'alpha': (rate, 0.5),
    'scale': (rate, 1.0),
    'reduction': (_reduction, 'mean'),
    'use_ignore': (flag, False),
    'ignore_label': (_finite, -1.0),
    'need_top_grad': (flag, False),
    'key': (_name, ''),
    'batchsize': (_unused, None),
}
# What a graph's node takes by name and mx.nd.Custom does not.
_ARRAYS = ('data', 'label', 'center_bias')


def check_elements(num_class, size):
    """ValueError where centers of shape (num_class, size) are more than MXNet can hold."""
    if num_class * size > _MAX_ELEMENTS:
        raise ValueError('centers of shape (%d, %d), classes by features, have %d elements, more '
                         'than the %d that an MXNet array can have'
                         % (num_class, size, num_class * size, _MAX_ELEMENTS))


def check_data_type(name, dtype):
    """TypeError where features, called `name`, are not of a floating type."""
    if dtype not in _DATA_TYPES:
        raise TypeError('%s must be float16, float32 or float64, got %s' % (name, np.dtype(dtype)))


def more_than_two_axes(name, data, label=None):
    """The end of an error about features, called `name`, that have more than two axes."""
    if len(data) < 3:
        return ''
    axes = [axis for axis, length in enumerate(data) if axis and length != 1]
    if len(axes) < 2 and (len(data) > 3 or label != data[:2]):
        return '. Leave the axes of length 1 out: give %s.flatten()' % name
    if len(data) == 3:
        kind, size, rows = 'a sequence (N, T, d)', data[-1], name
    else:
        letters = ', '.join('DHW'[5 - len(data):] if len(data) < 6 else '…')
        kind, size = 'a feature map (N, d, %s)' % letters, data[1]
        rows = '%s.transpose(%s)' % (name, (0, *range(2, len(data)), 1))
    hint = ('. If this is %s, each position counts as a sample: give %s.reshape((-1, %d))'
            % (kind, rows, size))
    if label is not None:
        positions = math.prod(data[1:]) // size if size else 0
        each = math.prod(label) == data[0] * positions
        hint += ' and ' + ('label.reshape((-1,))' if each or not label
                           else 'label.repeat(%d)' % positions)
    return hint + '. See docs/using.md'


def check_shapes(name, data, label, num_class):
    """ValueError where the shapes of features, called `name`, and labels do not fit.

    A length of 0 may be one that is not known yet, and so may the whole shape of the labels, ().
    """
    if len(data) != 2:
        raise ValueError('%s must be 2-D, (batch, features), got shape %s; label has shape %s%s'
                         % (name, data, label, more_than_two_axes(name, data, label)))
    batch = data[0]
    if label and (len(label) > 2 or label[1:] not in ((), (1,))
                  or (batch and label[0] and batch != label[0])):
        hint = ''
        if label == (batch, num_class):
            hint = '. If these are one-hot labels, give their classes: label.argmax(axis=1)'
        raise ValueError('label must have shape (%d,) or (%d, 1) to fit %s of shape %s, got '
                         'shape %s%s' % (batch, batch, name, data, label, hint))


class _WeaklyReferenced:
    __slots__ = ('__weakref__',)


class Arguments(_WeaklyReferenced):
    """Checked arguments of the operator, as attributes.

    Parameters
    ----------
%s

    Raises
    ------
    TypeError
        For a missing or unknown argument, or one of the wrong type.
    ValueError
        For an argument of the right type whose value is impossible.
    """
    __slots__ = tuple(_ARGUMENTS)

    def __init__(self, **arguments):
        for name in arguments:
            if name in _ARRAYS:
                raise TypeError('%s is an array, and mx.nd.Custom takes arrays by their position: '
                                'mx.nd.Custom(data, label, centers, op_type=…, …)' % name)
            if name not in _ARGUMENTS:
                raise unknown_argument(name, _ARGUMENTS)
        for name, (check, *default) in _ARGUMENTS.items():
            if name not in arguments and not default:
                raise TypeError('missing argument %r' % name)
            setattr(self, name, check(name, arguments.get(name, *default)))

    @classmethod
    def of_node(cls, attributes):
        """Arguments of a graph's node, whose attributes are text.

        Attributes such as ``__ctx_group__`` and ``__lr_mult__`` are MXNet's own and may
        stand on any node.
        """
        return _of_node(tuple(item for item in attributes.items()
                              if not item[0].startswith('__')))

    def items(self):
        """The (name, value) pairs to write on a graph's node: what differs from the defaults."""
        return [(name, getattr(self, name)) for name, (_, *default) in _ARGUMENTS.items()
                if [getattr(self, name)] != default]


# An imperative call makes its operator anew each time, and parsing is half of that.
@lru_cache(maxsize=256)
def _of_node(attributes):
    return Arguments(**dict(attributes))


if Arguments.__doc__:  # not under python -OO
    Arguments.__doc__ %= DOC
