"""Scripts, symbols and checkpoints written for the ported implementation."""
import json

from center_loss_op import legacy
from center_loss_op._mxnet.graph import symbol_of
from center_loss_op.symbol import center_loss

import mxnet as mx
import numpy as np
import pytest
from numpy.testing import assert_allclose
from ported import iterator, network, parameters, ported


def fit_module(symbol, form, arg_params, aux_params):
    feed = iterator(form)
    module = mx.mod.Module(symbol, label_names=[desc.name for desc in feed.provide_label])
    module.fit(feed, num_epoch=2, arg_params=arg_params, aux_params=aux_params, kvstore=None,
               eval_metric=mx.metric.Accuracy(output_names=['softmax_output'],
                                              label_names=['softmax_label']))
    return module.get_params()


def fit_feed_forward(symbol, form, arg_params, aux_params):
    with pytest.warns(DeprecationWarning, match='FeedForward'):
        model = mx.model.FeedForward(symbol, num_epoch=2, arg_params=arg_params,
                                     aux_params=aux_params, optimizer='sgd')
    model.fit(iterator(form), kvstore=None,
              eval_metric=mx.metric.Loss(output_names=['center_loss_output', 'made_loss_output']))
    return model.arg_params, model.aux_params


def check(found, wanted):
    for one, other in zip(found, wanted):
        assert set(one) == set(other)
        for name, value in other.items():
            assert_allclose(one[name].asnumpy(), value.asnumpy(), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize('dialect', ['1.9', '0.9', '0.8'])
@pytest.mark.parametrize('form, fit', [('grouped', fit_module), ('MakeLoss', fit_feed_forward)])
def test_a_ported_checkpoint_goes_on(form, fit, dialect, tmp_path):
    """As a graph that is written today, whose steps other tests compare with the oracle."""
    prefix = ported(tmp_path, form=form, dialect=dialect)
    symbol, *loaded = legacy.load_checkpoint(prefix, 3)
    wanted = network(form, reduction='mean')
    assert symbol.list_arguments() == wanted.list_arguments()
    assert symbol.list_outputs() == wanted.list_outputs()
    assert symbol.list_auxiliary_states() == ['center_loss_center_bias']
    args, states = parameters()
    before = args, {'center_loss_center_bias': states['center_loss_center_bias']}
    check(loaded, before)

    after = fit(symbol, form, *loaded)
    check(after, fit(wanted, form, *before))
    check(after, fit(network(form), form, *before))
    assert not np.allclose(after[1]['center_loss_center_bias'].asnumpy(),
                           states['center_loss_center_bias'].asnumpy())

    # Saved again it is a checkpoint like any other.
    mx.model.save_checkpoint(prefix + '-new', 5, symbol, *after)
    for load in mx.model.load_checkpoint, legacy.load_checkpoint:
        symbol, *loaded = load(prefix + '-new', 5)
        assert symbol.list_auxiliary_states() == ['center_loss_center_bias']
        check(loaded, after)


NAMES = ['ä', '中心', '😀', 'a\\b', 'a"b', 'a\nb\tc\rd', 'a\x01b', 'a\bc\fd', '\\u0041', 'a/b',
         '\x7f']


@pytest.mark.parametrize('name', NAMES)
def test_any_name_that_mxnet_loads(tmp_path, name):
    path = str(tmp_path / 'named-symbol.json')
    symbol = center_loss(mx.sym.var(name), mx.sym.var('label'), 3, name=name + '_loss')
    symbol.save(path)
    for load in mx.sym.load, legacy.load_symbol:
        assert load(path).list_arguments() == [name, 'label']
        assert load(path).list_auxiliary_states() == [name + '_loss_center_bias']
    with open(path, encoding='utf-8') as file:
        graph = json.load(file, strict=False)
    # As a graph of the ported operator is written.
    assert symbol_of(graph).list_arguments() == [name, 'label']


@pytest.mark.parametrize('content', [None, b'', b'{"nodes": ', b'\xff', b'[]', b'{}',
                                     b'{"nodes": [5]}'])
def test_a_file_that_holds_no_symbol_is_mxnets_to_refuse(tmp_path, content):
    path = tmp_path / 'wrong-symbol.json'
    if content is not None:
        path.write_bytes(content)
    for load in mx.sym.load, legacy.load_symbol:
        with pytest.raises((mx.MXNetError, OSError, UnicodeDecodeError)):   # of MXNet's own text
            load(str(path))
