"""Scripts, symbols and checkpoints written for the ported implementation."""
import json
import resource

import mxnet as mx
import pytest

from center_loss_op import legacy
from center_loss_op.symbol import center_loss
from parameter_files import array_file
from ported import RATE, network, Naive, nodes_of, ported


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
    prefix = str(tmp_path / 'ported')
    (tmp_path / 'ported-symbol.json').write_text(json.dumps(nodes_of(form, dialect)))
    mx.nd.save(prefix + '-0003.params',
               {**{'arg:' + name: value for name, value in naive.arg_params().items()},
                **{'aux:' + name: value for name, value in naive.aux_params().items()}})

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


def test_a_symbol_of_other_operators_is_left_alone(tmp_path):
    symbol = mx.sym.BatchNorm(mx.sym.Variable('data'), name='norm')
    symbol.save(str(tmp_path / 'norm.json'))
    assert legacy.load_symbol(str(tmp_path / 'norm.json')).tojson() == symbol.tojson()


def error_of(load, *args):
    """The one line of a ValueError."""
    with pytest.raises(ValueError) as error:
        load(*args)
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('version', [0, 1, 2])
def test_arrays_of_older_versions_load(tmp_path, version):
    """A file of the centers alone, in each format that MXNet has had."""
    symbol = center_loss(mx.sym.var('data'), mx.sym.var('label'), num_class=2, name='center_loss')
    symbol.save(str(tmp_path / 'old-symbol.json'))
    name = b'aux:center_loss_center_bias'
    (tmp_path / 'old-0001.params').write_bytes(
        array_file(version=version, key=len(name), name=name))
    _, _, aux_params = legacy.load_checkpoint(str(tmp_path / 'old'), 1)
    assert aux_params['center_loss_center_bias'].asnumpy().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_checkpoint_without_centers_is_refused(naive, tmp_path):
    prefix = ported(tmp_path, naive, **{'aux:center_loss_center_bias': None})
    assert error_of(legacy.load_checkpoint, prefix, 3) == (
        '%s-0003.params lacks center_loss_center_bias, which the symbol has as auxiliary states'
        % prefix)


def test_an_array_that_is_neither_argument_nor_state_is_refused(naive, tmp_path):
    prefix = ported(tmp_path, naive, weight=mx.nd.ones(1))
    assert error_of(legacy.load_checkpoint, prefix, 3) == (
        "%s-0003.params is no checkpoint: the name of its array 'weight' begins with neither arg: "
        "nor aux:" % prefix)


def test_arrays_without_names_are_refused(naive, tmp_path):
    prefix = ported(tmp_path, naive)
    mx.nd.save(prefix + '-0003.params', [mx.nd.ones(2), mx.nd.ones(3)])
    assert error_of(legacy.load_checkpoint, prefix, 3) == (
        '%s-0003.params has 2 arrays, but 0 names' % prefix)


@pytest.mark.parametrize('content', [
    array_file(count=1 << 26)[:56], array_file(shape=(1 << 20, 1 << 20)), b'', b'text'],
    ids=['count', 'shape', 'empty', 'text'])
def test_no_memory_is_taken_for_arrays_that_are_not_there(naive, tmp_path, content):
    prefix = ported(tmp_path, naive)
    (tmp_path / 'ported-0003.params').write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert error_of(legacy.load_checkpoint, prefix, 3).startswith(prefix + '-0003.params ')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KB


def test_a_missing_file_is_an_oserror(naive, tmp_path):
    prefix = ported(tmp_path, naive)
    for load in (lambda: legacy.load_checkpoint(prefix, 4),
                 lambda: legacy.load_symbol(prefix + '.json')):
        with pytest.raises(FileNotFoundError):
            load()


CENTER = [node['name'] for node in nodes_of('grouped', '1.9')['nodes']].index('center_loss')
NOT_JSON, NO_SYMBOL, NOT_BUILT = 'is not JSON', 'is JSON, but no symbol', 'is no symbol that MXNet'


@pytest.mark.parametrize('keys, value, complaint', [
    (('nodes',), None, NO_SYMBOL), (('nodes',), {}, NO_SYMBOL),
    (('nodes', 0), None, NO_SYMBOL), (('nodes', 0), [], NO_SYMBOL),
    (('nodes', 0, 'attrs'), None, NO_SYMBOL), (('nodes', 0, 'attr'), [], NO_SYMBOL),
    (('nodes', 0, 'param'), 'x', NO_SYMBOL),
    (('nodes', 0, 'inputs'), None, NO_SYMBOL), (('nodes', 0, 'inputs'), 5, NO_SYMBOL),
    (('nodes', CENTER, 'inputs', 2), None, NO_SYMBOL),
    (('nodes', CENTER, 'inputs', 2), [], NO_SYMBOL),
    (('nodes', CENTER, 'inputs', 2), [[2], 0, 0], NO_SYMBOL),
    (('arg_nodes',), None, NO_SYMBOL), (('arg_nodes',), [[0]], NO_SYMBOL),
    (('heads',), None, NOT_BUILT), (('arg_nodes',), [99], NOT_BUILT),
    (('nodes', 0, 'op'), 'no such operator', NOT_BUILT),
    (('nodes', CENTER, 'attrs', 'num_class'), 'x', NOT_BUILT),
])
def test_a_symbol_with_a_part_that_is_wrong_is_named(tmp_path, keys, value, complaint):
    graph = part = nodes_of('grouped', '1.9')
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path = tmp_path / 'wrong-symbol.json'
    path.write_text(json.dumps(graph))
    assert error_of(legacy.load_symbol, str(path)).startswith('%s %s' % (path, complaint))


@pytest.mark.parametrize('content, times, complaint', [
    (b'', 1, NOT_JSON), (b'{"nodes": ', 1, NOT_JSON), (b'\xff', 1, NOT_JSON),
    (b'[', 100000, NOT_JSON), (b'{"nodes":', 100000, NOT_JSON),
    (b'[]', 1, NO_SYMBOL), (b'{}', 1, NO_SYMBOL), (b'null', 1, NO_SYMBOL), (b'5', 1, NO_SYMBOL),
    (b'"nodes"', 1, NO_SYMBOL), (b'{"nodes": []}', 1, NO_SYMBOL),
    (b'{"arg_nodes": []}', 1, NO_SYMBOL),
])
def test_a_file_that_holds_no_symbol_is_named(tmp_path, content, times, complaint):
    path = tmp_path / 'wrong-symbol.json'
    path.write_bytes(content * times)
    assert error_of(legacy.load_symbol, str(path)).startswith('%s %s' % (path, complaint))
