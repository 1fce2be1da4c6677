"""examples/train_images.py and image_data.py: from images to a recognizer."""
import csv
import io
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import time

import image_data
import mxnet as mx
import numpy as np
import psutil
import pytest
import recognize
import train_images
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_curve

SCRIPT = os.path.abspath(train_images.__file__)
# Digits that no training sees, and how many of each are enrolled.
STRANGERS, ENROLLED = (2, 5, 7), 5
PER_DIGIT = 60


def digit_images(digits):
    """(digit, number from 1 on, (8, 8) bytes) of images of scikit-learn's digits."""
    data = load_digits()
    images = (data.images * (255 / 16)).astype('uint8')
    for digit in digits:
        for number, row in enumerate(np.flatnonzero(data.target == digit)[:PER_DIGIT], 1):
            yield digit, number, images[row]


def encoded(pixels, kind='PNG'):
    """An image as the bytes of a file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def write_folder(folder, digits, start=0, end=None):
    """A folder per digit with its images number `start` + 1 to `end`."""
    for digit, number, pixels in digit_images(digits):
        if start < number <= (end or PER_DIGIT):
            os.makedirs(folder / f'digit {digit}', exist_ok=True)
            (folder / f'digit {digit}' / f'{number:04d}.png').write_bytes(encoded(pixels))
    return folder


def of_two(key, first, end):
    """A record with two numbers as its label: mx.recordio.pack fails on NumPy 2."""
    return struct.pack('IfQQ', 2, 0, key, 0) + np.array([first, end], 'float32').tobytes()


def write_records(path, digits, insightface=False):
    """A .rec file as im2rec writes it, or with insightface's header and class records."""
    records = mx.recordio.MXIndexedRecordIO(str(path.with_suffix('.idx')), str(path), 'w')
    images, first = list(digit_images(digits)), int(insightface)
    if insightface:
        end = len(images) + 1
        records.write_idx(0, of_two(0, end, end + len(digits)))
        for key, digit in enumerate(digits, end):
            mine = [number for number, image in enumerate(images, 1) if image[0] == digit]
            records.write_idx(key, of_two(key, mine[0], mine[-1] + 1))
    for key, (digit, _, pixels) in enumerate(images, first):
        records.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, digit, key, 0),
                                                encoded(pixels)))
    records.close()
    return path


TRAINED = tuple(digit for digit in range(10) if digit not in STRANGERS)
QUICK = ['--drawings', '--epochs', '3', '--readers', '1']


def run(data, out, *arguments):
    """metrics.json of a short training."""
    return train_images.main([str(data), '--output-dir', str(out), *QUICK, *arguments])


@pytest.fixture(name='folder', scope='module')
def make_folder(tmp_path_factory):
    """A folder of images of seven digits."""
    return write_folder(tmp_path_factory.mktemp('digits'), TRAINED)


@pytest.fixture(name='trained', scope='module')
def train_once(folder, tmp_path_factory):
    """(OUT, metrics.json) of softmax alone and of center loss."""
    out = tmp_path_factory.mktemp('trained') / 'out'
    return out, run(folder, out, '--center-weight', '0', '0.1')


# -- end to end


def recognized(out, tmp_path, capsys):
    """The share of images that get the name of their digit, which was enrolled, not trained on."""
    gallery = write_folder(tmp_path / 'gallery', STRANGERS, end=ENROLLED)
    rest = write_folder(tmp_path / 'rest', STRANGERS, start=ENROLLED)
    assert recognize.main(['enrol', str(out), str(gallery)]) == 0
    capsys.readouterr()
    paths = sorted(map(str, rest.glob('*/*')))
    assert recognize.main(['identify', str(out), *paths, '--threshold', 'inf']) == 0
    lines = [line.split('\t') for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == len(paths) == len(STRANGERS) * (PER_DIGIT - ENROLLED)
    return np.mean([name == os.path.basename(os.path.dirname(path)) for path, name, _ in lines])


def test_from_a_folder_to_a_recognizer(trained, tmp_path, capsys):
    out = shutil.copytree(trained[0], tmp_path / 'out')
    assert recognized(out, tmp_path, capsys) > 0.85


@pytest.mark.slow
def test_from_records_to_a_recognizer(tmp_path, capsys):
    run(write_records(tmp_path / 'train.rec', TRAINED), tmp_path / 'out')
    assert recognized(tmp_path / 'out', tmp_path, capsys) > 0.85
    with np.load(tmp_path / 'out' / 'classes.npz') as classes:
        assert set(classes['names']) <= {str(digit) for digit in TRAINED}


# -- what it leaves


def test_files(trained):
    out, result = trained
    metrics = json.loads((out / 'metrics.json').read_text())
    assert metrics == json.loads(json.dumps(result))
    recognizer = json.loads((out / 'recognizer.json').read_text())
    assert recognizer['input'] == [1, 8, 8] and recognizer['distance'] == 'cosine'
    assert recognizer['thresholds'] == metrics['thresholds']
    with np.load(out / 'classes.npz', allow_pickle=False) as classes:
        names, centers = classes['names'], classes['centers']
    assert centers.shape == (len(names), recognizer['embedding_size']) == (5, 128)
    assert abs(centers).max() > 0.1
    with open(out / 'history.csv', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert [(float(row['center_weight']), int(row['epoch'])) for row in rows] == [
        (weight, epoch) for weight in (0, 0.1) for epoch in range(1, 4)]
    best = min(float(row['eer']) for row in rows)
    assert metrics['held_out'][f'{metrics["center_weight"]:g}']['eer'] == pytest.approx(best)
    for name in 'curves.png', 'roc.png':
        with Image.open(out / name) as image:
            assert image.width > 500
    assert not list(out.rglob('*unfinished*'))
    # The last epoch of each, and the best.
    for folder in (out / 'checkpoints').iterdir():
        assert (folder / 'epoch-0003').exists() and len(list(folder.iterdir())) <= 2


def test_network_without_this_package(trained):
    """MXNet alone can load it."""
    code = '''if True:
        import sys, numpy as np
        if np.__version__ >= '1.24':
            import center_loss_op   # puts names back without which MXNet cannot be imported
        import mxnet as mx
        net = mx.gluon.SymbolBlock.imports(sys.argv[1] + '/embedding-symbol.json', ['data'],
                                           sys.argv[1] + '/embedding-0000.params')
        print(net(mx.nd.ones((3, 1, 8, 8))).shape)
    '''
    done = subprocess.run([sys.executable, '-c', code, str(trained[0])], check=True,
                          stdout=subprocess.PIPE)
    assert done.stdout.decode().strip() == '(3, 128)'


def assert_onnx_agrees(out):
    """ONNX Runtime computes the embeddings that MXNet does, of two images and of five."""
    onnxruntime = pytest.importorskip('onnxruntime')
    shape = json.loads((out / 'recognizer.json').read_text())['input']
    net = mx.gluon.SymbolBlock.imports(str(out / 'embedding-symbol.json'), ['data'],
                                       str(out / 'embedding-0000.params'))
    session = onnxruntime.InferenceSession(str(out / 'embedding.onnx'),
                                           providers=['CPUExecutionProvider'])
    assert [value.name for value in session.get_inputs()] == ['data']
    for count in 2, 5:
        images = np.random.RandomState(count).randint(0, 256, (count, *shape)).astype('float32')
        wanted = net(mx.nd.array(images)).asnumpy()
        assert wanted.std() > 0.1
        np.testing.assert_allclose(session.run(None, {'data': images})[0], wanted, rtol=1e-3,
                                   atol=1e-3 * abs(wanted).max())


def test_onnx(trained):
    assert_onnx_agrees(trained[0])


def test_center_loss_gathers_the_classes_trained_on(trained):
    with open(trained[0] / 'history.csv', encoding='utf-8') as file:
        last = {row['center_weight']: float(row['center_loss']) for row in csv.DictReader(file)}
    assert last['0.1'] < 0.7 * last['0.0']


# -- resuming


def parameters(out):
    """All parameters of the exported network."""
    return {name: array.asnumpy() for name, array in mx.nd.load(
        str(out / 'embedding-0000.params')).items()}


@pytest.mark.slow
def test_resumed_is_the_same(folder, tmp_path, monkeypatch):
    run(folder, tmp_path / 'whole', '--held-out', '0')
    save = train_images.save_checkpoint

    def interrupted(path, epoch, *args, **kwargs):
        if epoch == 2:
            raise KeyboardInterrupt
        save(path, epoch, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(train_images, 'save_checkpoint', interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / 'resumed', '--held-out', '0')
    with pytest.raises(image_data.DataError, match='checkpoints are of an earlier run'):
        run(folder, tmp_path / 'resumed', '--held-out', '0')
    with pytest.raises(image_data.DataError, match='lr = 0.1, not 0.05'):
        run(folder, tmp_path / 'resumed', '--held-out', '0', '--resume', '--lr', '0.05')
    run(folder, tmp_path / 'resumed', '--held-out', '0', '--resume')
    for name, array in parameters(tmp_path / 'whole').items():
        np.testing.assert_array_equal(parameters(tmp_path / 'resumed')[name], array, name)


@pytest.mark.slow
def test_a_checkpoint_is_whole_or_not_there(folder, tmp_path, monkeypatch):
    def fail(source, target):
        if os.path.basename(target) == 'epoch-0002':
            raise OSError('no space left')
        rename(source, target)

    rename = os.rename
    with monkeypatch.context() as patch:
        patch.setattr(os, 'rename', fail)
        with pytest.raises(OSError):
            run(folder, tmp_path / 'out')
    names = {path.name for path in tmp_path.glob('out/checkpoints/*/*')}
    assert names == {'epoch-0001', 'unfinished'}
    run(folder, tmp_path / 'out', '--resume')
    assert not list(tmp_path.glob('out/checkpoints/*/unfinished'))


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_signals(folder, tmp_path, number):
    """An interrupt ends it with one line, and neither leaves a process behind."""
    out = tmp_path / 'out'
    process = subprocess.Popen(
        [sys.executable, SCRIPT, str(folder), '--output-dir', str(out), *QUICK, '--epochs', '1000'],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(out.glob('checkpoints/*/epoch-*')):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
    _, errors = process.communicate(timeout=30)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert b'Traceback' not in errors and b'--resume continues' in errors
    assert not psutil.wait_procs(children, timeout=20)[1]
    assert run(folder, out, '--epochs', '1000', '--resume', '--patience', '1')['held_out']


@pytest.mark.slow
def test_patience(folder, tmp_path):
    run(folder, tmp_path / 'out', '--epochs', '30', '--patience', '2', '--readers', '0')
    with open(tmp_path / 'out' / 'history.csv', encoding='utf-8') as file:
        rates = [float(row['eer']) for row in csv.DictReader(file)]
    assert len(rates) < 30 and len(rates) - 1 - rates.index(min(rates)) >= 2


def test_write_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    train_images.write(str(path), 'old')
    monkeypatch.setattr(os, 'fsync', lambda handle: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError):
        train_images.write(str(path), 'new')
    assert path.read_text() == 'old'


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
def test_fine_tune_a_network_of_insightface(folder, tmp_path):
    result = run(folder, tmp_path / 'out', *insightface_network(tmp_path), '--layer', 'fc1_output',
                 '--size', '16', '16', '--epochs', '2')
    assert result['held_out']['0.1']['eer'] < 0.45
    recognizer = json.loads((tmp_path / 'out' / 'recognizer.json').read_text())
    assert recognizer['embedding_size'] == 24 and recognizer['input'] == [3, 16, 16]
    before = mx.nd.load(str(tmp_path / 'model-0000.params'))['arg:conv0_weight'].asnumpy()
    after = parameters(tmp_path / 'out')['arg:conv0_weight']
    assert 0 < abs(after - before).max() < abs(before).max()
    assert_onnx_agrees(tmp_path / 'out')


@pytest.mark.slow
def test_fine_tune_what_it_has_left(trained, folder, tmp_path):
    out = trained[0]
    outputs = mx.sym.load(str(out / 'embedding-symbol.json')).get_internals().list_outputs()
    layer = [name for name in outputs if 'dense' in name and name.endswith('_output')][-1]
    run(folder, tmp_path / 'out', '--network', str(out / 'embedding-symbol.json'),
        '--params', str(out / 'embedding-0000.params'), '--layer', layer[:-len('_output')],
        '--size', '8', '8', '--epochs', '1', '--embedding-size', '16')
    recognizer = json.loads((tmp_path / 'out' / 'recognizer.json').read_text())
    assert recognizer['embedding_size'] == 16 and recognizer['input'] == [1, 8, 8]
    assert_onnx_agrees(tmp_path / 'out')


@pytest.mark.slow
def test_network_of_the_model_zoo(folder, tmp_path):
    """From parameters of its own; its input is normalized as for ImageNet."""
    net = mx.gluon.model_zoo.vision.get_model('mobilenet0.25')
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(tmp_path / 'zoo.params'))
    run(folder, tmp_path / 'out', '--network', 'mobilenet0.25', '--params',
        str(tmp_path / 'zoo.params'), '--size', '64', '64', '--epochs', '1', '--batch-size', '16')
    recognizer = json.loads((tmp_path / 'out' / 'recognizer.json').read_text())
    assert recognizer['input'] == [3, 64, 64] and recognizer['embedding_size'] == 128
    assert_onnx_agrees(tmp_path / 'out')
    symbol = mx.sym.load(str(tmp_path / 'out' / 'embedding-symbol.json'))
    assert sum('conv' in name and 'weight' in name for name in symbol.list_arguments()) > 20
    values = [array.ravel().tolist() for array in parameters(tmp_path / 'out').values()]
    assert any(np.allclose(value, [123.675, 116.28, 103.53]) for value in values if len(value) == 3)


@pytest.mark.slow
def test_several_devices(folder, tmp_path):
    """Two devices share one set of centers, and train as one does."""
    for devices in ['cpu(0)'], ['cpu(0)', 'cpu(1)']:
        run(folder, tmp_path / str(len(devices)), '--epochs', '1', '--ctx', *devices,
            '--center-weight', '0.1')
    one, two = (np.load(tmp_path / number / 'classes.npz')['centers'] for number in '12')
    # Each device normalizes its own half of a batch, so they are not the same to rounding.
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize('store', ['dist_sync', 'horovod'])
def test_several_workers(folder, tmp_path, store):
    launcher = [sys.executable, os.path.join(os.path.dirname(SCRIPT), 'launch_local.py'), '-n', '2']
    if store == 'horovod':
        pytest.importorskip('horovod')
        launcher = ['horovodrun', '--gloo', '-np', '2', '-H', 'localhost:2']
    subprocess.run([*launcher, sys.executable, SCRIPT, str(folder), '--output-dir',
                    str(tmp_path / 'out'), *QUICK, '--epochs', '2', '--kv-store', store],
                   check=True, timeout=120)
    metrics = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
    assert metrics['held_out']['0.1']['eer'] < 0.45


# -- data


def test_damaged_images_are_reported_and_skipped(folder, tmp_path, capsys):
    data = shutil.copytree(folder, tmp_path / 'data')
    photo = np.random.RandomState(0).randint(0, 255, (40, 40)).astype('uint8')
    for name, content in (('truncated.jpg', encoded(photo, 'JPEG')[:-200]), ('text.png', b'hello'),
                          ('empty.png', b''), ('program.jpg', b'%!PS-Adobe-3.0 EPSF-3.0\n')):
        (data / 'digit 0' / name).write_bytes(content)
    (data / 'lonely').mkdir()
    (data / 'lonely' / 'one.png').write_bytes(encoded(photo))
    (data / '.hidden').mkdir()
    images, shape = image_data.check(image_data.load(str(data)), 1, print)
    lines = capsys.readouterr().out.splitlines()
    assert len(images) == len(TRAINED) * PER_DIGIT and shape == (1, 8, 8)
    assert len(lines) == 5 and 'lonely' in lines[4]
    assert all(name in line for name, line in zip(
        ('empty.png', 'program.jpg', 'text.png', 'truncated.jpg'), sorted(lines)))


def test_insightface_records(tmp_path):
    images = image_data.load(str(write_records(tmp_path / 'train.rec', (3, 4), insightface=True)))
    assert len(images) == 2 * PER_DIGIT
    np.testing.assert_array_equal(np.bincount(images.labels), [PER_DIGIT] * 2)
    for row, (digit, _, pixels) in enumerate(digit_images((3, 4))):
        assert images.labels[row] == digit - 3
        np.testing.assert_array_equal(recognize.load_image(images.open(row), (1, 8, 8))[0], pixels)


def test_damaged_record(tmp_path, capsys):
    path = write_records(tmp_path / 'train.rec', (3, 4))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle:middle + 20] = bytes(20)
    path.write_bytes(content)
    images, _ = image_data.check(image_data.load(str(path)), 1, print)
    assert 'left out record' in capsys.readouterr().out
    assert 2 * PER_DIGIT - 3 <= len(images) < 2 * PER_DIGIT


def test_arrays(tmp_path):
    """Colour, and the classes that the file itself sets apart."""
    random = np.random.RandomState(0)
    pixels = random.randint(0, 255, (12, 9, 11, 3)).astype('uint8')
    np.savez(tmp_path / 'a.npz', train_images=pixels[:8], train_labels=np.repeat([5, 7], 4),
             test_images=pixels[8:], test_labels=np.repeat([5, 6], 2))
    images, shape = image_data.check(image_data.load(str(tmp_path / 'a.npz')), 0, print)
    assert shape == (3, 9, 11)
    assert images.names == ['train_5', 'train_7', 'test_5', 'test_6']
    train, held_out = train_images.split(images, 0.2, set())
    assert train.tolist() == [0, 1] and held_out.tolist() == [2, 3]
    np.testing.assert_array_equal(recognize.load_image(images.open(9), (3, 9, 11)),
                                  pixels[9].transpose(2, 0, 1))


def test_colour_follows_the_images(tmp_path):
    random = np.random.RandomState(0)
    for name in 'ab':
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f'{number}.jpg').write_bytes(
                encoded(random.randint(0, 255, (30, 20)).astype('uint8'), 'JPEG'))
    assert image_data.check(image_data.load(str(tmp_path)), 0, print)[1] == (1, 30, 20)
    (tmp_path / 'a' / '0.jpg').write_bytes(
        encoded(random.randint(0, 255, (30, 20, 3)).astype('uint8'), 'JPEG'))
    assert image_data.check(image_data.load(str(tmp_path)), 0, print)[1] == (3, 30, 20)


# What is wrong: the arguments after DATA, or what makes DATA in a folder; and what the line says.
def _nothing(path):
    return path / 'nowhere'


def _empty(path):
    return path


def _no_images(path):
    (path / 'a').mkdir()
    return path


def _one_image_each(path):
    for digit in TRAINED:
        write_folder(path, [digit], end=1)
    return path


def _one_class(path):
    return write_folder(path, [0])


def _three_classes(path):
    return write_folder(path, [0, 1, 3])


def _no_records(path):
    (path / 'train.rec').write_bytes(b'no record')
    return path / 'train.rec'


def _no_index(path):
    write_records(path / 'train.rec', (0, 1)).with_suffix('.idx').unlink()
    return path / 'train.rec'


def _no_arrays(path):
    np.savez(path / 'a.npz', pictures=np.zeros(3))
    return path / 'a.npz'


def _pickled(path):
    np.savez(path / 'a.npz', images=np.array([None, {}]), labels=np.arange(2))
    return path / 'a.npz'


@pytest.mark.slow
@pytest.mark.parametrize('make, arguments, message', [
    (_nothing, [], 'cannot read .*nowhere: No such file'),
    (_empty, [], 'has no sub-folders'),
    (_no_images, [], 'no sub-folder of .* has images'),
    (_one_image_each, [], 'no class has two images'),
    (_one_class, [], 'there are 1 classes .* two are needed to train on and two to hold out'),
    (_three_classes, [], 'there are 3 classes'),
    (_no_records, [], 'train.rec is no RecordIO file'),
    (_no_index, [], 'train.idx is missing'),
    (_no_arrays, [], 'cannot read .*a.npz'),
    (_pickled, [], 'cannot read .*a.npz'),
    (None, ['--network', 'resnet19'], '--network must be .* zoo: Model resnet19 .* alexnet .*'),
    (None, ['--network', 'no.json', '--params', 'no.params'], 'cannot read no.json'),
    (None, ['--network', 'resnet18_v1', '--params', 'no.params'], 'cannot read no.params'),
    (None, ['--ctx', 'gpu(99)'], 'MXNet finds [0-9]+ GPUs'),
    (None, ['--kv-store', 'dist_sync'], '--kv-store must be'),
    (None, ['--verify', 'no.txt'], 'cannot read no.txt'),
    (None, ['--lr', '1e8'], 'the loss is no number any more in epoch 1, .* smaller --lr'),
], ids=lambda value: getattr(value, '__name__', None))
def test_bad_input_gets_one_line(folder, tmp_path, make, arguments, message):
    (tmp_path / 'data').mkdir()
    data = make(tmp_path / 'data') if make else folder
    with pytest.raises(image_data.DataError, match=message) as error:
        run(data, tmp_path / 'out', *arguments)
    assert '\n' not in str(error.value)


def test_own_network_that_does_not_fit(trained, folder, tmp_path):
    network = ['--network', str(trained[0] / 'embedding-symbol.json'), '--params',
               str(trained[0] / 'embedding-0000.params')]
    with pytest.raises(image_data.DataError, match='has no --layer fc7; its last ones are .*dense'):
        run(folder, tmp_path / 'out', *network, '--layer', 'fc7')
    with pytest.raises(image_data.DataError, match='does not take images of 40 x 40.*--size'):
        run(folder, tmp_path / 'out', *network, '--size', '40', '40')


@pytest.mark.parametrize('arguments, message', [
    (['--output-dir', 'data/out'], '--output-dir must not be in DATA'),
    (['--network', 'a.json'], '--network a.json needs its --params'),
    (['--params', 'a.params'], '--params are of a --network'),
    (['--epochs', '0'], '--epochs must be from 1'),
    (['--held-out', '1'], '--held-out must be from 0 to 0.9'),
    (['--center-weight', '-1'], '--center-weight must be finite and >= 0'),
    (['--center-weight', '0', '0.1', '--held-out', '0'], '--held-out must not be 0'),
    (['--ctx', 'tpu'], '--ctx must be devices'),
    (['--kv-store', 'horovod', '--patience', '3'], 'takes one --center-weight and no --patience'),
])
def test_options_that_make_no_sense(arguments, message, capsys):
    with pytest.raises(SystemExit):
        train_images.parse(['data', '--output-dir', 'out', *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_command_line(tmp_path):
    """As a program: one line on stderr, nothing else, and exit status 1."""
    done = subprocess.run([sys.executable, SCRIPT, str(tmp_path / 'no'), '--output-dir',
                           str(tmp_path / 'out')], stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr.decode().startswith('train_images.py: error: cannot read')
    assert done.stderr.count(b'\n') == 1


# -- variation


def samples(pixels, count=4, seed=3):
    """What the DataLoader hands to its batchify_fn."""
    np.random.seed(seed)
    mx.random.seed(seed)
    return [(pixels, 0)] * count


@pytest.mark.parametrize('shape', [(1, 9, 12), (3, 12, 9)])
def test_variation_without_limits_changes_nothing(shape, monkeypatch):
    for name in 'SHIFT', 'ZOOM', 'SQUEEZE', 'SHEAR', 'ANGLE':
        monkeypatch.setattr(image_data.Vary, name, 0)
    pixels = np.random.RandomState(0).randint(0, 255, shape).astype('uint8')
    varied = image_data.Vary(drawings=True)(samples(pixels))[0]
    np.testing.assert_allclose(varied, np.stack([pixels] * 4), atol=1e-2)


def test_turning_keeps_lengths(monkeypatch):
    """A quarter of a turn in a wide image is exact, and goes around its middle."""
    for name in 'SHIFT', 'ZOOM', 'SQUEEZE', 'SHEAR':
        monkeypatch.setattr(image_data.Vary, name, 0)
    pixels = np.zeros((1, 9, 13), 'uint8')
    pixels[0, 2:5, 6] = 200     # a line up from the middle
    pixels[0, 4, 5] = 100
    monkeypatch.setattr(np.random, 'uniform', lambda low, high, size: np.full(size, high))
    monkeypatch.setattr(image_data.Vary, 'ANGLE', np.pi / 2)
    turned = image_data.Vary(drawings=True)(samples(pixels, 1))[0][0]
    around = pixels[0, :, 2:11]
    wanted = np.rot90(around) if turned[0, 4, 4] > 150 else np.rot90(around, -1)
    np.testing.assert_allclose(turned[0, :, 2:11], wanted, atol=1)


def test_variation(folder):
    pixels = recognize.load_image(str(sorted(folder.glob('*/*'))[0]), (3, 8, 8))
    vary = image_data.Vary(drawings=False)
    first, again = (vary(samples(pixels, 8))[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert len({image.tobytes() for image in first}) == 8
    assert first.dtype == np.uint8 and abs(first - pixels.astype(float)).mean() < 60


def test_batches():
    """Every image once before one is twice; workers share a batch."""
    rows = np.arange(10, 50)
    for parts in 1, 2:
        orders = [image_data.Batches(rows, 8, 0, rank, parts) for rank in range(parts)]
        epochs = []
        for epoch in 1, 2:
            batches = []
            for order in orders:
                order.epoch = epoch
                batches.append(list(order))
            assert len(batches[0]) == len(orders[0]) == 25
            epochs.append([[row for mine in of_all for row, _ in mine] for of_all in zip(*batches)])
        flat = sum(epochs[0], [])
        assert sorted(flat[:40]) == sorted(flat[40:80]) == rows.tolist()
        assert flat != sum(epochs[1], [])


# -- verification


def test_threshold_accepts_no_more_than_its_rate():
    impostors = np.random.RandomState(0).permutation(1000) / 1000
    for rate in 0.01, 0.001:
        limit = train_images.threshold(impostors, rate)
        assert (impostors < limit).mean() == pytest.approx(rate)
    assert train_images.threshold(impostors[:99], 0.01) is None


@pytest.mark.parametrize('distance', ['cosine', 'euclidean'])
def test_verification_by_a_naive_route(distance):
    random = np.random.RandomState(0)
    labels = np.repeat(np.arange(6), 5)
    embedding = random.randn(30, 4) + 2 * random.randn(6, 4)[labels]
    metrics, _, thresholds = train_images.verify_held_out(embedding, labels, distance)
    same, apart = [], []
    nearest = 0
    for one in range(30):
        to_all = []
        for other in range(30):
            a, b = embedding[one], embedding[other]
            far = (np.sqrt(((a - b) ** 2).sum()) if distance == 'euclidean' else
                   1 - a @ b / np.sqrt((a @ a) * (b @ b)))
            to_all.append(far if one != other else np.inf)
            if one < other:
                (same if labels[one] == labels[other] else apart).append(far)
        nearest += labels[np.argmin(to_all)] == labels[one]
    assert metrics['rank1'] == nearest / 30
    same, apart = np.array(same), np.array(apart)
    errors = [max((apart < limit).mean(), (same >= limit).mean()) for limit in
              np.concatenate([same, apart])]
    assert metrics['eer'] == pytest.approx(min(errors), abs=0.02)
    assert (apart < thresholds['0.01'] - 1e-9).sum() == int(0.01 * len(apart))
    assert metrics['tar_at_far_1'] == pytest.approx((same < thresholds['0.01']).mean(), abs=0.03)
    assert thresholds['0.001'] is None


@pytest.mark.parametrize('classes, images, share, held_out', [
    (10, 10, 0.2, 2), (28, 10, 0.2, 6), (10, 2, 0.2, 5), (100, 3, 0.2, 20), (4, 5, 0.2, 2),
    (10, 10, 0, 0)])
def test_split(classes, images, share, held_out):
    data = image_data.Images([None] * classes * images, np.repeat(np.arange(classes), images),
                             [str(label) for label in range(classes)])
    train, others = train_images.split(data, share, set())
    assert len(others) == held_out and sorted([*train, *others]) == list(range(classes))


# -- pairs of others


def write_bin(path, protocol=4):
    """Pairs as insightface has them."""
    of_digit = {digit: [encoded(pixels) for _, _, pixels in digit_images([digit])]
                for digit in STRANGERS}
    files, same = [], []
    for number in range(20):
        for one, other in ((2, 2), (5, 7)):
            files += [of_digit[one][number], of_digit[other][number + 1]]
            same.append(one == other)
    path.write_bytes(pickle.dumps((files, same), protocol=protocol))
    return path


@pytest.mark.slow
def test_bin_of_insightface(folder, tmp_path, capsys):
    result = run(folder, tmp_path / 'out', '--verify', str(write_bin(tmp_path / 'digits.bin')))
    assert result['verify']['pairs'] == 40
    assert 0.6 < result['verify']['accuracy'] <= 1
    assert 'digits.bin: accuracy' in capsys.readouterr().out


def test_bin_of_python_2(tmp_path):
    """Bytes of Python 2 are strings in its pickles: opcode T, and U for short ones."""
    path = write_bin(tmp_path / 'digits.bin')
    files, same = pickle.loads(path.read_bytes())
    string = b''.join(b'T' + len(file).to_bytes(4, 'little') + file for file in files)
    flags = b''.join(b'\x88' if value else b'\x89' for value in same)
    path.write_bytes(b'\x80\x02(](' + string + b'e](' + flags + b'et.')
    images, pairs, found = image_data.load_pairs(str(path), '', 0, print)
    assert images.files == files and found.tolist() == same
    assert pairs.tolist() == np.arange(80).reshape(-1, 2).tolist()


class Program:
    """What a pickle can hold: a call of anything."""

    def __reduce__(self):
        return os.mkdir, ('/tmp/a-pickle-has-run',)


@pytest.mark.parametrize('content', [
    ([b'a'], [Program()]), ([b'a', np.zeros(3)], [True]), ([b'a'], [True]), 'text', [1, 2]])
def test_bin_is_data(tmp_path, content):
    path = tmp_path / 'a.bin'
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(image_data.DataError, match='cannot read .*a.bin'):
        image_data.load_pairs(str(path), '', 0, print)
    assert not os.path.exists('/tmp/a-pickle-has-run')


def test_pairs_of_lfw(tmp_path, capsys):
    """Names and numbers lead to files, and what is not there is left out."""
    data = write_folder(tmp_path / 'data', (0, 1))
    lines = ['10\t300']
    for number in range(1, 14):
        lines += [f'digit 0\t{number}\t{number + 1}', f'digit 0\t{number}\tdigit 1\t{number + 2}']
    (tmp_path / 'pairs.txt').write_text('\n'.join([*lines, 'digit 0\t1\t999', 'nobody\t1\t2']))
    images, pairs, same = image_data.load_pairs(str(tmp_path / 'pairs.txt'), str(data), 0, print)
    assert 'left out the pairs with 3 images' in capsys.readouterr().out
    names = [[os.path.relpath(images.files[row], data) for row in pair] for pair in pairs]
    assert names[:2] == [['digit 0/0001.png', 'digit 0/0002.png'],
                         ['digit 0/0001.png', 'digit 1/0003.png']]
    assert same.tolist() == [True, False] * 13


@pytest.mark.slow
def test_classes_of_the_pairs_are_not_trained_on(folder, tmp_path):
    lines = [f'digit 0\t{number}\t{number + 1}\ndigit 0\t{number}\tdigit 1\t{number}'
             for number in range(1, 21)]
    (tmp_path / 'pairs.txt').write_text('\n'.join(lines))
    result = run(folder, tmp_path / 'out', '--verify', str(tmp_path / 'pairs.txt'), '--epochs', '1')
    assert result['verify']['pairs'] == 40
    with np.load(tmp_path / 'out' / 'classes.npz') as classes:
        assert not {'digit 0', 'digit 1'} & set(classes['names'])


@pytest.mark.parametrize('text, message', [
    ('', 'names no pair'), ('digit zero 1', 'line 1: expected'), ('a b c d', 'line 1: expected'),
    ('digit\t1\t2', 'names no pair')])
def test_pairs_that_are_none(folder, tmp_path, text, message):
    (tmp_path / 'pairs.txt').write_text(text)
    with pytest.raises(image_data.DataError, match=message):
        image_data.load_pairs(str(tmp_path / 'pairs.txt'), str(folder), 0, print)


def test_ten_fold_accuracy():
    """Half of the pairs at 0 or 1, as they should be, and a tenth the other way around."""
    same = np.tile([True, False], 100)
    distances = np.where(same, 0., 1.)
    wrong = np.arange(200) % 20 < 2
    distances[wrong] = 1 - distances[wrong]
    embedding = np.stack([np.zeros(400), np.zeros(400)], 1)
    embedding[1::2, 0] = distances
    result = train_images.verify_pairs(embedding, np.arange(400).reshape(-1, 2), same, 'euclidean')
    assert result['accuracy'] == pytest.approx(0.9)
    assert result['pairs'] == 200
    far, tar, _ = roc_curve(same, -distances)
    assert result['tar_at_far_1'] == pytest.approx(np.interp(0.01, far, tar))


def test_maps_of_one_pixel_are_refused(folder, tmp_path):
    """MXNet ends the process there."""
    with pytest.raises(image_data.DataError, match='maps of one pixel.* another --embedding-size'):
        run(folder, tmp_path / 'out', '--network', 'mobilenet0.25', '--size', '32', '32')
