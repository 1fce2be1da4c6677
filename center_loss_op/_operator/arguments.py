"""The arguments and the formulas of the operator: documented and checked in this one place.

MXNet hands over the arguments of a custom operator as text, Python users as numbers. Both end up
in :class:`Arguments`; text counts as a number only if it is a :class:`Text`. How to add an
argument: CONTRIBUTING.md.
"""
import inspect
import math
import numbers
import textwrap
import warnings
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache, partial, wraps
from typing import Any, Callable, Collection, Dict, Optional, TypeVar, cast

import numpy as np

F = TypeVar('F', bound=Callable[..., Any])

# What docstrings and docs/reference.md say; step.py and csrc/rows.h compute it.
FORMULAS = {
    'loss of a sample': 'l_i = ½ ‖x_i − c_{y_i}‖²',
    "'none'": 'l_i, shape (N,)',
    "'sum'": 'Σ l_i, shape (1,)',
    "'mean'": 'Σ l_i / M, shape (1,)',
    'gradient': "λ · r · (x_i − c_{y_i}), r = 1/M for 'mean', 1 otherwise",
    'update of the centers': 'c_j ← c_j − α · Σ_{y_i=j} (c_j − x_i) / (1 + n_j)',
}

REDUCTIONS = ('mean', 'sum', 'none')
# MXNet counts the elements of an array in 32 bits.
_MAX_ELEMENTS = 2 ** 31 - 1
_DATA_TYPES = (np.float16, np.float32, np.float64)


class Text(str):
    """The text of an argument on a node of a graph, in which MXNet writes numbers and flags."""


# -- checks: each takes the name of the argument, for the error, and its value or the value's text


def _must_be(wanted, name, value):
    return f'{name} must be {wanted}, got {value!r}'


def number(name, value, kind, wanted, good):
    """`value`, a number or its Text, as an int or a float for which `good` is true."""
    types = (Text, numbers.Integral if kind is int else numbers.Real)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, types):
        raise TypeError(_must_be(wanted, name, value))
    try:
        result = kind(value)
    except (ValueError, OverflowError):  # a text without a number; a number beyond every float
        result = math.nan
    if not good(result):
        raise ValueError(_must_be(wanted, name, value))
    return result


non_negative_int = partial(number, kind=int, wanted='an integer >= 0', good=lambda n: n >= 0)
non_negative_number = partial(number, kind=float, wanted='a finite number >= 0',
                              good=lambda n: 0 <= n < math.inf)
_finite_number = partial(number, kind=float, wanted='a finite number', good=math.isfinite)


def class_count(name, value):
    count = number(name, value, int, 'a positive integer', lambda n: n > 0)
    if count > _MAX_ELEMENTS:
        raise ValueError(f'{name} must be at most {_MAX_ELEMENTS}, as many elements as an MXNet '
                         f'array can have, got {value!r}')
    return count


def flag(name, value):
    """`value` as a bool, from a bool or a Text that MXNet's own operators take for one."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if not isinstance(value, Text):
        raise TypeError(_must_be('True or False', name, value))
    if value not in ('True', 'true', '1', 'False', 'false', '0'):
        raise ValueError(_must_be('True or False', name, value))
    return value in ('True', 'true', '1')


def _string(name, value, wanted='a string'):
    if not isinstance(value, str):
        raise TypeError(_must_be(wanted, name, value))
    return str(value)


def _reduction(name, value):
    wanted = 'one of ' + ', '.join(REDUCTIONS)
    if _string(name, value, wanted) not in REDUCTIONS:
        raise ValueError(_must_be(wanted, name, value))
    return str(value)


# -- the arguments


def _argument(check, text, default=MISSING, kind=None):
    """A field: how it is checked, its docstring, and its type there if not that of the class."""
    return field(default=default, metadata={'check': check, 'text': inspect.cleandoc(text),
                                            'kind': kind})


@dataclass(frozen=True, eq=False)
class Arguments:
    """The arguments of the operator, checked.

    Two objects are equal only if they are the same object: a step counts by it. A wrong type is a
    TypeError, an impossible value a ValueError.
    """
    num_class: int = _argument(class_count, """
        C, the number of classes: a positive integer.""")
    alpha: float = _argument(non_negative_number, """
        α, how fast the centers move: finite and >= 0. 0 freezes them, 1 moves them almost to the
        mean of many samples; above 2 (1 + n) / n, for n samples of a class in a batch, its center
        diverges.""", 0.5)
    scale: float = _argument(non_negative_number, """
        λ, the weight of the gradient: finite and >= 0. The output is not scaled. What it means
        next to other losses, for each reduction: docs/lambda.md.""", 1.0)
    reduction: str = _argument(_reduction, """
        What the output holds: the mean of the samples that count, shape (1,); their sum, shape
        (1,); or one loss per sample, shape (N,).""", 'mean', "{'mean', 'sum', 'none'}")
    use_ignore: bool = _argument(flag, """
        Leave samples labelled `ignore_label` out of loss, gradient, counts and centers.""", False)
    ignore_label: float = _argument(_finite_number, """
        The label to leave out: any finite number. Used only with `use_ignore`.""", -1.0)
    need_top_grad: bool = _argument(flag, """
        False: a loss layer like SoftmaxOutput, which ignores the head gradient (the gradient of its
        output). A factor around it has no effect: to weight it, use `scale=0.1`, neither
        `0.1 * center_loss(…)` nor `MakeLoss(center_loss(…), grad_scale=0.1)`.
        True: the gradient is multiplied by the head gradient, for use inside a larger loss: in a
        graph, one that ends in MakeLoss.""", False)
    scale_output: bool = _argument(flag, """
        True: `scale` multiplies the output, too, and the output has the dtype of the features. This
        is what `gluon.CenterLoss` returns.""", False)
    key: str = _argument(_string, """
        '': the operator moves the centers itself. A name: it leaves them to the `CenterTrainer` of
        that name, which moves the copies of all devices and workers.""", '')
    batchsize: Optional[int] = _argument(lambda name, value: None, """
        Accepted and unused: the ported operator needed it.""", None, 'int')

    def __post_init__(self):
        for argument in fields(self):
            value = argument.metadata['check'](argument.name, getattr(self, argument.name))
            object.__setattr__(self, argument.name, value)

    @classmethod
    def of_node(cls, attributes):
        """The arguments of a node of a graph, whose attributes are text."""
        # Attributes such as __ctx_group__ belong to MXNet and may be on any node.
        return _of_node(tuple(item for item in attributes.items()
                              if not item[0].startswith('__')))

    def items(self):
        """The (name, value) pairs to write on a node: those that differ from the defaults."""
        return [(argument.name, getattr(self, argument.name)) for argument in fields(self)
                if getattr(self, argument.name) != argument.default]


# The inputs: a graph takes them by name, mx.nd.Custom does not.
_ARRAYS = ('data', 'label', 'center_bias')


# An imperative call makes a new operator each time; parsing would be half of that time.
@lru_cache(maxsize=256)
def _of_node(attributes):
    attributes, arguments = dict(attributes), {each.name: each for each in fields(Arguments)}
    for name in attributes:
        if name in _ARRAYS:
            raise TypeError(f'{name} is an array, and mx.nd.Custom takes arrays by their position: '
                            'mx.nd.Custom(data, label, centers, op_type=…, …)')
        if name not in arguments:
            raise unknown_argument(name, arguments)
    for name, argument in arguments.items():
        if name not in attributes and argument.default is MISSING:
            raise TypeError(f'missing argument {name!r}')
    texts: Dict[str, Any] = {name: Text(value) for name, value in attributes.items()}
    return Arguments(**texts)


def complete_docstring(documented, function=None, **renamed):
    """Put the texts of this module into the docstring of `documented`.

    %(formulas)s stands for the formulas, %(name)s for the entry of a parameter that is an argument,
    %(arguments)s for all such entries. Names and defaults are those of the parameters of
    `function`, or of `documented`; ``parameter='argument'`` if their names differ.
    """
    if not documented.__doc__:  # python -OO
        return
    arguments, entries = {each.name: each for each in fields(Arguments)}, {}
    for name, parameter in inspect.signature(function or documented).parameters.items():
        argument = arguments.get(renamed.get(name, name))
        if argument is None:
            continue
        kind = argument.metadata['kind'] or getattr(argument.type, '__name__', '')
        if parameter.default is None:
            kind += ', optional'
        elif parameter.default is not parameter.empty:
            kind += f', default {parameter.default!r}'
        text = textwrap.indent(argument.metadata['text'], ' ' * 8)
        entries[name] = f'    {name} : {kind}\n{text}'
    documented.__doc__ %= {
        **entries, 'arguments': '\n'.join(entries.values()),
        'formulas': '\n'.join(f'    - {what}: {formula}' for what, formula in FORMULAS.items())}


# -- names that users of other losses write, behind ours: of the operator, and of Gluon
_MEANT = (
    ('num_class', 'classes', 'num_classes', 'n_classes', 'nclass', 'num_cls', 'class_num',
     'nrof_classes'),
    ('alpha', 'lr_cent', 'center_lr', 'lr_center', 'lr', 'learning_rate', 'alfa'),
    ('scale', 'weight', 'lambda', 'lambda_', 'lambda_c', 'lamda', 'lambd', 'lam', 'loss_weight',
     'center_weight', 'grad_scale', 'lmbd', 'ratio', 'weight_cent'),
    ('in_units', 'feat_dim', 'feature_dim', 'feature_size', 'embedding_size', 'embedding_dim',
     'embed_dim', 'dim', 'num_features'),
)


def _hint(name, allowed):
    for names in _MEANT:
        for ours in names:
            if name in names and ours in allowed:
                return f', did you mean {ours}?'
    if name in _MEANT[-1]:
        return ': leave it out, the size of the features is that of the data'
    return ''


@lru_cache(maxsize=None)
def warn_once(text: str, stacklevel: int) -> None:
    """Warn of an old spelling, once per text."""
    warnings.warn(text, FutureWarning, stacklevel)


def unknown_argument(name: str, allowed: Collection[str]) -> TypeError:
    """The error about an argument called `name`; it says what the user meant, if that is known."""
    return TypeError(f'unknown argument {name!r}{_hint(name, allowed)}; allowed are: '
                     f'{", ".join(allowed)}')


def explained(function: F) -> F:
    """Decorate a function: an error about a name, or a place, of an argument says what is right."""
    parameters = inspect.signature(function).parameters.values()
    places = [each.name for each in parameters if each.kind == each.POSITIONAL_OR_KEYWORD]
    by_name = [each.name for each in parameters if each.kind == each.KEYWORD_ONLY]
    allowed = [name for name in places + by_name if name != 'self']

    @wraps(function)
    def checked(*args, **kwargs):
        for name in kwargs:
            if name not in allowed and _hint(name, allowed):
                raise unknown_argument(name, allowed)
        if by_name and len(args) > len(places):
            first = args[len(places)]
            choices = ' or '.join(f'{name}={first!r}' for name in by_name[:2])
            raise TypeError(f'{first!r} needs its name, such as {choices}; by name are: '
                            f'{", ".join(by_name)}')
        return function(*args, **kwargs)
    return cast(F, checked)


# -- checks of arrays


def check_elements(num_class, size):
    """ValueError if centers of shape (num_class, size) are more than MXNet can hold."""
    if num_class * size > _MAX_ELEMENTS:
        raise ValueError(f'centers of shape ({num_class}, {size}), classes by features, have '
                         f'{num_class * size} elements, more than the {_MAX_ELEMENTS} that an '
                         'MXNet array can have')


def check_data_type(name, dtype):
    """TypeError if features, called `name`, are not of a floating type."""
    if dtype not in _DATA_TYPES:
        raise TypeError(f'{name} must be float16, float32 or float64, got {np.dtype(dtype)}')


def more_than_two_axes(name, shape):
    """The end of an error about features, called `name`, that have more than two axes."""
    if len(shape) < 3:
        return ''
    if sum(length != 1 for length in shape[1:]) < 2:
        return f'. Leave the axes of length 1 out: give {name}.flatten()'
    return ('. If each position of a sequence or a feature map is a sample, reshape to two axes: '
            "'Use sequences or feature maps' in docs/using.md shows how")


def check_shapes(name, data, label, num_class):
    """ValueError if the shapes of features, called `name`, and labels do not fit.

    A length of −1 is not known yet, and neither is the whole shape of the labels if it is ().
    """
    if len(data) != 2:
        raise ValueError(f'{name} must be 2-D, (batch, features), got shape {data}; label has '
                         f'shape {label}{more_than_two_axes(name, data)}')
    batch = data[0]
    if label and (len(label) > 2 or label[1:] not in ((), (1,), (-1,))
                  or (batch != label[0] and -1 not in (batch, label[0]))):
        hint = ''
        if label == (batch, num_class):
            hint = '. If these are one-hot labels, give their classes: label.argmax(axis=1)'
        raise ValueError(f'label must have shape ({batch},) or ({batch}, 1) to fit {name} of shape '
                         f'{data}, got shape {label}{hint}')
