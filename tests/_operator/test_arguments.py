"""The arguments: parsed and refused, and each known everywhere that it must be."""
import inspect
import re
import textwrap
from dataclasses import MISSING, fields
from fractions import Fraction
from pathlib import Path

from center_loss_op._operator.arguments import FORMULAS, Arguments
from center_loss_op._operator.operator import CenterLossProp
from center_loss_op.gluon import CenterLoss
from center_loss_op.symbol import center_loss

import mxnet as mx
import pytest
from cases import ARGUMENTS, BAD, GOOD, batch, message
from entries import array, custom
from numpy.testing import assert_array_equal

FIELDS = {each.name: each for each in fields(Arguments)}
REFERENCE = Path(__file__).parents[2] / 'docs' / 'reference.md'

# -- each argument is everywhere

# What runs in Python, which has the samples that a CenterTrainer gathers.
IN_PYTHON = {'key'}
# What symbol.center_loss does not take, because only old graphs have it.
NOT_OF_SYMBOL = {'batchsize'}
# What gluon.CenterLoss calls otherwise; and what it does not take, because the block decides it.
NAMES_IN_GLUON = {'num_class': 'classes', 'scale': 'weight'}
NOT_OF_GLUON = {'reduction', 'need_top_grad', 'scale_output', 'key', 'batchsize'}
# Defaults that are not the operator's: for these, see docs/lambda.md.
OTHER_DEFAULTS = {('center_loss', 'reduction'): 'none', ('CenterLoss', 'scale'): None}


def test_the_tests_know_every_argument():
    assert list(ARGUMENTS) == list(FIELDS)
    for name, case in ARGUMENTS.items():
        parsed = getattr(Arguments(**{'num_class': 3, name: case.plain}), name)
        assert parsed != FIELDS[name].default or name == 'batchsize'
        assert case.good and (case.bad or name == 'batchsize')


@pytest.mark.parametrize('name', FIELDS)
@pytest.mark.usefixtures('natively')
def test_runs_in_c(name, monkeypatch):
    """A plain value of each argument does not need Python."""
    made = []

    def init(self, **attributes):
        made.append(attributes)
        before(self, **attributes)
    before = CenterLossProp.__init__
    monkeypatch.setattr(CenterLossProp, '__init__', init)
    data, label, centers = batch(6, 3, 4)
    features = array(data)
    features.attach_grad()
    with mx.autograd.record():
        loss = custom(features, array(label % 4), array(centers),
                      **{'num_class': 4, name: 4 if name == 'num_class' else ARGUMENTS[name].plain})
    if name in IN_PYTHON:
        assert made
        return
    loss.backward()
    mx.nd.waitall()
    assert not made


@pytest.mark.parametrize('name', [name for name in FIELDS if name != 'num_class'])
@pytest.mark.usefixtures('natively')
def test_c_has_the_same_defaults(name):
    """Given as text or left out, the default gives the same bits."""
    data, label, centers = batch(6, 3, 4)
    label[2] = -1 if name == 'ignore_label' else label[2]
    given = {'num_class': 4, 'use_ignore': name == 'ignore_label', 'need_top_grad': name == 'scale'}
    given.pop(name, None)
    results = []
    for arguments in given, {**given, name: FIELDS[name].default}:
        state, features = array(centers), array(data)
        features.attach_grad()
        with mx.autograd.record():
            loss = custom(features, array(label), state, **arguments) * 3
        loss.backward()
        mx.nd.waitall()
        results.append([part.asnumpy() for part in (loss, features.grad, state)])
    for left_out, written in zip(*results):
        assert_array_equal(left_out, written)


@pytest.mark.parametrize('function, renamed, missing', [
    (center_loss, {}, NOT_OF_SYMBOL), (CenterLoss, NAMES_IN_GLUON, NOT_OF_GLUON)])
@pytest.mark.parametrize('name', FIELDS)
def test_in_signature_and_docstring(name, function, renamed, missing):
    own = renamed.get(name, name)
    parameter = inspect.signature(function).parameters.get(own)
    assert (parameter is None) == (name in missing)
    if parameter is None:
        return
    default = FIELDS[name].default
    expected = OTHER_DEFAULTS.get((function.__name__, name), default)
    assert parameter.default == (parameter.empty if expected is MISSING else expected)
    entry, = re.findall('^    %s : (.*)$' % own, function.__doc__, re.MULTILINE)
    if (function.__name__, name) != ('CenterLoss', 'scale'):
        text = textwrap.indent(FIELDS[name].metadata['text'], ' ' * 8)
        assert '    %s : %s\n%s\n' % (own, entry, text) in function.__doc__
        assert ('default' in entry) == (expected is not MISSING)


@pytest.mark.parametrize('name', [name for name in FIELDS if name not in NOT_OF_GLUON])
def test_gluon_passes_it_on(name):
    given = {'classes': 3, NAMES_IN_GLUON.get(name, name): ARGUMENTS[name].plain}
    assert CenterLoss(**given)._attributes[name] == ARGUMENTS[name].plain


@pytest.mark.parametrize('name', FIELDS)
def test_in_the_docstring_of_the_operator(name):
    assert '    %s : ' % name in CenterLossProp.__doc__


@pytest.mark.parametrize('name', FIELDS)
def test_in_the_reference(name):
    """A row of the table of arguments, with its name in Gluon and its default."""
    row, = [line.split(' | ') for line in REFERENCE.read_text(encoding='utf-8').splitlines()
            if line.startswith('| `') and '`%s`' % name in line.split(' | ')[0]]
    in_gluon = NAMES_IN_GLUON.get(name, name)
    assert (row[1] in ('the same', '`%s`' % in_gluon)) == (name not in NOT_OF_GLUON)
    default = FIELDS[name].default
    if default is not None:
        text = 'required' if default is MISSING else repr(default)
        text = '%g' % default if isinstance(default, float) else text
        assert text.replace('-', '−') in row[-1]


@pytest.mark.parametrize('what', FORMULAS)
def test_formula(what):
    """The row of the reference has it, and perhaps a remark behind it; so have the docstrings."""
    assert f'\n| {what} | {FORMULAS[what]}' in REFERENCE.read_text(encoding='utf-8')
    for documented in CenterLossProp, center_loss, CenterLoss:
        assert FORMULAS[what] in documented.__doc__


# -- values


@pytest.mark.parametrize('name, given, parsed', GOOD)
def test_good(name, given, parsed):
    value = getattr(Arguments(**{'num_class': 3, name: given}), name)
    assert value == parsed and type(value) is type(parsed)


@pytest.mark.parametrize('name, given, wanted, error', BAD)
def test_bad(name, given, wanted, error):
    with pytest.raises(error, match='^%s$' % re.escape(message(name, given, wanted))):
        Arguments(**{'num_class': 3, name: given})


@pytest.mark.parametrize('value', [10 ** 400, -10 ** 400, Fraction(10 ** 400)],
                         ids=['int', 'negative', 'fraction'])
@pytest.mark.parametrize('name', [name for name in FIELDS if FIELDS[name].type is float])
def test_beyond_every_float(name, value):
    with pytest.raises(ValueError, match='^%s$' % re.escape(
            message(name, value, ARGUMENTS[name].wanted))):
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


def test_missing():
    with pytest.raises(TypeError, match="^missing argument 'num_class'$"):
        Arguments.of_node({'alpha': '1'})


def test_unknown():
    with pytest.raises(TypeError, match="^unknown argument 'num_classes', did you mean num_class.; "
                       'allowed are: %s$' % ', '.join(FIELDS)):
        Arguments.of_node({'num_classes': '3'})


def test_attributes_that_are_mxnets_own():
    """MXNet writes the attributes of an AttrScope on every node."""
    attributes = {'num_class': '3', '__ctx_group__': 'dev1', '__lr_mult__': '0.1'}
    assert Arguments.of_node(attributes).num_class == 3


def test_of_node_is_cached():
    """The same text gives the same object: a step counts by it."""
    one, other = (Arguments.of_node({'num_class': '3', 'alpha': '0.1'}) for _ in range(2))
    assert one is other and one != Arguments(num_class=3, alpha=.1)


@pytest.mark.parametrize('arguments', [
    {}, {'alpha': 0.1}, {'alpha': 1 / 3, 'scale': 1e-300, 'reduction': 'none'},
    {'use_ignore': True, 'ignore_label': 255, 'need_top_grad': True},
    {name: case.plain for name, case in ARGUMENTS.items()
     if name not in ('num_class', 'batchsize')}])
def test_text_and_back(arguments):
    """The JSON of a graph keeps what was given."""
    params = Arguments(num_class=7, **arguments)
    again = Arguments.of_node({name: str(value) for name, value in params.items()})
    assert vars(again) == vars(params)
    assert set(dict(params.items())) == {'num_class', *arguments}
