"""Checkpoints, one function at a time; test_resume.py kills whole runs."""
import json
import os
import pickle
import resource
import subprocess
import sys

import checkpoint
import mxnet as mx
import numpy as np
import pytest
from parameter_files import array_file

FILES = ('model-symbol.json', 'model-0000.params', 'optimizer.params', 'state.json')


def state(value=0.):
    """What a script may keep next to its arrays; its number is `value`."""
    return {'options': {'dataset': 'digits'}, 'history': [value]}


def save(folder, updates, value=0.):
    """A checkpoint of a small symbol, all of whose numbers say `value`."""
    symbol = mx.sym.FullyConnected(mx.sym.var('data'), num_hidden=2, name='fc')
    return checkpoint.save(
        str(folder), updates, symbol,
        {'fc_weight': mx.nd.full((2, 3), value), 'fc_bias': mx.nd.full((2,), value)},
        {'centers': mx.nd.full((400, 2), value)}, {'fc_weight': mx.nd.full((2, 3), value)},
        state(value))


def names(folder):
    return sorted(os.listdir(str(folder / 'checkpoints')))


def with_checksums(path):
    """Make the checksums fit what the files hold now."""
    sums = subprocess.run(['sha256sum', *FILES], cwd=path, check=True, stdout=subprocess.PIPE)
    with open(os.path.join(path, 'SHA256SUMS'), 'wb') as file:
        file.write(sums.stdout)


def test_what_is_saved_is_loaded(tmp_path):
    path = save(tmp_path, 7, 0.1)
    saved = checkpoint.load(str(tmp_path), pytest.fail)
    assert saved.path == path == checkpoint.latest(str(tmp_path))
    assert saved.state == state(0.1)
    for arrays, shapes in ((saved.arg_params, {'fc_weight': (2, 3), 'fc_bias': (2,)}),
                           (saved.aux_params, {'centers': (400, 2)}),
                           (saved.optimizer_states, {'fc_weight': (2, 3)})):
        assert {name: array.shape for name, array in arrays.items()} == shapes
        for array in arrays.values():
            assert (array.asnumpy() == np.float32(0.1)).all()


def test_mxnet_loads_it_and_sha256sum_checks_it(tmp_path):
    path = save(tmp_path, 7, 3)
    symbol, arg_params, aux_params = mx.model.load_checkpoint(os.path.join(path, 'model'), 0)
    assert symbol.list_arguments() == ['data', 'fc_weight', 'fc_bias']
    assert list(aux_params) == ['centers'] and (arg_params['fc_bias'].asnumpy() == 3).all()
    subprocess.run(['sha256sum', '--check', '--quiet', 'SHA256SUMS'], cwd=path, check=True)


def test_an_optimizer_without_state_is_saved_too(tmp_path):
    checkpoint.save(str(tmp_path), 1, mx.sym.var('x'), {'x': mx.nd.ones(1)}, {}, {}, state())
    assert checkpoint.load(str(tmp_path), pytest.fail).optimizer_states == {}


def test_the_last_two_are_kept(tmp_path):
    for updates in 5, 10, 123456789, 15:    # back in time: a run that was resumed further back
        save(tmp_path, updates)
    assert names(tmp_path) == ['step-00000010', 'step-00000015']


def test_saving_a_step_again_replaces_it(tmp_path):
    for value in 1, 2:
        save(tmp_path, 5, value)
    assert checkpoint.load(str(tmp_path), pytest.fail).state == state(2)
    assert names(tmp_path) == ['step-00000005']


def test_leftovers_of_a_kill_are_no_checkpoint_and_go(tmp_path):
    os.makedirs(str(tmp_path / 'checkpoints' / '.unfinished-step-00000009'))
    assert checkpoint.load(str(tmp_path), pytest.fail) is None
    save(tmp_path, 8)
    assert names(tmp_path) == ['step-00000008']


def test_a_new_run_sets_earlier_checkpoints_aside(tmp_path):
    assert checkpoint.begin(str(tmp_path)) is None
    for value, name in enumerate(['', '-2', '-3']):
        save(tmp_path, 8, value)
        assert checkpoint.begin(str(tmp_path)) == str(tmp_path / 'checkpoints-earlier') + name
        assert checkpoint.latest(str(tmp_path)) is None
    for value, name in enumerate(['', '-2', '-3']):
        path = tmp_path / ('checkpoints-earlier' + name) / 'step-00000008'
        assert checkpoint.read(str(path)).state == state(value)


def damage_truncate(path):
    with open(path, 'rb+') as file:
        file.truncate(os.path.getsize(path) // 2)


def damage_bit(path):
    with open(path, 'rb+') as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize('damage, complaint', [
    (damage_truncate, 'is corrupt: the checksum of %s is not that in SHA256SUMS'),
    (damage_bit, 'is corrupt: the checksum of %s is not that in SHA256SUMS'),
    (os.remove, 'cannot be read: %s: No such file or directory')], ids=['cut', 'bit', 'missing'])
@pytest.mark.parametrize('name', FILES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_loaded(tmp_path, damage, complaint,
                                                                   name):
    before, last = save(tmp_path, 5, 5), save(tmp_path, 10, 10)
    damage(os.path.join(last, name))
    lines = []
    assert checkpoint.load(str(tmp_path), lines.append).state == state(5)
    assert lines == ['checkpoint %s %s; continuing from the one before it, %s'
                     % (last, complaint % name, before)]


@pytest.mark.parametrize('damage', [damage_truncate, damage_bit, os.remove])
def test_damaged_checksums_count_as_damage(tmp_path, damage):
    save(tmp_path, 5, 5)
    damage(os.path.join(save(tmp_path, 10, 10), 'SHA256SUMS'))
    lines = []
    assert checkpoint.load(str(tmp_path), lines.append).state == state(5)
    assert len(lines) == 1 and 'step-00000010' in lines[0]


def test_with_no_whole_checkpoint_it_says_so(tmp_path):
    path = save(tmp_path, 5)
    damage_truncate(os.path.join(path, 'state.json'))
    lines = []
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.load(str(tmp_path), lines.append)
    assert lines[0].endswith('; there is none before it')
    assert str(error.value) == ('no checkpoint in %s can be read: start again without --resume'
                                % (tmp_path / 'checkpoints'))


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


@pytest.mark.parametrize('name', FILES)
def test_nothing_is_unpickled(tmp_path, name):
    path = save(tmp_path, 5)
    with open(os.path.join(path, name), 'wb') as file:
        pickle.dump(Bomb(str(tmp_path / 'ran')), file)
    with_checksums(path)
    if name == 'model-symbol.json':     # only MXNet loads it
        checkpoint.read(path)
    else:
        with pytest.raises(checkpoint.CheckpointError, match='%s is corrupt' % path):
            checkpoint.read(path)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('content, complaint', [
    (array_file()[:30], 'ends before its arrays do'),
    (array_file(count=1 << 26), ''), (array_file(key=1 << 62), 'ends before its arrays do'),
    (array_file(shape=(1 << 60,), dimensions=1), 'ends before its arrays do'),
    (array_file(keys=0), 'has 1 arrays, but 0 names'),
])
@pytest.mark.parametrize('name', ['model-0000.params', 'optimizer.params'])
def test_sizes_are_checked_before_memory_is_taken(tmp_path, monkeypatch, name, content, complaint):
    before, path = save(tmp_path, 5, 5), save(tmp_path, 10)
    with open(os.path.join(path, name), 'wb') as file:
        file.write(content)
    with_checksums(path)
    real = mx.nd.load
    monkeypatch.setattr(mx.nd, 'load', lambda file: pytest.fail('MXNet was asked to load it')
                        if file == os.path.join(path, name) else real(file))
    lines = []
    assert checkpoint.load(str(tmp_path), lines.append).path == before
    start = 'checkpoint %s is corrupt: %s %s' % (path, os.path.join(path, name), complaint)
    assert len(lines) == 1 and lines[0].startswith(start) and '\n' not in lines[0]


def test_arrays_that_mxnet_refuses_count_as_damage(tmp_path):
    path = save(tmp_path, 5)
    with open(os.path.join(path, 'optimizer.params'), 'wb') as file:
        file.write(array_file(version=3))   # MXNet wants np_shape for it
    with_checksums(path)
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.read(path)
    assert str(error.value) == ('checkpoint %s is corrupt: MXNet cannot load optimizer.params'
                                % path)


def test_a_state_that_the_script_cannot_use_counts_as_damage(tmp_path):
    before, path = save(tmp_path, 5, 5), save(tmp_path, 10)

    def check(found):
        if found == state():
            raise ValueError('there is no "history"')

    lines = []
    assert checkpoint.load(str(tmp_path), lines.append, check).path == before
    assert lines == ['checkpoint %s is corrupt: state.json: there is no "history"; continuing from '
                     'the one before it, %s' % (path, before)]


@pytest.mark.parametrize('content', [b'', b'{"a": ', b'\xff', b'[' * 100000, b'{"a":' * 100000],
                         ids=['empty', 'cut', 'binary', 'lists', 'dicts'])
def test_a_state_that_is_not_json_counts_as_damage(tmp_path, content):
    path = save(tmp_path, 5)
    with open(os.path.join(path, 'state.json'), 'wb') as file:
        file.write(content)
    with_checksums(path)
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.read(path)
    assert str(error.value).startswith('checkpoint %s is corrupt: state.json: ' % path)


def test_no_name_in_a_checkpoint_leads_out_of_it(tmp_path):
    path = save(tmp_path, 5)
    with open(os.path.join(path, 'SHA256SUMS'), 'a', encoding='utf-8') as file:
        file.write('0' * 64 + '  ../../elsewhere\n')
    assert checkpoint.read(path).state == state(0)


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / 'metrics.json'
    checkpoint.write_file(str(path), 'old')
    with pytest.raises(TypeError):
        checkpoint.write_file(str(path), 5)
    assert path.read_text() == 'old'
    checkpoint.write_file(str(path), b'new')
    assert os.listdir(str(tmp_path)) == ['metrics.json'] and path.read_text() == 'new'


@pytest.mark.parametrize('name', ['checkpoints', 'file'])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, name):
    (tmp_path / name).write_text('')
    folder = tmp_path if name == 'checkpoints' else tmp_path / 'file'
    with pytest.raises(checkpoint.CheckpointError) as error:
        save(folder, 5)
    assert str(error.value).startswith('cannot write %s' % (folder / 'checkpoints'))
    assert str(error.value).endswith('; there is no earlier one')


FULL_DISK = """
import resource, sys
sys.path[:0] = sys.argv[1].split(',')
import checkpoint
from test_checkpoint import save
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit in 0, 100, 2000:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    try:
        save(sys.argv[2], 10, 10)
    except checkpoint.CheckpointError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    """Files may not grow beyond a limit: each of three limits stops another part of the writing."""
    last = save(tmp_path, 5, 5)
    child = subprocess.run(
        [sys.executable, '-c', FULL_DISK, ','.join(sys.path), str(tmp_path)],
        stdout=subprocess.PIPE, check=True, timeout=60, universal_newlines=True)
    assert child.stdout.splitlines() == ['cannot write %s: %s; the last checkpoint is %s' % (
        tmp_path / 'checkpoints' / 'step-00000010', reason, last) for reason in (
            'File too large', 'File too large',
            'not all of model-0000.params could be written, is the disk full?')]
    assert names(tmp_path) == ['step-00000005']
    assert checkpoint.load(str(tmp_path), pytest.fail).state == state(5)


@pytest.mark.parametrize('optimizer', ['sgd', 'nag', 'adam'])
def test_optimizer_states_come_back_by_the_names_of_their_parameters(tmp_path, optimizer):
    """Ten updates are ten updates, with a break after five or without."""
    names_ = {0: 'a', 2: 'b'}

    def updates(updater, weights, first, last):
        for step in range(first, last):
            for index in names_:
                updater(index, mx.nd.array(np.sin(np.arange(6) + step + index)), weights[index])

    def make(begin):
        return mx.optimizer.get_updater(mx.optimizer.create(
            optimizer, learning_rate=0.1, begin_num_update=begin,
            **({} if optimizer == 'adam' else {'momentum': 0.9})))

    straight, weights = ({index: mx.nd.ones(6) * index for index in names_} for _ in range(2))
    updates(make(0), straight, 0, 10)
    first, second = make(0), make(5)
    updates(first, weights, 0, 5)
    states = checkpoint.optimizer_states(first, names_)
    assert set(states) == ({'a.0', 'a.1', 'b.0', 'b.1'} if optimizer == 'adam' else {'a', 'b'})
    checkpoint.save(str(tmp_path), 5, mx.sym.var('x'), {'x': mx.nd.ones(1)}, {}, states, state())
    loaded = checkpoint.load(str(tmp_path), pytest.fail)
    checkpoint.restore_optimizer(second, names_, loaded.optimizer_states, loaded.path)
    updates(second, weights, 5, 10)
    for index in names_:
        np.testing.assert_array_equal(weights[index].asnumpy(), straight[index].asnumpy())


def test_a_missing_optimizer_state_is_named():
    updater = mx.optimizer.get_updater(mx.optimizer.create('adam'))
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.restore_optimizer(updater, {0: 'a', 1: 'b'},
                                     {'a.0': mx.nd.ones(1), 'a.1': mx.nd.ones(1)}, 'the file')
    assert str(error.value) == 'the file has no optimizer state of parameter b'


@pytest.mark.parametrize('arrays, complaint', [
    ({}, 'the file has no parameter net_weight'),
    ({'net_weight': mx.nd.ones((2, 4))},
     'the file has a parameter net_weight of shape (2, 4), the network needs (2, 3)'),
    ({'net_weight': mx.nd.ones((2, 3))}, 'the file has no parameter net_bias')])
def test_a_parameter_that_is_missing_or_of_another_shape_is_named(arrays, complaint):
    net = mx.gluon.nn.Dense(2, in_units=3, prefix='net_')
    net.initialize()
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.restore_parameters(net.collect_params(), arrays, 'the file')
    assert str(error.value) == complaint


def test_state_is_plain_json(tmp_path):
    path = save(tmp_path, 5, 0.1)
    with open(os.path.join(path, 'state.json'), encoding='utf-8') as file:
        assert json.load(file) == state(0.1)


def test_a_checkpoint_does_not_take_memory_for_what_is_not_there(tmp_path):
    path = save(tmp_path, 5)
    with open(os.path.join(path, 'model-0000.params'), 'wb') as file:
        file.write(array_file(count=1 << 26))   # MXNet itself takes 14 GB for this
    with_checksums(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KB
