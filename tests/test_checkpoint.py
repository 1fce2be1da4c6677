"""The checkpoints of the examples, one function at a time; test_resume.py kills whole runs."""
import json
import os
import pickle
import resource
import struct
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

import checkpoint

FILES = ('model-symbol.json', 'model-0000.params', 'optimizer.params', 'state.json')


def save(folder, updates, value=0.):
    """A checkpoint of a small symbol, all of whose numbers say `value`."""
    symbol = mx.sym.FullyConnected(mx.sym.var('data'), num_hidden=2, name='fc')
    return checkpoint.save(
        str(folder), updates, symbol,
        {'fc_weight': mx.nd.full((2, 3), value), 'fc_bias': mx.nd.full((2,), value)},
        {'centers': mx.nd.full((400, 2), value)}, {'fc_weight': mx.nd.full((2, 3), value)},
        {'value': value})


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
    assert saved.state == {'value': 0.1}
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
    checkpoint.save(str(tmp_path), 1, mx.sym.var('x'), {'x': mx.nd.ones(1)}, {}, {}, {})
    assert checkpoint.load(str(tmp_path), pytest.fail).optimizer_states == {}


def test_the_last_two_are_kept(tmp_path):
    for updates in 5, 10, 123456789, 15:    # back in time: a run that was resumed further back
        save(tmp_path, updates)
    assert names(tmp_path) == ['step-00000010', 'step-00000015']


def test_saving_a_step_again_replaces_it(tmp_path):
    for value in 1, 2:
        save(tmp_path, 5, value)
    assert checkpoint.load(str(tmp_path), pytest.fail).state == {'value': 2}
    assert names(tmp_path) == ['step-00000005']


def test_leftovers_of_a_kill_are_no_checkpoint_and_go(tmp_path):
    os.makedirs(str(tmp_path / 'checkpoints' / '.unfinished-step-00000009'))
    assert checkpoint.load(str(tmp_path), pytest.fail) is None
    save(tmp_path, 8)
    assert names(tmp_path) == ['step-00000008']


def test_a_new_run_sets_earlier_checkpoints_aside(tmp_path):
    assert checkpoint.begin(str(tmp_path / 'new')) is None
    save(tmp_path, 8, 1)
    aside = checkpoint.begin(str(tmp_path))
    assert checkpoint.latest(str(tmp_path)) is None
    assert checkpoint.read(os.path.join(aside, 'step-00000008')).state == {'value': 1}


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
    assert checkpoint.load(str(tmp_path), lines.append).state == {'value': 5}
    assert lines == ['checkpoint %s %s; continuing from the one before it, %s'
                     % (last, complaint % name, before)]


@pytest.mark.parametrize('damage', [damage_truncate, damage_bit, os.remove])
def test_damaged_checksums_count_as_damage(tmp_path, damage):
    save(tmp_path, 5, 5)
    damage(os.path.join(save(tmp_path, 10, 10), 'SHA256SUMS'))
    lines = []
    assert checkpoint.load(str(tmp_path), lines.append).state == {'value': 5}
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


class Bomb:  # pylint: disable=too-few-public-methods
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
    if name == 'model-symbol.json':     # for MXNet to load, not for the examples
        checkpoint.read(path)
    else:
        with pytest.raises(checkpoint.CheckpointError, match='%s is corrupt' % path):
            checkpoint.read(path)
    assert not (tmp_path / 'ran').exists()


def arrays(count=1, dimensions=2, shape=(2, 3), kind=0, content=24, storage=0, keys=1, key=1):
    """A file of mx.nd.save by hand, with sizes that may lie."""
    return (struct.pack('<QQQ', 0x112, 0, count) + struct.pack('<IiI', 0xF993fac9, storage,
                                                               dimensions)
            + struct.pack('<%dq' % len(shape), *shape) + struct.pack('<iii', 1, 0, kind)
            + bytes(content) + struct.pack('<QQ', keys, key) + b'x')


def test_arrays_by_hand_are_arrays(tmp_path):
    (tmp_path / 'hand').write_bytes(arrays())
    assert mx.nd.load(str(tmp_path / 'hand'))['x'].shape == (2, 3)


@pytest.mark.parametrize('content, complaint', [
    (b'', ''), (arrays()[:30], ''), (bytes(100), 'is not a file of arrays'),
    (arrays(count=1 << 26), ''), (arrays(count=1 << 60), ''), (arrays(keys=1 << 40), 'names'),
    (arrays(keys=1, key=1 << 40), 'ends before its arrays do'),
    (arrays(keys=1, key=1 << 63), ''),
    (arrays(shape=(1 << 20, 1 << 20)), 'ends before its arrays do'),
    (arrays(shape=(1 << 40, 1 << 40)), ''), (arrays(shape=(-1, -6)), 'no known type or shape'),
    (arrays(dimensions=1 << 28), 'other than dense arrays'), (arrays(kind=99), 'no known type'),
    (arrays(storage=1), 'other than dense arrays'), (arrays() + b'x', 'goes on after its end'),
])
def test_sizes_are_checked_before_memory_is_taken(tmp_path, monkeypatch, content, complaint):
    path = save(tmp_path, 5)
    with open(os.path.join(path, 'optimizer.params'), 'wb') as file:
        file.write(content)
    with_checksums(path)
    real = mx.nd.load
    monkeypatch.setattr(mx.nd, 'load', lambda name: pytest.fail('MXNet was asked to load it')
                        if 'optimizer' in name else real(name))
    with pytest.raises(checkpoint.CheckpointError, match='is corrupt: .*' + complaint):
        checkpoint.read(path)


def test_no_name_in_a_checkpoint_leads_out_of_it(tmp_path):
    path = save(tmp_path, 5)
    with open(os.path.join(path, 'SHA256SUMS'), 'a', encoding='utf-8') as file:
        file.write('0' * 64 + '  ../../elsewhere\n')
    assert checkpoint.read(path).state == {'value': 0}


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
sys.path[:0] = sys.argv[1:3]
import checkpoint
from test_checkpoint import save
limit = int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    save(sys.argv[3], 10, 10)
except checkpoint.CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize('limit, reason', [
    (0, 'File too large'), (100, 'File too large'),
    (2000, 'not all of model-0000.params could be written, is the disk full?')])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, limit, reason):
    """Files may not grow beyond `limit` bytes: each limit stops another part of the writing."""
    last = save(tmp_path, 5, 5)
    here = os.path.dirname(os.path.abspath(__file__))
    child = subprocess.run(
        [sys.executable, '-c', FULL_DISK, here, os.path.join(here, '..', 'examples'),
         str(tmp_path), str(limit)], stdout=subprocess.PIPE, check=True, timeout=60,
        universal_newlines=True)
    assert child.stdout == 'cannot write %s: %s; the last checkpoint is %s\n' % (
        tmp_path / 'checkpoints' / 'step-00000010', reason, last)
    assert names(tmp_path) == ['step-00000005']
    assert checkpoint.load(str(tmp_path), pytest.fail).state == {'value': 5}


@pytest.mark.parametrize('optimizer', ['sgd', 'nag', 'adam'])
@pytest.mark.parametrize('copies', [1, 2])
def test_optimizer_states_come_back_by_the_names_of_their_parameters(tmp_path, optimizer, copies):
    """Ten updates are ten updates, with a break after five or without."""
    def updates(updater, weights, first, last):
        for step in range(first, last):
            for index, weight in enumerate(weights):
                for copy in range(copies):
                    gradient = mx.nd.array(np.sin(np.arange(6) + step + index))
                    updater(index * copies + copy, gradient, weight[copy])

    def make(begin):
        return mx.optimizer.get_updater(mx.optimizer.create(
            optimizer, learning_rate=0.1, begin_num_update=begin,
            **({} if optimizer == 'adam' else {'momentum': 0.9})))

    def new_weights():
        return [[mx.nd.ones(6) * index for _ in range(copies)] for index in range(2)]

    straight = new_weights()
    updates(make(0), straight, 0, 10)
    weights, first, second = new_weights(), make(0), make(5)
    updates(first, weights, 0, 5)
    states = checkpoint.optimizer_states(first, ['a', 'b'], copies)
    assert set(states) == ({'a.0', 'a.1', 'b.0', 'b.1'} if optimizer == 'adam' else {'a', 'b'})
    checkpoint.save(str(tmp_path), 5, mx.sym.var('x'), {'x': mx.nd.ones(1)}, {}, states, {})
    loaded = checkpoint.load(str(tmp_path), pytest.fail)
    checkpoint.restore_optimizer(second, ['a', 'b'], loaded.optimizer_states, copies)
    updates(second, weights, 5, 10)
    for copy in range(copies):
        for index in range(2):
            np.testing.assert_array_equal(weights[index][copy].asnumpy(),
                                          straight[index][copy].asnumpy())


def test_state_is_plain_json(tmp_path):
    path = save(tmp_path, 5, 0.1)
    with open(os.path.join(path, 'state.json'), encoding='utf-8') as file:
        assert json.load(file) == {'value': 0.1}


def test_a_checkpoint_does_not_take_memory_for_what_is_not_there(tmp_path):
    path = save(tmp_path, 5)
    with open(os.path.join(path, 'model-0000.params'), 'wb') as file:
        file.write(arrays(count=1 << 26))   # MXNet itself takes 14 GB for this
    with_checksums(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KB
