"""examples/recognizer/train.py: from pictures to a recognizer, and again after a kill."""
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import checkpoint
import metrics
import mxnet as mx
import networks
import numpy as np
import pytest
import recipe
import train
from data import DataError, Pictures
from patterns import patterns, write_folder

SCRIPT = os.path.abspath(train.__file__)
QUICK = ['--drawings', '--epochs', '2', '--embedding-size', '16']


def run(data, out, *arguments):
    """metrics.json of a short training."""
    return train.main([str(data), '--output-dir', str(out), *QUICK, *arguments])


def arrays(path, classes=24, each=6, **options):
    """An .npz file of patterns."""
    images, labels = patterns(classes, each, **options)
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture(name='trained', scope='module')
def train_once(tmp_path_factory):
    """(OUT, metrics.json, DATA) of three losses, by classes with blanks and umlauts."""
    folder = tmp_path_factory.mktemp('trained')
    data = write_folder(folder / 'data', 24, 6)
    (data / 'class 07').rename(data / 'Ärger & <b>')
    return folder / 'out', run(data, folder / 'out', '--center-weight', '0', '0.1'), data


def parameters(out):
    """All parameters of the exported network."""
    return {name: array.asnumpy() for name, array in mx.nd.load(
        str(out / 'embedding-0000.params')).items()}


# -- what it leaves


def test_the_exported_network_is_the_one_of_the_table(trained):
    out, result, _ = trained
    assert json.loads((out / 'metrics.json').read_text()) == json.loads(json.dumps(result))
    assert list(result['rows']) == ['softmax', 'softmax, decorrelation 0.1',
                                    'λ = 0.1, decorrelation 0.1']
    for row in result['rows'].values():     # λ at its full height
        assert row['epoch'] == 2 and row['center_weight_at_epoch'] == row['center_weight']
    recognizer = checkpoint.load_recognizer(
        str(out), ['embedding.onnx', 'embedding-0000.params', 'classes.npz'])
    exported = result['rows'][result['exported']]
    assert recognizer['row'] == {name: exported[name] for name in (
        'epoch', 'decorrelation', 'center_weight', 'plain')}
    assert recognizer['thresholds'] == result['thresholds'] and recognizer['size'] == [8, 8]
    onnxruntime = pytest.importorskip('onnxruntime')
    session = onnxruntime.InferenceSession(recognizer['content']['embedding.onnx'],
                                           providers=['CPUExecutionProvider'])
    pixels, labels = patterns(24, 6)
    names = np.array([f'class {label:02d}' if label != 7 else 'Ärger & <b>' for label in labels])
    held_out = np.isin(names, result['held_out']['classes'])
    embedding = session.run(None, {'data': pixels[held_out, None].astype('float32')})[0]
    figures = metrics.held_out(embedding, np.unique(names[held_out], return_inverse=True)[1],
                               'cosine')[0]
    for name in 'eer', 'rank1', 'tar_at_far_1':
        assert figures[name].value == pytest.approx(exported[name]['value'], abs=1e-3)
    net = mx.gluon.SymbolBlock.imports(str(out / 'embedding-symbol.json'), ['data'],
                                       str(out / 'embedding-0000.params'))
    np.testing.assert_allclose(net(mx.nd.array(pixels[held_out, None])).asnumpy(), embedding,
                               atol=1e-3)
    with np.load(out / 'classes.npz', allow_pickle=False) as classes:
        assert sorted(classes['names']) == recognizer['classes']
        assert classes['centers'].shape == (19, 16)


def test_held_out_classes_are_written_down(trained):
    out, result, data = trained
    held_out = result['held_out']
    assert held_out['kind'] == 'classes' and len(held_out['classes']) == 5
    trained_on = set(checkpoint.load_recognizer(str(out), [])['classes'])
    assert not trained_on & set(held_out['classes'])
    assert trained_on | set(held_out['classes']) == set(os.listdir(data))
    log = (out / 'training.log').read_text()
    assert all(name in log for name in held_out['classes']) and log.count(': epoch ') == 6
    with open(out / 'history.csv', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert [(row['row'], row['epoch']) for row in rows[-2:]] == [
        ('λ = 0.1, decorrelation 0.1', '1'), ('λ = 0.1, decorrelation 0.1', '2')]
    assert {'curves.png', 'report.html'} < set(os.listdir(out))
    assert not list(out.rglob('*unfinished*')) and not list(out.rglob('*.new'))
    page = (out / 'report.html').read_text()
    assert 'image/jpeg' not in page and '<b>' not in page


# -- from a program


def test_train_can_be_called():
    images, labels = patterns(6, 10)
    losses = {}
    for weight in 0., 0.5:
        rows = []
        trained = train.train(images[..., None], labels, networks.Spec(embedding_size=8),
                              center_weight=weight, epochs=3, drawings=True,
                              after_epoch=lambda row, network, rows=rows: rows.append(row))
        assert trained.history == rows and [row['epoch'] for row in rows] == [1, 2, 3]
        assert rows[-1]['center_weight'] == weight and rows[-1]['learning_rate'] < 1e-3
        embedding = trained.embeddings(images[..., None])
        assert embedding.shape == (60, 8) and rows[-1]['accuracy'] > 0.9
        losses[weight] = rows[-1]['center_loss']
    assert losses[0.5] < 0.8 * losses[0.]
    assert trained.centers().shape == (6, 8)


def test_a_plain_embedding_of_many_inputs_learns():
    """The loss does not rise above that of a guess, which ended with one embedding for all."""
    random, labels = np.random.RandomState(0), np.repeat(np.arange(20), 4)
    images = random.uniform(0, 255, (20, 8, 168, 3))[labels] + random.normal(0, 30, (80, 8, 168, 3))
    trained = train.train(np.clip(images, 0, 255).astype(np.uint8), labels,
                          networks.Spec(plain=True), 0.01, 0.01, epochs=1, drawings=True)
    assert trained.history[0]['softmax_loss'] < np.log(20)


# -- decisions


def of_counts(counts, apart=()):
    """What `recipe.hold_out` reads of data.Pictures."""
    names = [f'class {number:02d}' for number in range(len(counts))]
    return Pictures(None, np.repeat(np.arange(len(counts)), counts), names, None, None,
                    list(apart), None)


@pytest.mark.parametrize('counts, share, kind, classes', [
    ([5] * 20, 0.2, 'classes', 4), ([2] * 1000, 0.2, 'classes', 200),
    ([500] + [5] * 30, 0.2, 'classes', 6), ([5] * 10, 0.2, 'classes', 2),
    ([5] * 9, 0.2, 'images', 9), ([40, 3, 3], 0.2, 'images', 3), ([500] * 3, 0.2, 'images', 3),
    ([5] * 20, 0., 'classes', 0), ([100] * 200, 0.2, 'classes', 40),
    ([90] * 9 + [3] * 2, 0.2, 'classes', 2)])
def test_hold_out(counts, share, kind, classes):
    pictures = of_counts(counts)
    chosen = [recipe.hold_out(pictures, share, seed, set()) for seed in (0, 0, 1)]
    for held_out in chosen:
        train_on, test = (pictures.labels[rows] for rows in (held_out.train, held_out.test))
        assert held_out.kind == kind and len(np.unique(test)) == (
            classes if kind == 'classes' else (np.array(counts) > 2).sum())
        assert len(test) <= recipe.MOST_HELD_OUT and not set(held_out.train) & set(held_out.test)
        if kind == 'classes':
            assert not set(train_on) & set(test)
            assert all(np.array(counts)[np.unique(test)] <= sum(counts) / 10)
            largest = np.bincount(test).max() if len(test) else 0
            assert largest <= max(recipe.MOST_HELD_OUT / max(classes, 1), 5)
        else:
            assert (np.bincount(train_on) >= 2).all()
    assert chosen[0].test.tolist() == chosen[1].test.tolist()
    if share and classes < len(counts) and counts[-1] > 3:
        assert chosen[0].test.tolist() != chosen[2].test.tolist()


def test_classes_that_are_held_out_by_name_or_never():
    pictures = of_counts([5] * 20, ['class 03'])
    assert set(recipe.hold_out(pictures, 0.2, 0, set()).test) == set(range(15, 20))
    held_out = recipe.hold_out(pictures, ['class 01', 'class 02'], 0, set())
    assert set(pictures.labels[held_out.test]) == {1, 2}
    pictures = of_counts([5] * 20)
    before = set(pictures.names[:17])
    for seed in range(5):
        held_out = recipe.hold_out(pictures, 0.2, seed, before)
        assert min(pictures.labels[held_out.test]) >= 17
    assert recipe.hold_out(pictures, 0.2, 0, set(pictures.names)).kind == 'images'
    for names, message in (['nobody'], 'that is not there: nobody'), (
            ['class 01'], 'was trained on: class 01'), (pictures.names[:19], 'two are needed'):
        with pytest.raises(DataError, match=message):
            recipe.hold_out(pictures, names, 0, before if 'trained' in message else set())


THREE = 'softmax', 'softmax, decorrelation 0.1', 'λ = 0.1, decorrelation 0.1'


@pytest.mark.parametrize('weights, classes, one, names, why', [
    (None, 301, False, THREE, ''), (None, 301, True, THREE[2:], ''),
    (None, 300, False, ('softmax', 'λ = 0.01, decorrelation 0.01, plain'), ''),
    (None, 50, True, ('softmax',), 'only be found by a comparison'),
    (None, 49, False, ('softmax',), 'fewer than 50 classes, here 49'),
    ([0.1, 0], 20, False, THREE, ''), ([0.1], 5, False, THREE[2:], ''),
    ([0], 500, False, ('softmax',), '')])
def test_rows(weights, classes, one, names, why):
    said = []
    assert tuple(row.name for row in recipe.rows(weights, classes, one, said.append)) == names
    assert why in ''.join(said) and len(said) == bool(why)


LOWER, SAME, HIGHER = (0.2, 0.19, 0.15), (0.7, 0.7, 0.7), (0.1, 0.2, 0.15)


@pytest.mark.parametrize('eer, rank1, classes, lower_eer, lower_rank1, chosen', [
    (LOWER, SAME, 301, 0, 0, 2),
    (LOWER, (0.7, 0.7, 0.6), 301, 20, 15, 2),       # rank-1 is lower in 75 % of the draws
    (LOWER, (0.7, 0.7, 0.6), 301, 20, 16, 1),
    (LOWER, (0.7, 0.6, 0.7), 301, 20, 0, 2), (LOWER, (0.7, 0.6, 0.6), 301, 0, 16, 0),
    (HIGHER, (0.7, 0.8, 0.9), 301, 20, 0, 0), ((0.2, 0.2, 0.2), SAME, 301, 0, 0, 0),
    (LOWER, SAME, 300, 18, 0, 1), (LOWER, SAME, 300, 19, 0, 2),     # not usual for few classes
    (LOWER, (0.7, 0.7, 0.69), 300, 20, 0, 1),
    (LOWER, SAME, 49, 20, 0, 1)])                   # of too few classes
def test_choose(eer, rank1, classes, lower_eer, lower_rank1, chosen):
    """Of softmax, softmax with decorrelation and λ = 0.1; of 20 draws some are lower for λ."""
    rows = recipe.rows([0, 0.1], classes, False, print)

    def figure(value, row, lower):
        draws = np.where(np.arange(20) < lower, -1, 1) if row.center_weight else np.zeros(20)
        return metrics.Figure(value, draws, 20)

    figures = {row: {'eer': figure(one, row, lower_eer), 'rank1': figure(two, row, lower_rank1)}
               for row, one, two in zip(rows, eer, rank1)}
    assert recipe.choose(figures, rows, classes) == rows[chosen]
    assert recipe.choose({}, rows[-1:], 5) == rows[-1]


@pytest.mark.parametrize('classes, each, kind, rows', [
    (3, 20, 'images', ['softmax']),
    (63, 3, 'classes', ['softmax', 'λ = 0.01, decorrelation 0.01, plain'])])
def test_fewer_classes(tmp_path, capsys, classes, each, kind, rows):
    """Few hold out images; some get the recipe for them, each row with its states."""
    data, out = arrays(tmp_path / 'a.npz', classes, each), tmp_path / 'out'
    result = run(data, out, '--epochs', '1')
    assert result['held_out']['kind'] == kind and list(result['rows']) == rows
    assert ('too few classes to hold some out' in capsys.readouterr().out) == (kind == 'images')
    assert checkpoint.load_recognizer(str(out))['measured_on'] == kind
    states = [checkpoint.load_state(str(folder), print)[1]
              for folder in out.glob('checkpoints/0*')]
    # A plain embedding has no means of a batch normalization.
    assert len({len(state) for state in states}) == len(states) == len(rows)


def test_batches():
    """Every image once before one is twice."""
    order = recipe.batches(40, 8, np.random.RandomState(0))
    assert order.shape == (25, 8)
    flat = order.ravel().tolist()
    assert sorted(flat[:40]) == sorted(flat[40:80]) == list(range(40))


# -- resuming


@pytest.mark.slow
@pytest.mark.parametrize('damage', [False, True])
def test_resumed_is_the_same(tmp_path, monkeypatch, damage, capsys):
    """The same bits, also if the last checkpoint is damaged; nothing is unpickled."""
    data = write_folder(tmp_path / 'data', 12, 6)
    weight = ['--center-weight', '0.1', '--epochs', '4']
    run(data, tmp_path / 'whole', *weight)
    save = train.Trained.save

    def interrupted(self, folder):
        save(self, folder)
        if len(self.history) == 3:
            raise KeyboardInterrupt

    out = tmp_path / 'out'
    with monkeypatch.context() as patch:
        patch.setattr(train.Trained, 'save', interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(data, out, *weight)
    for name in 'loads', 'load':
        monkeypatch.setattr(f'pickle.{name}', None)
    with pytest.raises(DataError, match='has not ended: continue it with --resume'):
        run(data, out, *weight)
    if damage:
        last, = out.rglob('epoch-0003.npz')
        last.write_bytes(last.read_bytes()[:-1000])
    run(data, out, *weight, '--resume')
    assert ('passed over a damaged checkpoint' in capsys.readouterr().err) == damage
    for name, array in parameters(tmp_path / 'whole').items():
        np.testing.assert_array_equal(parameters(out)[name], array, name)
    first, again = ([line.split(',')[:9] for line in (folder / 'history.csv').open()]
                    for folder in (tmp_path / 'whole', out))
    assert first == again


@pytest.fixture(name='begun', scope='module')
def begin_once(tmp_path_factory):
    """(DATA, OUT) of a training that was interrupted after its first epoch."""
    folder = tmp_path_factory.mktemp('begun')
    data = write_folder(folder / 'data', 12, 6)
    save = train.Trained.save
    try:
        train.Trained.save = lambda self, path: save(self, path) or 1 / 0
        with pytest.raises(ZeroDivisionError):
            run(data, folder / 'out')
    finally:
        train.Trained.save = save
    return data, folder / 'out'


def _swapped(data):
    one, other = data / 'class 00' / '0000.png', data / 'class 01' / '0006.png'
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize('change, arguments, message', [
    (_swapped, [], '2 pictures are new, or not what they were'),
    (lambda data: (data / 'class 03').rename(data / 'a'), [], '6 pictures are new'),
    (lambda data: shutil.rmtree(data / 'class 03'), [], 'gone, with all of a class; .*class 03/'),
    (lambda data: None, ['--lr', '0.05'], 'begun with lr = 0.1, not 0.05'),
], ids=['swapped', 'renamed', 'gone', 'lr'])
def test_other_data_are_not_continued(begun, tmp_path, change, arguments, message):
    data = shutil.copytree(begun[0], tmp_path / 'data')
    out = shutil.copytree(begun[1], tmp_path / 'out')
    change(data)
    with pytest.raises(DataError, match=message):
        run(data, out, '--resume', *arguments)


def test_a_picture_that_is_gone_is_left_out(begun, tmp_path, capsys):
    data = shutil.copytree(begun[0], tmp_path / 'data')
    out = shutil.copytree(begun[1], tmp_path / 'out')
    (data / 'class 03' / '0018.png').unlink()
    assert run(data, out, '--resume')['rows']
    assert 'left out 1 pictures that are gone' in capsys.readouterr().err
    run(data, out, '--epochs', '1')     # a training that has ended can be followed by another one
    assert checkpoint.load_recognizer(str(out))['row']['epoch'] == 1


def start(data, out, *arguments):
    """A training as a program."""
    return subprocess.Popen([sys.executable, SCRIPT, str(data), '--output-dir', str(out), *QUICK,
                             *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            universal_newlines=True)


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_signals(tmp_path, number):
    """An interrupt ends it with one line that says what is kept; a second training waits."""
    out, data = tmp_path / 'out', write_folder(tmp_path / 'data', 12, 6)
    process = start(data, out, '--epochs', '1000')
    deadline = time.monotonic() + 120
    while not list(out.glob('checkpoints/*/epoch-*')):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(checkpoint.DataError, match='in use by another program'):
        run(data, out, '--resume')
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130 and 'Traceback' not in errors
        assert '--resume continues after the last' in errors.splitlines()[-1]
    assert (out / 'history.csv').exists() and (out / 'curves.png').exists()
    with pytest.raises(DataError, match='epochs = 1000, not 2'):
        run(data, out, '--resume')


# -- networks, devices, workers


def insightface_network(folder):
    """--network and --params of a network as insightface has them, with a classifier at its end."""
    data = mx.sym.var('data')
    x = (data - 127.5) * 0.0078125
    x = mx.sym.Convolution(x, num_filter=16, kernel=(3, 3), no_bias=True, name='conv0')
    x = mx.sym.BatchNorm(x, fix_gamma=False, name='bn0')
    x = mx.sym.LeakyReLU(x, act_type='prelu', name='relu0')
    x = mx.sym.FullyConnected(x, num_hidden=24, name='pre_fc1')
    embedding = mx.sym.BatchNorm(x, fix_gamma=True, name='fc1')
    symbol = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(embedding, num_hidden=7, name='fc7'),
                                  mx.sym.var('softmax_label'), name='softmax')
    module = mx.mod.Module(symbol)
    module.bind([('data', (2, 3, 16, 16))], [('softmax_label', (2,))])
    module.init_params(mx.init.Xavier())
    module.save_checkpoint(str(folder / 'model'), 0)
    return ['--network', str(folder / 'model-symbol.json'), '--params',
            str(folder / 'model-0000.params')]


@pytest.mark.slow
@pytest.mark.parametrize('freeze', [[], ['conv0*', 'bn0*', 'relu0*']])
def test_fine_tune_a_network_of_insightface(tmp_path, freeze):
    data, network = arrays(tmp_path / 'a.npz', 12, 6), insightface_network(tmp_path)
    result = run(data, tmp_path / 'out', *network, '--layer', 'fc1', '--size', '16', '16',
                 *(['--freeze', *freeze] if freeze else []))
    assert 0 <= result['before']['eer']['value'] < 0.5
    recognizer = checkpoint.load_recognizer(str(tmp_path / 'out'))
    assert recognizer['features'] == 16 and recognizer['size'] == [16, 16]
    assert recognizer['channels'] == 3
    before, after = (mx.nd.load(str(tmp_path / path)) for path in (
        'model-0000.params', 'out/embedding-0000.params'))
    for name in 'arg:conv0_weight', 'arg:bn0_gamma', 'aux:bn0_moving_mean', 'arg:pre_fc1_weight':
        same = (before[name].asnumpy() == after[name].asnumpy()).all()
        assert same == bool(freeze and 'pre_fc1' not in name), name


@pytest.mark.slow
def test_fine_tune_what_it_has_left(trained, tmp_path):
    """Its classes are known, and none of them is held out."""
    out, _, data = trained
    result = run(data, tmp_path / 'out', '--network', str(out / 'embedding-symbol.json'),
                 '--params', str(out / 'embedding-0000.params'), '--size', '8', '8')
    known = set(checkpoint.load_recognizer(str(out), [])['classes'])
    assert result['held_out']['kind'] == 'classes'
    assert not known & set(result['held_out']['classes'])
    assert known <= set(checkpoint.load_recognizer(str(tmp_path / 'out'))['classes'])


@pytest.mark.slow
def test_network_of_the_model_zoo(tmp_path):
    net = mx.gluon.model_zoo.vision.get_model('mobilenet0.25', prefix='')
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(tmp_path / 'zoo.params'))
    for fine_tuned in [], ['--params', str(tmp_path / 'zoo.params'), '--freeze', '*']:
        run(arrays(tmp_path / 'a.npz', 10, 3), tmp_path / 'out', '--network', 'mobilenet0.25',
            '--size', '64', '64', '--epochs', '1', '--batch-size', '8', '--center-weight', '0.1',
            *fine_tuned)
        recognizer = checkpoint.load_recognizer(str(tmp_path / 'out'))
        assert recognizer['size'] == [64, 64] and recognizer['channels'] == 3
    assert any(np.allclose(value.ravel(), [123.675, 116.28, 103.53])
               for value in parameters(tmp_path / 'out').values() if value.size == 3)


@pytest.mark.slow
def test_several_devices():
    """Two devices share one set of centers, and train as one does."""
    images, labels = patterns(6, 10)
    both = [mx.cpu(0), mx.cpu(1)]
    one, two = (train.train(images[..., None], labels, networks.Spec(embedding_size=8), 0.1,
                            epochs=1, drawings=True, contexts=contexts)
                for contexts in (both[:1], both))
    copies = [two.center_loss.centers.data(context).asnumpy() for context in both]
    np.testing.assert_array_equal(*copies)
    # Each device normalizes and varies its own half of a batch.
    assert np.corrcoef(one.centers().ravel(), copies[0].ravel())[0, 1] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize('store', ['dist_sync', 'horovod'])
def test_several_workers(tmp_path, store):
    launcher = [sys.executable, os.path.join(os.path.dirname(SCRIPT), '..', 'launch_local.py'),
                '-n', '2']
    if store == 'horovod':
        pytest.importorskip('horovod')
        launcher = ['horovodrun', '--gloo', '-np', '2', '-H', 'localhost:2']
    data = arrays(tmp_path / 'a.npz', 12, 6)
    subprocess.run([*launcher, sys.executable, SCRIPT, str(data), '--output-dir',
                    str(tmp_path / 'out'), *QUICK, '--kv-store', store, '--center-weight', '0.1'],
                   check=True, timeout=200)
    result = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
    assert result['rows']['λ = 0.1, decorrelation 0.1']['eer']['value'] < 0.45


# -- bad input


@pytest.mark.parametrize('arguments, message', [
    (['--network', 'resnet19'], '--network must be .* zoo: Model resnet19 .* alexnet .*'),
    (['--network', 'no.json', '--params', 'no.params'], 'cannot read no.json'),
    (['--network', 'resnet18_v1', '--params', 'no.params'], r'cannot read .*no\.params: No'),
    (['--ctx', 'gpu(99)'], 'GPUs that MXNet finds here; got gpu.99'),
    (['--ctx', 'tpu'], '--ctx must be devices'),
    (['--kv-store', 'dist_sync'], '--kv-store must be'),
    (['--held-out', 'no.txt'], 'cannot read no.txt'),
    (['--lr', '1e8'], 'the loss is no number any more in epoch 1: .* smaller --lr'),
    (['--output-dir', 'a.npz/out'], '--output-dir must not be in DATA'),
    (['--network', 'a.json'], '--network a.json needs its --params'),
    (['--params', 'a.params'], '--params are of a --network'),
    (['--freeze', '*'], '--freeze keeps --params'),
    (['--size', '4', '9999'], '--size: invalid number, from 8'),
    (['--epochs', '0'], '--epochs: invalid number, from 1'),
    (['--held-out', '1'], '--held-out: invalid held_out value'),
    (['--center-weight', '-1'], '--center-weight: invalid number, from 0'),
    (['--center-weight', '0', '0.1', '--held-out', '0'], '--held-out must not be 0'),
    (['--kv-store', 'horovod', '--center-weight', '0', '1'], 'takes one --center-weight'),
])
def test_bad_input_gets_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((checkpoint.DataError, SystemExit)) as error:
        run(arrays('a.npz', 12, 4), 'out', *arguments)
    if error.type is SystemExit:        # argparse's, after how to use the program
        line = capsys.readouterr().err.splitlines()[-1]
    else:
        line = str(error.value)
    assert re.search(message, line) and '\n' not in line


@pytest.mark.slow
def test_command_line(tmp_path):
    """As a program: one line on stderr, nothing else, and exit status 1."""
    process = start(tmp_path / 'no\nwhere', tmp_path / 'out')
    out, errors = process.communicate(timeout=100)
    assert process.returncode == 1 and not out
    assert errors.startswith('train.py: error: cannot read') and errors.count('\n') == 1


# -- variation


@pytest.mark.parametrize('shape', [(1, 9, 12), (3, 12, 9)])
def test_variation(shape, monkeypatch):
    """Nothing within limits of 0; otherwise other pictures, the same ones for the same seed."""
    pixels = mx.nd.array(np.random.RandomState(0).randint(0, 255, (8, *shape)))
    first, again, other = (networks.vary(pixels, np.random.RandomState(seed), False).asnumpy()
                           for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9 and 0 <= first.min() and first.max() <= 255
    for name in 'SHIFT', 'ZOOM', 'SQUEEZE', 'SHEAR', 'ANGLE':
        monkeypatch.setattr(networks, name, 0)
    varied = networks.vary(pixels, np.random.RandomState(0), True).asnumpy()
    np.testing.assert_allclose(varied, pixels.asnumpy(), atol=1e-2)


def test_turning_keeps_lengths(monkeypatch):
    """A quarter of a turn in a wide image is exact, goes around its middle, and repeats edges."""
    for name in 'SHIFT', 'ZOOM', 'SQUEEZE', 'SHEAR':
        monkeypatch.setattr(networks, name, 0)
    monkeypatch.setattr(networks, 'ANGLE', np.pi / 2)
    pixels = np.zeros((1, 1, 9, 13), 'uint8')
    pixels[..., 2:5, 6] = 200     # a line up from the middle
    pixels[..., 4, 5] = 100
    pixels[..., :1, :] = 30

    class Highest:
        def uniform(self, low, high, count):
            return np.full(count, high)

    turned = networks.vary(mx.nd.array(pixels), Highest(), True).asnumpy()[0, 0]
    around = np.rot90(pixels[0, 0, :, 2:11], 1 if turned[4, 4] > 150 else -1)
    np.testing.assert_allclose(turned[:, 2:11], around, atol=1)
    assert set(np.round(turned[:, [0, -1]]).ravel()) == {0, 30}
