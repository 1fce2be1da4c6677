"""The arguments: parsed from numbers and from text, and refused with one clear line."""
import re
from fractions import Fraction

from center_loss_op.gluon import CenterLoss  # before mxnet, for newer NumPys
import mxnet as mx
import numpy as np
import pytest

from center_loss_op._operator.arguments import Arguments
from center_loss_op.symbol import center_loss

# argument, given, parsed
GOOD = [
    ('num_class', 1, 1), ('num_class', '10', 10), ('num_class', np.int64(3), 3),
    ('alpha', 0, 0.0), ('alpha', '0.5', 0.5), ('alpha', 1e30, 1e30), ('alpha', np.float32(.5), .5),
    ('scale', '0', 0.0), ('scale', 3, 3.0), ('scale', '1e-3', 1e-3),
    ('reduction', 'sum', 'sum'), ('reduction', 'none', 'none'), ('reduction', 'mean', 'mean'),
    ('use_ignore', True, True), ('use_ignore', 'True', True), ('use_ignore', 'true', True),
    ('use_ignore', '1', True), ('use_ignore', 'False', False), ('use_ignore', '0', False),
    ('use_ignore', np.bool_(True), True),
    ('ignore_label', -1, -1.0), ('ignore_label', '255', 255.0), ('ignore_label', 0.5, 0.5),
    ('need_top_grad', 'False', False), ('need_top_grad', True, True),
    ('batchsize', '128', None), ('batchsize', 128, None), ('batchsize', 'anything', None),
]

_POSITIVE, _RATE, _FINITE = 'a positive integer', 'a finite number >= 0', 'a finite number'
_FLAG, _REDUCTION = 'True or False', 'one of mean, sum, none'

# argument, given, what it must be, the exception
BAD = [
    ('num_class', 0, _POSITIVE, ValueError), ('num_class', -3, _POSITIVE, ValueError),
    ('num_class', '0', _POSITIVE, ValueError), ('num_class', '', _POSITIVE, ValueError),
    ('num_class', 'ten', _POSITIVE, ValueError), ('num_class', '2.5', _POSITIVE, ValueError),
    ('num_class', 2.0, _POSITIVE, TypeError), ('num_class', True, _POSITIVE, TypeError),
    ('num_class', None, _POSITIVE, TypeError), ('num_class', [3], _POSITIVE, TypeError),
    ('alpha', -0.1, _RATE, ValueError), ('alpha', float('nan'), _RATE, ValueError),
    ('alpha', float('inf'), _RATE, ValueError), ('alpha', 'nan', _RATE, ValueError),
    ('alpha', 'fast', _RATE, ValueError), ('alpha', True, _RATE, TypeError),
    ('alpha', None, _RATE, TypeError), ('alpha', 1j, _RATE, TypeError),
    ('scale', -1, _RATE, ValueError), ('scale', '-1', _RATE, ValueError),
    ('scale', 'inf', _RATE, ValueError), ('scale', (1,), _RATE, TypeError),
    ('reduction', 'avg', _REDUCTION, ValueError), ('reduction', '', _REDUCTION, ValueError),
    ('reduction', 'Mean', _REDUCTION, ValueError), ('reduction', None, _REDUCTION, TypeError),
    ('reduction', 0, _REDUCTION, TypeError),
    ('use_ignore', 'maybe', _FLAG, ValueError), ('use_ignore', 1, _FLAG, TypeError),
    ('use_ignore', None, _FLAG, TypeError), ('use_ignore', '2', _FLAG, ValueError),
    ('ignore_label', 'nan', _FINITE, ValueError), ('ignore_label', 'inf', _FINITE, ValueError),
    ('ignore_label', 'none', _FINITE, ValueError), ('ignore_label', None, _FINITE, TypeError),
    ('need_top_grad', 'yes', _FLAG, ValueError), ('need_top_grad', 0.0, _FLAG, TypeError),
]


def message(name, value, article):
    """What the user reads."""
    return '%s must be %s, got %r' % (name, article, value)


@pytest.mark.parametrize('name, given, parsed', GOOD)
def test_good(name, given, parsed):
    value = getattr(Arguments(**{'num_class': 3, name: given}), name)
    assert value == parsed and type(value) is type(parsed)


@pytest.mark.parametrize('name, given, article, error', BAD)
def test_bad(name, given, article, error):
    with pytest.raises(error, match='^%s$' % re.escape(message(name, given, article))):
        Arguments(**{'num_class': 3, name: given})


@pytest.mark.parametrize('value', [10 ** 400, -10 ** 400, Fraction(10 ** 400)],
                         ids=['int', 'negative', 'fraction'])
@pytest.mark.parametrize('name, article', [('alpha', _RATE), ('scale', _RATE),
                                           ('ignore_label', _FINITE)])
def test_beyond_every_float(name, article, value):
    with pytest.raises(ValueError, match='^%s$' % re.escape(message(name, value, article))):
        Arguments(**{'num_class': 3, name: value})


@pytest.mark.parametrize('call, name', [
    (lambda count: Arguments(num_class=count), 'num_class'),
    (lambda count: Arguments.of_node({'num_class': str(count)}), 'num_class'),
    (lambda count: center_loss(mx.sym.var('data'), mx.sym.var('label'), count), 'num_class'),
    (CenterLoss, 'classes'), (lambda count: CenterLoss(count, 64), 'classes')],
    ids=['numbers', 'text', 'graph', 'Gluon', 'Gluon with in_units'])
@pytest.mark.parametrize('count', [2 ** 31, 10 ** 40])
def test_more_classes_than_any_array_has_elements(call, name, count):
    with pytest.raises(ValueError, match='^%s must be at most 2147483647, as many .*got .?%d'
                       % (name, count)):
        call(count)


def test_as_many_classes_as_an_array_has_elements():
    assert Arguments(num_class=2 ** 31 - 1).num_class == 2 ** 31 - 1
    assert CenterLoss(2 ** 31 - 1).centers.shape == (2 ** 31 - 1, 0)


def test_defaults():
    params = Arguments(num_class=3)
    assert (params.alpha, params.scale, params.reduction) == (0.5, 1.0, 'mean')
    assert (params.use_ignore, params.ignore_label, params.need_top_grad) == (False, -1.0, False)


def test_missing():
    with pytest.raises(TypeError, match="^missing argument 'num_class'$"):
        Arguments(alpha=1)


def test_unknown():
    with pytest.raises(TypeError, match="^unknown argument 'num_classes', did you mean num_class.; "
                       'allowed are: %s$' % ', '.join(Arguments.__slots__)):
        Arguments(num_classes=3)


def test_attributes_that_are_mxnets_own():
    """MXNet writes what an AttrScope says on every node."""
    attributes = {'num_class': '3', '__ctx_group__': 'dev1', '__lr_mult__': '0.1'}
    assert Arguments.of_node(attributes).num_class == 3
    with pytest.raises(TypeError, match="unknown argument '__lr_mult__'"):
        Arguments(num_class=3, __lr_mult__=0.1)


@pytest.mark.parametrize('arguments', [
    {}, {'alpha': 0.1}, {'alpha': 1 / 3, 'scale': 1e-300, 'reduction': 'none'},
    {'use_ignore': True, 'ignore_label': 255, 'need_top_grad': True}])
def test_text_and_back(arguments):
    """What a graph's JSON keeps is what was given."""
    params = Arguments(num_class=7, **arguments)
    again = Arguments.of_node({name: str(value) for name, value in params.items()})
    assert [getattr(again, n) for n in Arguments.__slots__] == [
        getattr(params, n) for n in Arguments.__slots__]
    assert set(dict(params.items())) == {'num_class', *arguments}


def test_every_argument_is_documented():
    for name in Arguments.__slots__:
        assert '    %s : ' % name in Arguments.__doc__
