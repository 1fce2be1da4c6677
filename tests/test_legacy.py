"""Scripts, symbols and checkpoints written for the ported implementation."""
import json
import resource

from center_loss_op import legacy
from center_loss_op.symbol import center_loss

import mxnet as mx
import numpy as np
import pytest
from parameter_files import array_file
from ported import RATE, Naive, network, nodes_of, ported


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


def test_arrays_with_numpy_shapes_are_refused_without_them(naive, tmp_path):
    prefix = ported(tmp_path, naive)
    (tmp_path / 'ported-0003.params').write_bytes(array_file(version=3, key=5, name=b'arg:x'))
    assert error_of(legacy.load_checkpoint, prefix, 3).startswith(
        prefix + '-0003.params cannot be loaded by MXNet: ')


def test_a_damaged_file_of_arrays_is_a_value_error(naive, tmp_path):
    """Bytes changed, cut off or put in: one line, or arrays."""
    prefix = ported(tmp_path, naive)
    path = tmp_path / 'ported-0003.params'
    good, random = path.read_bytes(), np.random.RandomState(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(good)
        for _ in range(random.randint(1, 4)):
            place = random.randint(len(damaged))
            damaged[place:place + random.choice([1, 1, 4, len(good)])] = random.choice(
                [b'\0', b'\1', b'\xff', b'\xca', random.bytes(1), random.bytes(8)])
        path.write_bytes(damaged)
        try:
            legacy.load_checkpoint(prefix, 3)
        except ValueError as error:
            assert '\n' not in str(error)
            refused += 1
    assert refused > 200


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
    (('heads',), None, NO_SYMBOL), (('heads',), [0], NO_SYMBOL), (('arg_nodes',), [99], NOT_BUILT),
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
    with open(path, 'w') as file:
        json.dump(graph, file)  # escapes what MXNet does not read
    assert legacy.load_symbol(path).list_arguments() == [name, 'label']


LAST = len(nodes_of('grouped', '1.9')['nodes'])
DAMAGES = [
    (('nodes', CENTER, 'inputs'), [[3, 0, 0]], "'center_loss' has 1 inputs, but Custom needs 3"),
    (('nodes', CENTER, 'inputs'), [], "'center_loss' has 0 inputs, but Custom needs 3"),
    (('nodes', 3, 'inputs'), [[0, 0, 0]], "'embedding' has 1 inputs, but FullyConnected needs 3"),
    (('nodes', 6, 'inputs'), [], "'fc2' has 0 inputs, but FullyConnected needs 3"),
    (('nodes', 6, 'inputs', 0), [3, 1, 0], "node 'fc2' reads output 1 of 'embedding', which has 1"),
    (('nodes', 6, 'inputs', 0), [3, -1, 0], "node 'fc2' reads output -1 of 'embedding'"),
    (('nodes', 6, 'inputs', 0), [0, 1, 0], "node 'fc2' reads output 1 of 'data', which has 1"),
    (('nodes', 6, 'inputs', 0), [6, 0, 0], "node 'fc2' reads node 6, but only nodes 0 to 5 come"),
    (('nodes', 6, 'inputs', 0), [LAST, 0, 0], "node 'fc2' reads node %d, but only" % LAST),
    (('nodes', 6, 'inputs', 0), [-1, 0, 0], "node 'fc2' reads node -1, but only"),
    (('heads',), [[LAST, 0, 0]], 'a head reads node %d, but only nodes 0 to' % LAST),
    (('heads',), [[CENTER, 1, 0]], "a head reads output 1 of 'center_loss', which has 1"),
    (('heads',), [[CENTER, 1 << 40, 0]], 'a head reads output'),
]


@pytest.mark.parametrize('keys, value, complaint', DAMAGES)
def test_a_graph_that_would_crash_mxnet_is_refused(tmp_path, keys, value, complaint):
    graph = part = nodes_of('grouped', '1.9')
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path = tmp_path / 'damaged-symbol.json'
    path.write_text(json.dumps(graph))
    found = error_of(legacy.load_symbol, str(path))
    assert found.startswith('%s is damaged: ' % path) and complaint in found


def test_damaged_graphs_do_not_end_the_process(child):
    """Some nodes lose inputs or read others, in files of each release: an error, or a symbol."""
    graphs = [nodes_of(form, dialect) for form in ('grouped', 'MakeLoss')
              for dialect in ('1.9', '0.9', '0.8')]
    done = child('''
import json, random, sys, tempfile
from center_loss_op import legacy
random.seed(0)
refused = 0
for text in json.loads(sys.argv[1]) * 60:
    graph = json.loads(json.dumps(text))
    for _ in range(random.randint(1, 3)):
        inputs = random.choice([node['inputs'] for node in graph['nodes'] if node['inputs']]
                               + [graph['heads']])
        if random.random() < .4:
            del inputs[random.randrange(len(inputs)):]
            if not inputs:
                break
        else:
            random.choice(inputs)[random.randrange(2)] = random.choice([-1, 0, 1, 2, 5, 9, 99])
    with tempfile.NamedTemporaryFile('w') as file:
        json.dump(graph, file)
        file.flush()
        try:
            symbol = legacy.load_symbol(file.name)
        except ValueError as error:
            assert '\\n' not in str(error)
            refused += 1
            continue
    symbol.list_arguments(), symbol.list_auxiliary_states(), symbol.list_outputs()
    try:
        symbol.infer_shape(data=(8, 5))
    except Exception:
        pass
print(refused)
''', json.dumps(graphs))
    assert done.returncode == 0, done.stderr[-2000:]
    assert 100 < int(done.stdout.split()[-1]) < 360


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
