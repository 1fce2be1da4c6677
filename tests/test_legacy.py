"""Scripts, symbols and checkpoints written for the ported implementation."""
import json

from center_loss_op import legacy
from center_loss_op._mxnet.graph import symbol_of
from center_loss_op.symbol import center_loss

import mxnet as mx
import pytest
from ported import RATE, Naive, network, ported


@pytest.fixture(name='naive')
def fixture_naive():
    return Naive()


def fit_module(symbol, iterator, arg_params, aux_params):
    module = mx.mod.Module(symbol, label_names=[desc.name for desc in iterator.provide_label])
    module.fit(iterator, num_epoch=2, arg_params=arg_params, aux_params=aux_params,
               optimizer='sgd', optimizer_params={'learning_rate': RATE}, kvstore=None,
               eval_metric=mx.metric.Accuracy(output_names=['softmax_output'],
                                              label_names=['softmax_label']),
               batch_end_callback=lambda param: mx.nd.waitall())
    return module.get_params()


def fit_feed_forward(symbol, iterator, arg_params, aux_params):
    with pytest.warns(DeprecationWarning, match='FeedForward'):
        model = mx.model.FeedForward(symbol, num_epoch=2, arg_params=arg_params,
                                     aux_params=aux_params, optimizer='sgd', learning_rate=RATE)
    model.fit(iterator, kvstore=None, batch_end_callback=lambda param: mx.nd.waitall(),
              eval_metric=mx.metric.Loss(output_names=['center_loss_output', 'made_loss_output']))
    return model.arg_params, model.aux_params


@pytest.mark.parametrize('fit', [fit_module, fit_feed_forward])
@pytest.mark.parametrize('form', ['grouped', 'MakeLoss'])
def test_a_ported_graph_trains_as_before(naive, form, fit):
    aux_params = {'center_loss_center_bias': naive.aux_params()['center_loss_center_bias']}
    arg_params, aux_params = fit(network(form), naive.iterator(form), naive.arg_params(),
                                 aux_params)
    naive.epoch()
    naive.epoch()
    naive.check(arg_params, aux_params)


@pytest.mark.parametrize('dialect', ['1.9', '0.9', '0.8'])
@pytest.mark.parametrize('form', ['grouped', 'MakeLoss'])
def test_a_ported_checkpoint_goes_on(naive, form, dialect, tmp_path):
    prefix = ported(tmp_path, naive, form=form, dialect=dialect)
    symbol, arg_params, aux_params = legacy.load_checkpoint(prefix, 3)
    wanted = network(form)
    assert symbol.list_arguments() == wanted.list_arguments()
    assert symbol.list_outputs() == wanted.list_outputs()
    assert symbol.list_auxiliary_states() == ['center_loss_center_bias']
    naive.check(arg_params, aux_params)

    fit = fit_module if form == 'grouped' else fit_feed_forward
    arg_params, aux_params = fit(symbol, naive.iterator(form), arg_params, aux_params)
    naive.epoch()
    naive.epoch()
    naive.check(arg_params, aux_params)

    # Saved again it is a checkpoint like any other.
    mx.model.save_checkpoint(prefix + '-new', 5, symbol, arg_params, aux_params)
    for load in mx.model.load_checkpoint, legacy.load_checkpoint:
        symbol, arg_params, aux_params = load(prefix + '-new', 5)
        assert symbol.list_auxiliary_states() == ['center_loss_center_bias']
        naive.check(arg_params, aux_params)


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
