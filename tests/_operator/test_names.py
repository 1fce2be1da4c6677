"""What users of other losses write: the error says what it is called here."""
import inspect

from center_loss_op import gluon, symbol
from center_loss_op._operator.arguments import Arguments

import mxnet as mx
import pytest

DATA, LABEL = mx.sym.var('data'), mx.sym.var('label')


@pytest.mark.parametrize('call, text', [
    (lambda: gluon.CenterLoss(num_classes=10, feat_dim=64), "'num_classes', did you mean classes?"),
    (lambda: gluon.CenterLoss(10, feat_dim=64), "'feat_dim', did you mean in_units?"),
    (lambda: gluon.CenterLoss(num_class=10), "'num_class', did you mean classes?"),
    (lambda: gluon.CenterLoss(10, scale=0.1), "'scale', did you mean weight?"),
    (lambda: gluon.CenterLoss(10, lambda_=0.1), "'lambda_', did you mean weight?"),
    (lambda: gluon.CenterLoss(10, **{'lambda': 0.1}), "'lambda', did you mean weight?"),
    (lambda: gluon.CenterLoss(10, lr_cent=0.5), "'lr_cent', did you mean alpha?"),
    (lambda: gluon.CenterLoss(10, feature_dim=64), "'feature_dim', did you mean in_units?"),
    (lambda: gluon.CenterLoss(10, 64, 0.1),
     '0.1 needs its name, such as alpha=0.1 or weight=0.1; by name are: alpha, '
     'weight, batch_axis, center_initializer, use_ignore, ignore_label'),
    (lambda: gluon.DecorrelationLoss(scale=0.1), "'scale', did you mean weight?"),
    (lambda: symbol.center_loss(DATA, LABEL, 3, weight=0.1), "'weight', did you mean scale?"),
    (lambda: symbol.center_loss(DATA, LABEL, classes=3), "'classes', did you mean num_class?"),
    (lambda: symbol.center_loss(DATA, LABEL, num_classes=3),
     "'num_classes', did you mean num_class?"),
    (lambda: symbol.center_loss(DATA, LABEL, 3, in_units=64),
     "'in_units': leave it out, the size of the features is that of the data"),
    (lambda: symbol.center_loss(DATA, LABEL, 3, **{'lambda': 1}), "'lambda', did you mean scale?"),
    (lambda: symbol.center_loss(DATA, LABEL, 3, lr_cent=1), "'lr_cent', did you mean alpha?"),
    (lambda: symbol.decorrelation_loss(DATA, weight=0.1), "'weight', did you mean scale?"),
    (lambda: Arguments.of_node({'num_class': '3', 'weight': '0.1'}),
     "'weight', did you mean scale?"),
    (lambda: Arguments.of_node({'num_class': '3', 'feat_dim': '2'}), "'feat_dim': leave it out"),
    (lambda: symbol.center_loss(DATA, LABEL, 3, other=1), "unexpected keyword argument 'other'"),
    (lambda: symbol.center_loss(DATA, LABEL), 'missing 1 required positional '
     "argument: 'num_class'"),
    (lambda: gluon.CenterLoss(), "missing 1 required positional argument: 'classes'"),
    (lambda: gluon.CenterLoss(10, other=1), "unexpected keyword argument 'other'")])
def test_the_error_says_what_was_meant(call, text):
    with pytest.raises(TypeError) as caught:
        call()
    assert text in str(caught.value)


@pytest.mark.parametrize('function', [gluon.CenterLoss, symbol.center_loss])
def test_the_signature_is_the_one_that_is_written(function):
    names = list(inspect.signature(function).parameters)
    assert 'alpha' in names and 'args' not in names


def test_arguments_of_a_block_are_none_of_ours():
    assert gluon.CenterLoss(10, prefix='mine_').centers.name == 'mine_center_bias'
