"""The arguments: parsed and refused, and each known everywhere that it must be."""
import inspect
import re
import textwrap
from dataclasses import MISSING, fields
from pathlib import Path
from unittest import mock

from center_loss_op._operator.arguments import FORMULAS, Arguments
from center_loss_op._operator.operator import CenterLossProp
from center_loss_op.gluon import CenterLoss, DecorrelationLoss
from center_loss_op.symbol import center_loss, decorrelation_loss

import mxnet as mx
import numpy as np
import pytest
from cases import ARGUMENTS, batch, message
from entries import imperative
from numpy.testing import assert_array_equal

X, Y = mx.sym.var('data'), mx.sym.var('label')
FIELDS = {each.name: each for each in fields(Arguments)}
REFERENCE = Path(__file__).parents[2] / 'docs' / 'reference.md'

# -- each argument is everywhere

# What runs in Python, which has the samples that a CenterTrainer gathers.
IN_PYTHON = {'key'}
# What symbol.center_loss does not take: what users do not set, and what only old graphs have.
NOT_OF_SYMBOL = {'scale_output', 'key', 'batchsize'}
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


@pytest.mark.parametrize('name', [name for name in FIELDS if name not in IN_PYTHON])
@pytest.mark.usefixtures('natively')
def test_runs_in_c(name, monkeypatch):
    """A plain value of each argument does not need Python."""
    made = mock.Mock(wraps=CenterLossProp.__init__)
    monkeypatch.setattr(CenterLossProp, '__init__', lambda self, **attributes: made(
        self, **attributes))
    data, label, centers = batch(6, 3, 4)
    imperative(data, label % 4, centers, **{
        'num_class': 4, name: 4 if name == 'num_class' else ARGUMENTS[name].plain})
    assert not made.called


@pytest.mark.parametrize('name', [name for name in FIELDS if name != 'num_class'])
@pytest.mark.usefixtures('natively')
def test_c_has_the_same_defaults(name):
    """Given as text or left out, the default gives the same bits."""
    data, label, centers = batch(6, 3, 4)
    label[2] = -1 if name == 'ignore_label' else label[2]
    given = {'num_class': 4, 'use_ignore': name == 'ignore_label', 'need_top_grad': name == 'scale'}
    given.pop(name, None)
    head = np.array([3.0])
    for left_out, written in zip(
            imperative(data, label, centers, head, **given),
            imperative(data, label, centers, head, **given, **{name: FIELDS[name].default})):
        assert_array_equal(left_out, written)


@pytest.mark.parametrize('name', FIELDS)
def test_is_in_signatures_and_texts(name):
    """Of the graph, of Gluon, of the operator, and a row of the table in docs/reference.md."""
    default, text = FIELDS[name].default, FIELDS[name].metadata['text']
    for function, own, missing in ((center_loss, name, NOT_OF_SYMBOL),
                                   (CenterLoss, NAMES_IN_GLUON.get(name, name), NOT_OF_GLUON)):
        parameter = inspect.signature(function).parameters.get(own)
        assert (parameter is None) == (name in missing)
        if parameter is None:
            continue
        expected = OTHER_DEFAULTS.get((function.__name__, name), default)
        assert parameter.default == (parameter.empty if expected is MISSING else expected)
        entry, = re.findall('^    %s : (.*)$' % own, function.__doc__, re.MULTILINE)
        if (function.__name__, name) != ('CenterLoss', 'scale'):
            assert '    %s : %s\n%s\n' % (
                own, entry, textwrap.indent(text, ' ' * 8)) in function.__doc__
            assert ('default' in entry) == (expected is not MISSING)
    assert '    %s : ' % name in CenterLossProp.__doc__

    row, = [line.split(' | ') for line in REFERENCE.read_text(encoding='utf-8').splitlines()
            if line.startswith('| `') and '`%s`' % name in line.split(' | ')[0]]
    in_gluon = NAMES_IN_GLUON.get(name, name)
    assert (row[1] in ('the same', '`%s`' % in_gluon)) == (name not in NOT_OF_GLUON)
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


@pytest.mark.parametrize('name', FIELDS)
def test_is_written_on_the_node(name):
    """By the graph and by Gluon; what is not the default, and nothing else."""
    plain = ARGUMENTS[name].plain
    label = mx.sym.var('label')
    if name not in NOT_OF_SYMBOL:
        node = center_loss(mx.sym.var('data'), label,
                           **{'num_class': 4, 'reduction': 'mean', name: plain})
        parsed = getattr(Arguments(**{'num_class': 4, name: plain}), name)
        written = node.attr_dict()[node.name]
        assert written == {'op_type': 'centerloss', 'num_class': '4', name: str(parsed)}
    if name not in NOT_OF_GLUON:
        loss = CenterLoss(**{'classes': 3, NAMES_IN_GLUON.get(name, name): plain})
        node = loss(mx.sym.var('data'), label).get_internals()
        assert str(plain) in [attributes.get(name, '').replace('.0', '') for attributes in
                              node.attr_dict().values()]


# -- values


def parse(name, given):
    """From a node of a graph, where `given` is a text, or from Python."""
    make = Arguments.of_node if isinstance(given, str) else lambda given: Arguments(**given)
    return make({'num_class': '3' if isinstance(given, str) else 3, name: given})


@pytest.mark.parametrize('name', FIELDS)
def test_good(name):
    for given, parsed in ARGUMENTS[name].good:
        value = getattr(parse(name, given), name)
        assert value == parsed and type(value) is type(parsed)


@pytest.mark.parametrize('name', [name for name in FIELDS if ARGUMENTS[name].bad])
def test_bad(name):
    """At each door: at once, with the one line that says it. From Python a text is no number."""
    wanted, own = ARGUMENTS[name].wanted, NAMES_IN_GLUON.get(name, name)
    texts = [(given, TypeError) for given, _ in ARGUMENTS[name].good if isinstance(given, str)]
    for given, error in ARGUMENTS[name].bad + texts * (FIELDS[name].type is not str):
        if (given, error) in ARGUMENTS[name].bad:
            with pytest.raises(error, match='^%s$' % re.escape(message(name, given, wanted))):
                parse(name, given)
        if isinstance(given, str) and FIELDS[name].type is not str:
            error = TypeError
        if name not in NOT_OF_SYMBOL:
            with pytest.raises(error, match='^%s$' % re.escape(message(name, given, wanted))):
                center_loss(X, Y, **{'num_class': 3, name: given})
        if name not in NOT_OF_GLUON and (own, given) != ('weight', None):
            with pytest.raises(error, match='^%s$' % re.escape(message(own, given, wanted))):
                CenterLoss(**{'classes': 3, own: given})


@pytest.mark.parametrize('call, name', [
    (lambda count: Arguments(num_class=count), 'num_class'),
    (lambda count: Arguments.of_node({'num_class': str(count)}), 'num_class'),
    (lambda count: center_loss(mx.sym.var('data'), mx.sym.var('label'), count), 'num_class'),
    (CenterLoss, 'classes')], ids=['numbers', 'text', 'graph', 'Gluon'])
def test_more_classes_than_any_array_has_elements(call, name):
    for count in 2 ** 31, 10 ** 40:
        with pytest.raises(ValueError, match='^%s must be at most 2147483647, as many .*got .?%d'
                           % (name, count)):
            call(count)
    call(2 ** 31 - 1)


# -- names: what users of other losses write


@pytest.mark.parametrize('call, text', [
    (lambda: CenterLoss(num_classes=10, feat_dim=64), "'num_classes', did you mean classes?"),
    (lambda: CenterLoss(10, feature_dim=64), "'feature_dim', did you mean in_units?"),
    (lambda: CenterLoss(10, **{'lambda': 0.1}), "'lambda', did you mean weight?"),
    (lambda: CenterLoss(10, 64, 0.1),
     '0.1 needs its name, such as alpha=0.1 or weight=0.1; by name are: alpha, '
     'weight, batch_axis, center_initializer, use_ignore, ignore_label'),
    (lambda: DecorrelationLoss(scale=0.1), "'scale', did you mean weight?"),
    (lambda: center_loss(X, Y, 3, weight=0.1), "'weight', did you mean scale?"),
    # In its place, other implementations have λ.
    (lambda: center_loss(X, Y, 10, 0.1), '0.1 needs its name, such as alpha=0.1 or scale=0.1; by'),
    (lambda: center_loss(X, Y, 3, in_units=64),
     "'in_units': leave it out, the size of the features is that of the data"),
    (lambda: decorrelation_loss(X, weight=0.1), "'weight', did you mean scale?"),
    (lambda: Arguments.of_node({'num_class': '3', 'lambda': '0.1'}),
     "'lambda', did you mean scale?; allowed are: " + ', '.join(FIELDS)),
    (lambda: Arguments.of_node({'num_class': '3', 'feat_dim': '2'}), "'feat_dim': leave it out"),
    (lambda: Arguments.of_node({'alpha': '1'}), "missing argument 'num_class'"),
    (lambda: Arguments.of_node({'num_class': '3', 'beta': '1'}), "unknown argument 'beta'"),
    (lambda: CenterLoss(10, other=1), "unexpected keyword argument 'other'")])
def test_the_error_says_what_was_meant(call, text):
    with pytest.raises(TypeError) as caught:
        call()
    assert text in str(caught.value)


def test_arguments_of_a_block_are_none_of_ours():
    assert CenterLoss(10, prefix='mine_').centers.name == 'mine_center_bias'
