"""Verification on images that the test makes: smooth random patterns, one a person."""
import io
import json
import lzma
import operator
import os
import struct
import tokenize
import zipfile

import face_verification
import faces
import numpy as np
import PIL.ImageFile
import pytest
import run
from checkpoint import CheckpointError
from data import DataError
from mxnet.gluon import nn
from options import OptionError
from PIL import Image
from scipy.ndimage import gaussian_filter

QUICK = ['--unseen', '3', '--embedding-size', '8', '--batch-size', '8', '--epochs', '2']


def person(seed, size=(20, 24)):
    """A pattern, 0 to 255, that looks like no other person's."""
    pattern = gaussian_filter(np.random.RandomState(seed).normal(size=size[::-1]), 3)
    return 127 + 100 * pattern / np.abs(pattern).max()


def write(path, pixels):
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(str(path))


@pytest.fixture(name='folder', scope='module')
def folder_fixture(tmp_path_factory):
    """Nine people with four noisy images each."""
    folder = tmp_path_factory.mktemp('people')
    for number in range(9):
        (folder / ('p%d' % number)).mkdir()
        for image in range(4):
            noise = np.random.RandomState(100 * number + image).normal(scale=60, size=(24, 20))
            write(folder / ('p%d' % number) / ('%d.png' % image), person(number) + noise)
    return str(folder)


def options_of(source, *arguments):
    return face_verification.parse(['--data-dir', str(source), *QUICK, *arguments])


def metrics_of(source, output_dir, *arguments, kind=''):
    """metrics.json of a quick run."""
    face_verification.main(['--data-dir', str(source), *QUICK, '--draws', '20',
                            '--output-dir', str(output_dir), *arguments])
    return json.loads((output_dir / (kind + 'metrics.json')).read_text())


@pytest.mark.slow
def test_a_run_leaves_metrics_and_pictures_and_shows_a_table(folder, tmp_path, capsys):
    results = metrics_of(folder, tmp_path, '--center-weights', '0.01', '0.1', '--seeds', '0', '3')
    assert list(results) == ['0', '0.01', '0.1']
    for weight, result in results.items():
        assert set(result['seeds']) == {'0', '3'}
        # No class has 5 images: none is enrolled from 5, and none is held out to be recognized.
        assert set(result['metrics']) == {
            name for name in face_verification.NAMES
            if not name.startswith(('enrol_5', 'accuracy', 'reject', 'false_accepts'))}
        for name, entry in result['metrics'].items():
            values = [of_seed[name] for of_seed in result['seeds'].values()]
            assert all(0 <= value <= 1 for value in values)
            assert entry['mean'] == pytest.approx(np.mean(values))
            assert entry['interval'] is None  # over 3 classes
            assert ('ratio' in entry) == (weight != '0')
    base, other = (results[weight]['metrics']['auc_cosine'] for weight in ('0', '0.1'))
    assert other['ratio'] == pytest.approx(other['mean'] / base['mean'])
    assert other['difference'] == pytest.approx(other['mean'] - base['mean'])
    for name in 'roc.png', 'lambda.png':
        with Image.open(str(tmp_path / name)) as picture:
            assert picture.format == 'PNG'
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert 'softmax alone' in lines[0] and 'λ = 0.1' in lines[0]
    row, = (line for line in lines if line.startswith('equal error rate, cosine'))
    assert '%.2f ' % (100 * results['0.1']['metrics']['eer_cosine']['mean']) in row
    # Over 2 classes every draw has both of them once: the interval would have no width.
    assert '[' not in shown.out
    assert ('no intervals for metrics over fewer than 10 classes: there are 3 unseen classes\n'
            in shown.err)


@pytest.mark.slow
def test_ten_classes_have_intervals(tmp_path, capsys):
    npz(tmp_path / 'a.npz', classes=15, each=5)
    results = metrics_of(tmp_path / 'a.npz', tmp_path, '--unseen', '10', '--center-weights', '0.1',
                         '--seeds', '0', '--epochs', '1')
    for name, entry in results['0.1']['metrics'].items():
        known = name.startswith(('accuracy', 'reject', 'false_accepts'))  # 5 classes
        assert (entry['interval'] is None) == known
        if not known:
            assert 0 <= entry['interval'][0] < entry['interval'][1] <= 1
    shown = capsys.readouterr()
    row, = (line for line in shown.out.splitlines() if line.startswith('equal error rate, cosine'))
    entry = results['0']['metrics']['eer_cosine']
    assert '%.2f [%.2f, %.2f]' % tuple(
        100 * value for value in (entry['mean'], *entry['interval'])) in row
    assert '10 unseen classes and 5 to recognize' in shown.err


def test_images_held_out_of_training_are_recognized(tmp_path):
    for number in range(9):
        (tmp_path / ('p%d' % number)).mkdir()
        for image in range(6):
            noise = np.random.RandomState(100 * number + image).normal(scale=30, size=(24, 20))
            write(tmp_path / ('p%d' % number) / ('%d.png' % image), person(number) + noise)
    results = metrics_of(tmp_path, tmp_path / 'out', '--center-weights', '0.1', '--seeds', '0',
                         '--epochs', '8')
    assert set(results['0']['metrics']) == set(face_verification.NAMES)
    assert results['0.1']['metrics']['accuracy_mean']['mean'] > 0.6  # of 6 classes


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(folder, tmp_path):
    results = [metrics_of(folder, tmp_path / name, '--center-weights', '0.1', '--seeds', '1', '2',
                   '--epochs', '1', '--lr', '0.01')
               for name in ('first', 'second')]
    assert results[0] == results[1]
    seeds = results[0]['0.1']['seeds']
    assert seeds['1'] != seeds['2']


class Bar:
    """A progress bar that only counts, and stops the training after so many batches."""

    def __init__(self, last=None):
        self.total, self.last = 0, last

    def update(self, batches=1):
        self.total += batches
        if self.total == self.last:
            raise KeyboardInterrupt

    def set_postfix(self, **kwargs):
        pass


@pytest.mark.parametrize('optimizer', ['sgd', 'adam'])
def test_an_interrupted_run_continues_and_ends_alike(folder, tmp_path, optimizer):
    features = []
    for name, last in ('whole', None), ('parts', 7):
        options = options_of(folder, '--epochs', '4', '--optimizer', optimizer, '--lr', '0.01',
                             '--output-dir', str(tmp_path / name))
        sets = face_verification.sets(options)
        one = face_verification.Run(options, sets, 0.1, 5)
        if last:
            with pytest.raises(KeyboardInterrupt):
                one.features(Bar(last))
        bar = Bar()
        features.append(one.features(bar))
        assert bar.total == 4 * (24 // 8)  # also where half of them were trained before
    whole, parts = features
    assert (whole.embedding == parts.embedding).all() and (whole.centers == parts.centers).all()


def test_an_interrupted_command_says_that_it_continues(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(face_verification.Run, '_train', lambda self, bar: Bar(1).update())
    with pytest.raises(SystemExit) as exit_:
        run.script(lambda: metrics_of(folder, tmp_path / 'out'), 'the same command continues')
    assert exit_.value.code == 130
    assert ('SIGINT: saved %s, the same command continues' % (tmp_path / 'out')
            in capsys.readouterr().err)


@pytest.mark.slow
def test_decorrelation_stands_beside_center_loss_alone(folder, tmp_path):
    repetition = {}
    for weight, decorrelation in (0., '0'), (0., '1'), (1., '0'), (1., '1'):
        options = options_of(folder, '--decorrelation', decorrelation, '--batch-size', '24',
                             '--epochs', '40', '--output-dir', str(tmp_path))
        sets = face_verification.sets(options)
        one = face_verification.Run(options, sets, weight, 0)
        net = one._train(Bar())[0]
        embedding = face_verification._predict(net, sets.training.images)[0]
        repetition[weight, decorrelation] = np.square(np.corrcoef(embedding.T)).mean()
    assert repetition[0., '0'] == repetition[0., '1']
    assert repetition[1., '1'] < 0.8 * repetition[1., '0']
    # Softmax alone is one run, whatever stands beside center loss.
    assert len(os.listdir(str(tmp_path / 'runs'))) == 3


def test_softmax_alone_has_features_of_its_own_number(folder, tmp_path):
    for arguments, sizes in (((), (8, 8)), (('--softmax-embedding-size', '5'), (5, 8))):
        options = options_of(folder, *arguments, '--output-dir', str(tmp_path))
        sets = face_verification.sets(options)
        assert sizes == tuple(
            face_verification.Run(options, sets, weight, 0).features(Bar()).centers.shape[1]
            for weight in (0., 0.1))
    default = face_verification.parse(['--data-dir', folder])
    assert (default.softmax_embedding_size, default.embedding_size) == (64, 128)


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again_and_another_one_is(folder, tmp_path, monkeypatch):
    arguments = ('--center-weights', '0.1', '--seeds', '0')
    before = metrics_of(folder, tmp_path, *arguments)
    trained = []
    train = face_verification.Run._train
    monkeypatch.setattr(face_verification.Run, '_train', lambda self, bar: (
        trained.append(self.center_weight), train(self, bar))[1])
    assert metrics_of(folder, tmp_path, *arguments) == before
    assert not trained
    metrics_of(folder, tmp_path, *arguments, '--alpha', '0.2')
    assert trained == [0., 0.1]
    trained.clear()
    metrics_of(folder, tmp_path, *arguments, '--split-seed', '1')  # other classes to train on
    assert trained == [0., 0.1]


def test_features_that_cannot_be_read_are_named(folder, tmp_path):
    metrics_of(folder, tmp_path, '--center-weights', '--seeds', '0')
    path, = tmp_path.glob('runs/*/features.npz')
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match='features.npz: .*; delete it to train again'):
        metrics_of(folder, tmp_path, '--center-weights', '--seeds', '0')


def test_an_array_that_is_missing_is_named(folder, tmp_path):
    options = options_of(folder, '--output-dir', str(tmp_path))
    one = face_verification.Run(options, face_verification.sets(options), 0.1, 0)
    with pytest.raises(KeyboardInterrupt):
        one.features(Bar(4))
    path, = tmp_path.glob('runs/*/epoch.npz')
    with np.load(str(path)) as file:
        arrays = dict(file)
    for name, complaint in (
            ('epoch', 'has no array epoch; delete it to train again'),
            ('parameter_1', 'has no parameter parameter_1'),
            ('optimizer_1', 'has no optimizer state of parameter 1')):
        np.savez(str(path), **{key: array for key, array in arrays.items() if key != name})
        with pytest.raises(CheckpointError) as caught:
            one.features(Bar())
        assert str(caught.value) == '%s %s' % (path, complaint)
    path.unlink()
    one.features(Bar())
    features = path.with_name('features.npz')
    np.savez(str(features), embedding=np.zeros((2, 2)))
    with pytest.raises(CheckpointError, match='features.npz has no array known_embedding; delete'):
        one.features(Bar())


def test_a_resumed_run_says_so_with_the_epoch(folder, tmp_path, capsys):
    options = options_of(folder, '--output-dir', str(tmp_path))
    one = face_verification.Run(options, face_verification.sets(options), 0.1, 0)
    with pytest.raises(KeyboardInterrupt):
        one.features(Bar(4))
    assert 'continuing' not in capsys.readouterr().err
    one.features(Bar())
    assert 'λ = 0.1, seed 0: continuing with epoch 2 of 2\n' in capsys.readouterr().err


def test_a_resumed_run_does_not_depend_on_the_names_of_layers(folder, tmp_path):
    """Which count what a process has made: conv9 comes behind conv10."""
    results = []
    for stop in None, 4:
        options = options_of(folder, '--output-dir', str(tmp_path / str(stop)))
        one = face_verification.Run(options, face_verification.sets(options), 0.1, 0)
        if stop:
            with pytest.raises(KeyboardInterrupt):
                one.features(Bar(stop))
            made = nn.Conv2D(1, 1).name[len('conv'):]
            for _ in range(int(made), 10 ** len(made) - 3):
                nn.Conv2D(1, 1)
        results.append(one.features(Bar()))
    np.testing.assert_array_equal(results[0].centers, results[1].centers)


def test_a_second_command_in_the_same_folder_is_refused(folder, tmp_path):
    with run.locked(str(tmp_path), []):
        with pytest.raises(run.TrainingError, match='another run is using'):
            metrics_of(folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['.lock']


def test_a_result_that_is_a_folder_shows_before_the_training(folder, tmp_path):
    (tmp_path / 'roc.png').mkdir()
    with pytest.raises(CheckpointError, match='cannot write .*roc.png: it is a folder'):
        metrics_of(folder, tmp_path)
    assert not (tmp_path / 'runs').exists()


def test_center_loss_gathers_the_people_it_trains_on(folder, tmp_path):
    options = options_of(folder, '--epochs', '20', '--output-dir', str(tmp_path))
    sets = face_verification.sets(options)
    labels, spread = sets.training.labels, {}
    for weight in 0., 1.:
        net, centers, _ = face_verification.Run(options, sets, weight, 0)._train(Bar())
        embedding = face_verification._predict(net, sets.training.images)[0]
        means = np.stack([embedding[labels == label].mean(0) for label in range(6)])
        spread[weight] = (np.square(embedding - means[labels]).sum()
                          / np.square(embedding - embedding.mean(0)).sum())
        # Centers move beside softmax alone, too.
        assert np.abs(centers).max() > 0.1
    assert spread[1.] < 0.8 * spread[0.]


def npz(path, classes=9, each=6, prefix='', **changes):
    """An .npz file of noisy patterns; `changes` replace arrays."""
    labels = np.repeat(np.arange(classes), each)
    pixels = np.stack([person(label, (18, 16)) + np.random.RandomState(row).normal(
        scale=30, size=(16, 18)) for row, label in enumerate(labels)])
    arrays = {prefix + 'images': np.clip(pixels, 0, 255).astype(np.uint8),
              prefix + 'labels': labels}
    arrays.update(changes)
    np.savez(str(path), **arrays)
    return arrays


def test_an_npz_file_says_itself_what_is_unseen(tmp_path):
    test = npz(tmp_path / 'test.npz', classes=3, prefix='test_')
    npz(tmp_path / 'both.npz', classes=5, prefix='train_', **test)
    sets = face_verification.sets(options_of(tmp_path / 'both.npz', '--images', 'drawings'))
    assert len(sets.training.names) == 5 and len(sets.unseen.names) == 3
    assert len(sets.known.labels) == 5 and len(sets.training.labels) == 25  # one of six held out
    assert (sets.unseen.labels == test['test_labels']).all()
    assert len(sets.pairs.genuine) == 18 * 17 // 2
    assert sets.training.images.shape[1:] == (1, 16, 18)
    # Standardized, and otherwise the file's.
    pixels = test['test_images'][4].astype(float)
    expected = (pixels - pixels.mean()) / (pixels.std() + 1)
    assert np.abs(sets.unseen.images[4, 0] - expected).max() < 1e-5


def test_an_npz_file_of_one_part_is_split_by_classes(tmp_path):
    npz(tmp_path / 'all.npz', classes=10)
    sets = face_verification.sets(options_of(tmp_path / 'all.npz', '--unseen', '4'))
    assert len(sets.training.names) == 6 and len(sets.unseen.names) == 4
    assert not set(sets.training.names) & set(sets.unseen.names)
    by_default = face_verification.parse(['--data-dir', str(tmp_path / 'all.npz'), '--batch-size',
                                          '8'])
    assert len(face_verification.sets(by_default).unseen.names) == 2  # a fifth


def test_images_of_an_npz_file_are_scaled_where_a_size_is_given(tmp_path):
    arrays = npz(tmp_path / 'a.npz', classes=3)
    people, = faces.load_npz(str(tmp_path / 'a.npz'), (32, 36), pytest.fail)
    assert people.images.shape == (18, 1, 32, 36)
    smaller = people.images.reshape(18, 16, 2, 18, 2).mean((2, 4))
    plain, = faces.load_npz(str(tmp_path / 'a.npz'), None, pytest.fail)
    assert plain.images.shape == (18, 1, *arrays['images'].shape[1:])
    assert np.abs(smaller - plain.images[:, 0]).mean() < 0.3


def test_a_class_of_one_image_is_left_out_of_an_npz_file(tmp_path):
    labels = np.array([7, 7, 8, 9, 9, 9])
    npz(tmp_path / 'a.npz', classes=1, labels=labels)
    lines = []
    people, = faces.load_npz(str(tmp_path / 'a.npz'), None, lines.append)
    assert people.names == ['7', '9']
    assert people.labels.tolist() == [0, 0, 1, 1, 1]
    assert people.numbers.tolist() == [1, 2, 1, 2, 3]
    assert lines == ['left out 1 classes of images: verification needs 2 images of a class']


@pytest.mark.parametrize('changes, words', [
    ({'images': np.zeros((54, 16, 18))}, 'images must be bytes'),
    ({'images': np.zeros((54, 16), np.uint8)}, r'\(n, height, width\), got uint8 of shape'),
    ({'labels': np.zeros(53, int)}, 'labels must be 54 whole numbers'),
    ({'labels': np.zeros(54)}, 'labels must be 54 whole numbers, got float64'),
    ({'labels': np.array([None] * 54)}, 'allow_pickle=False'),
    ({'train_images': np.zeros(3)}, 'it has no train_labels, test_images, test_labels'),
])
def test_an_npz_file_of_something_else_is_refused(tmp_path, changes, words):
    npz(tmp_path / 'a.npz', **changes)
    with pytest.raises(DataError, match=words) as caught:
        faces.load_npz(str(tmp_path / 'a.npz'), None, print)
    assert str(tmp_path / 'a.npz') in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('keep', [0, 10, 1000, -40])
def test_a_cut_npz_file_is_refused(tmp_path, keep):
    path = tmp_path / 'a.npz'
    npz(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match='cannot read'):
        faces.load_npz(str(path), None, print)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
@pytest.mark.parametrize('cases', [60, pytest.param(1500, marks=pytest.mark.soak)])
def test_a_damaged_npz_file_is_read_as_it_was_or_refused_in_one_line(tmp_path, save, cases):
    """Bytes are replaced, most of them in the header of an array or in the list of the archive."""
    random, path = np.random.RandomState(0), tmp_path / 'a.npz'
    arrays = {'images': random.randint(0, 256, (8, 40, 40)).astype(np.uint8),
              'labels': np.arange(8) // 2}
    save(str(path), **arrays)
    whole, refused = path.read_bytes(), 0
    for _ in range(cases):
        content = bytearray(whole)
        for place in random.randint(-200, 200, size=random.randint(1, 6)):
            content[place] = random.randint(256)
        path.write_bytes(content)
        try:
            people, = faces.load_npz(str(path), None, pytest.fail)
        except DataError as error:
            assert str(path) in str(error) and '\n' not in str(error)
            refused += 1
        else:
            assert people.labels.tolist() == arrays['labels'].tolist()
    assert refused > cases / 2


@pytest.mark.parametrize('error', [
    AttributeError(), OverflowError('too large'), tokenize.TokenError('EOF', (1, 2)),
    RuntimeError('encrypted'), lzma.LZMAError('corrupt'), RecursionError(), MemoryError()])
def test_whatever_numpy_raises_is_one_line(tmp_path, monkeypatch, error):
    npz(tmp_path / 'a.npz')

    def load(*args, **kwargs):
        raise error
    monkeypatch.setattr(np, 'load', load)
    with pytest.raises(DataError) as caught:
        faces.load_npz(str(tmp_path / 'a.npz'), None, print)
    assert str(caught.value).startswith('cannot read %s: ' % (tmp_path / 'a.npz'))
    assert str(caught.value)[-2:] != ': ' and '\n' not in str(caught.value)


def test_one_array_is_no_npz_file(tmp_path):
    np.save(str(tmp_path / 'a.npy'), np.zeros((6, 16, 16), np.uint8))
    with pytest.raises(DataError, match='it is no .npz file'):
        faces.load_npz(str(tmp_path / 'a.npy'), None, print)


def test_images_that_the_network_would_pool_to_one_pixel_are_refused(tmp_path):
    # There MXNet's batch normalization of the embedding ends the process.
    npz(tmp_path / 'a.npz', images=np.zeros((54, 8, 8), np.uint8))
    with pytest.raises(OptionError, match='8 x 8 pixels are too small: give --image-size'):
        face_verification.sets(options_of(tmp_path / 'a.npz'))


def test_test_images_of_another_size_are_refused_before_the_training(tmp_path):
    test = npz(tmp_path / 'test.npz', classes=3, prefix='test_')
    test['test_images'] = np.repeat(test['test_images'], 2, axis=1)
    npz(tmp_path / 'both.npz', classes=5, prefix='train_', **test)
    with pytest.raises(OptionError, match='have 18 x 16 pixels, test images 18 x 32'):
        face_verification.sets(options_of(tmp_path / 'both.npz'))


@pytest.mark.slow
def test_what_was_compared_is_said_and_kept(tmp_path, capsys):
    npz(tmp_path / 'a.npz', classes=14)
    arguments = ('--center-weights', '0.1', '--seeds', '0', '--softmax-embedding-size', '5',
                 '--decorrelation', '0.3')
    metrics_of(tmp_path / 'a.npz', tmp_path, *arguments)
    assert ('softmax alone has 5 features; center loss 8, with decorrelation of 0.3'
            in capsys.readouterr().err)
    kept = json.loads((tmp_path / 'options.json').read_text())
    assert (kept['seeds'], kept['decorrelation'], kept['center_weights']) == ([0], 0.3, [0.1])
    before = (tmp_path / 'metrics.json').read_bytes()
    metrics_of(tmp_path / 'a.npz', tmp_path, *arguments, '--validate', kind='validation-')
    assert (tmp_path / 'metrics.json').read_bytes() == before


def test_a_text_is_no_npz_file(tmp_path):
    (tmp_path / 'a.npz').write_text('to be downloaded\n')
    with pytest.raises(DataError, match='it is no .npz file') as caught:
        faces.load_npz(str(tmp_path / 'a.npz'), None, print)
    assert 'pickle' not in str(caught.value)


def test_an_array_that_promises_more_than_any_memory_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {
        'descr': '|u1', 'fortran_order': False, 'shape': (1 << 50, 16, 16)})
    with zipfile.ZipFile(str(tmp_path / 'a.npz'), 'w') as file:
        file.writestr('images.npy', header.getvalue())
        file.writestr('labels.npy', header.getvalue())
    with pytest.raises(DataError, match='cannot read'):
        faces.load_npz(str(tmp_path / 'a.npz'), None, print)


PAIRS = """2	3
p0	1	4
p1	2	3
p2	1	2
p0	1	p1	1
p1	2	p2	4
p0	3	p2	3
"""


def test_pairs_of_a_list_are_verified_and_their_classes_not_trained_on(folder, tmp_path):
    (tmp_path / 'pairs.txt').write_text(PAIRS)
    sets = face_verification.sets(options_of(folder, '--pairs', str(tmp_path / 'pairs.txt')))
    assert sets.unseen.names == ['p0', 'p1', 'p2']
    assert sets.training.names == ['p%d' % number for number in range(3, 9)]
    assert sets.pairs.first.tolist() == [0, 5, 8, 0, 5, 2]
    assert sets.pairs.second.tolist() == [3, 6, 9, 4, 11, 10]
    assert sets.pairs.genuine.tolist() == 3 * [True] + 3 * [False]
    results = metrics_of(folder, tmp_path, '--pairs', str(tmp_path / 'pairs.txt'),
                         '--center-weights', '--seeds', '0', kind='pairs-')
    assert 0 <= results['0']['metrics']['eer_cosine']['mean'] <= 1


def test_pairs_name_test_classes_of_an_npz_file(tmp_path):
    test = npz(tmp_path / 'test.npz', classes=4, prefix='test_')
    npz(tmp_path / 'both.npz', classes=5, prefix='train_', **test)
    (tmp_path / 'pairs.txt').write_text('1 2 6\n3 1 1 2\n')
    sets = face_verification.sets(options_of(tmp_path / 'both.npz', '--pairs',
                                             str(tmp_path / 'pairs.txt')))
    assert sets.unseen.names == ['1', '3'] and len(sets.training.names) == 5
    rows = test['test_images'].astype(float)[[7, 11, 18, 7]]
    chosen = sets.unseen.images[[*sets.pairs.first, *sets.pairs.second]][[0, 2, 1, 3], 0]
    for image, pixels in zip(chosen, rows):
        assert np.corrcoef(image.ravel(), pixels.ravel())[0, 1] > 0.999


def test_a_pair_of_a_missing_image_is_left_out_and_said(folder, tmp_path, capsys):
    (tmp_path / 'pairs.txt').write_text(PAIRS + 'p2\t1\t5\n')
    sets = face_verification.sets(options_of(folder, '--pairs', str(tmp_path / 'pairs.txt')))
    assert len(sets.pairs.genuine) == 6
    assert 'left out 1 pairs' in capsys.readouterr().err


@pytest.mark.parametrize('content, words', [
    ('p0 1 2\np0 1 nobody 2\n', "line 2: there is no class 'nobody'"),
    ('p0 1 2\n\np0 one p1 2\n', 'line 3: expected "name number number"'),
    ('p0 1\n', 'line 1: expected'), ('p0 1 2\n', 'it has 1 and 0'), ('', 'it has 0 and 0'),
    (b'\xff\xfe', 'no text in UTF-8'), (None, 'No such file')])
def test_a_list_of_pairs_that_is_none_is_refused(folder, tmp_path, content, words):
    path = tmp_path / 'pairs.txt'
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        face_verification.sets(options_of(folder, '--pairs', str(path)))
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_names_with_spaces_are_parted_by_tabs(tmp_path):
    (tmp_path / 'pairs.txt').write_text('10\t300\nann b\t1\t2\nann b\t1\tcy\t3\n')
    assert faces.load_pairs(str(tmp_path / 'pairs.txt'), {'ann b', 'cy'}) == [
        (('ann b', 1), ('ann b', 2)), (('ann b', 1), ('cy', 3))]


UNREADABLE = 'no image that can be read as JPEG, PNG, PPM, BMP, GIF, TIFF or WEBP'


def test_load_names_what_it_leaves_out(tmp_path):
    for name in 'ann', 'ben', 'eve', 'nobody':
        (tmp_path / name).mkdir()
    for number in range(2):
        write(tmp_path / 'ann' / ('%d.png' % number), person(number))
        write(tmp_path / 'ben' / ('%d.png' % number), person(number, size=(31, 17)))
    colour = np.stack([person(5)] * 3, axis=-1)
    write(tmp_path / 'ann' / 'colour.jpg', colour)
    write(tmp_path / 'eve' / 'one.png', person(7))
    (tmp_path / 'ann' / 'empty.png').write_bytes(b'')
    (tmp_path / 'ann' / 'notes.txt').write_text('not an image')
    whole = (tmp_path / 'ann' / '0.png').read_bytes()
    (tmp_path / 'ben' / 'cut.png').write_bytes(whole[:len(whole) // 2])
    (tmp_path / 'ben' / 'folder.png').mkdir()
    (tmp_path / 'README').write_text('not a person')
    lines = []
    people = faces.load(str(tmp_path), (16, 12), lines.append)
    assert people.names == ['ann', 'ben']
    assert people.labels.tolist() == [0, 0, 0, 1, 1]
    assert people.images.shape == (5, 1, 16, 12)
    for image in people.images:
        assert abs(image.mean()) < 1e-4 and abs(image.std() - 1) < 0.1
    ann, ben = str(tmp_path / 'ann'), str(tmp_path / 'ben')
    assert lines == [
        'left out %s: %s' % (os.path.join(ann, 'empty.png'), UNREADABLE),
        'left out %s: %s' % (os.path.join(ann, 'notes.txt'), UNREADABLE),
        'left out %s: %s' % (os.path.join(ben, 'cut.png'), UNREADABLE),
        'left out %s: no file' % os.path.join(ben, 'folder.png'),
        'left out %s: verification needs 2 images of a person, found 1' % (tmp_path / 'eve'),
        'left out %s: verification needs 2 images of a person, found 0' % (tmp_path / 'nobody'),
        'the images have 2 sizes, from 20 x 24 to 31 x 17: all are scaled to 12 x 16']


def test_a_brighter_copy_of_an_image_loads_alike(tmp_path):
    (tmp_path / 'ann').mkdir()
    write(tmp_path / 'ann' / 'dark.png', 20 + 0.4 * person(1))
    write(tmp_path / 'ann' / 'light.png', 80 + 0.6 * person(1))
    dark, light = faces.load(str(tmp_path), (16, 16), print).images
    assert np.abs(dark - light).max() < 0.15


def test_an_enormous_image_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(faces, '_LARGEST', 100)
    (tmp_path / 'ann').mkdir()
    write(tmp_path / 'ann' / 'large.png', person(1))
    lines = []
    assert not faces.load(str(tmp_path), (16, 16), lines.append).names
    assert '20 x 24 pixels are more than 100' in lines[0]


def of_one(folder, *paths):
    """The images of one person, whose folder has these files and a good one; and what is said."""
    (folder / 'ann').mkdir()
    for path in paths:
        path.rename(folder / 'ann' / path.name)
    for number in range(2):
        write(folder / 'ann' / ('z%d.png' % number), person(1))
    lines = []
    images = faces.load(str(folder), (16, 16), lines.append).images
    return images[:len(images) - 2, 0], [line for line in lines if 'sizes' not in line]


@pytest.mark.parametrize('kind', ['EPS', 'ICO', 'PCX', 'TGA'])
def test_no_other_format_is_tried_whatever_the_name(tmp_path, monkeypatch, kind):
    """EPS is a program, which Pillow gives to Ghostscript."""
    monkeypatch.setattr('PIL.EpsImagePlugin.Ghostscript',
                        lambda *args, **kwargs: pytest.fail('Ghostscript was run'))
    path = tmp_path / 'face.jpg'
    Image.fromarray(person(1).astype(np.uint8)).convert('RGB').save(str(path), kind)
    images, lines = of_one(tmp_path, path)
    assert not len(images)
    assert lines == ['left out %s: %s' % (tmp_path / 'ann' / 'face.jpg', UNREADABLE)]


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'PPM', 'BMP', 'GIF', 'TIFF', 'WEBP'])
def test_these_formats_are_read_whatever_the_name(tmp_path, kind):
    path = tmp_path / 'face'
    Image.fromarray(person(1).astype(np.uint8)).save(str(path), kind)
    (image,), lines = of_one(tmp_path, path)
    assert not lines and abs(image.std() - 1) < 0.1


DEEP = [('<u2', 'png', 3000, 60000), ('<u2', 'tiff', 3000, 3100), ('>u2', 'tiff', 0, 65535),
        ('<i4', 'tiff', -2 ** 31, 2 ** 31 - 1), ('<i4', 'tiff', 5, 200),
        ('<f4', 'tiff', 0, 1), ('<f4', 'tiff', -1e-20, 1e-20), ('<f4', 'tiff', -3e38, 3e38)]


@pytest.mark.parametrize('kind, suffix, low, high', DEEP)
def test_deep_images_are_scaled_to_their_own_range(tmp_path, kind, suffix, low, high):
    pattern = person(1)
    pattern = (pattern - pattern.min()) / np.ptp(pattern)
    shallow, deep = tmp_path / 'a.png', tmp_path / ('b.' + suffix)
    write(shallow, 255 * pattern)
    Image.fromarray((low + (float(high) - low) * pattern).astype(kind)).save(str(deep))
    (expected, image), lines = of_one(tmp_path, shallow, deep)
    assert not lines and abs(image.std() - 1) < 0.1
    assert np.abs(image - expected).max() < 0.05


@pytest.mark.parametrize('kind', ['<u2', '<i4', '<f4'])
def test_a_deep_image_of_one_brightness_is_blank(tmp_path, kind):
    path = tmp_path / 'a.tiff'
    Image.fromarray(np.full((24, 20), 5000, kind)).save(str(path))
    (image,), lines = of_one(tmp_path, path)
    assert not lines and not image.any()


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_left_out(tmp_path, value):
    path, pixels = tmp_path / 'a.tiff', person(1).astype(np.float32)
    pixels[3, 4] = value
    Image.fromarray(pixels).save(str(path))
    images, lines = of_one(tmp_path, path)
    assert not len(images)
    assert lines == ['left out %s: pixels that are NaN or infinite' % (tmp_path / 'ann' / 'a.tiff')]


@pytest.mark.parametrize('error, reason', [(PermissionError(13, 'Permission denied'),
                                            'Permission denied')] + [
    (error, UNREADABLE) for error in (
        OSError('truncated'), AttributeError(), ZeroDivisionError(), NotImplementedError(),
        struct.error(), RecursionError(), MemoryError(), Image.DecompressionBombError())])
@pytest.mark.parametrize('step', ['Image.open', 'ImageFile.ImageFile.load', 'Image.Image.convert'])
def test_a_file_is_left_out_whatever_its_decoder_raises(tmp_path, monkeypatch, step, error, reason):
    real = operator.attrgetter(step)(PIL)

    def broken(image, *args, **kwargs):
        if getattr(image, 'filename', image).endswith('broken.png'):
            raise error
        return real(image, *args, **kwargs)

    monkeypatch.setattr('PIL.' + step, broken)
    write(tmp_path / 'broken.png', person(1))
    images, lines = of_one(tmp_path, tmp_path / 'broken.png')
    assert not len(images)
    assert lines == ['left out %s: %s' % (tmp_path / 'ann' / 'broken.png', reason)]


def test_a_mistake_of_ours_is_not_taken_for_a_broken_file(folder):
    with pytest.raises(TypeError):
        faces.load(folder, (16, '16'), pytest.fail)


def test_a_pipe_is_left_out(tmp_path):
    os.mkfifo(str(tmp_path / 'pipe.png'))
    images, lines = of_one(tmp_path, tmp_path / 'pipe.png')
    assert not len(images)
    assert lines == ['left out %s: no file' % (tmp_path / 'ann' / 'pipe.png')]


def test_a_split_is_of_people_and_follows_from_its_seed(folder):
    people = faces.load(folder, (16, 16), print)
    splits = [faces.split(people, 4, seed) for seed in (0, 0, 1)]
    for seen, unseen in splits:
        assert sorted(seen.names + unseen.names) == people.names
        assert len(unseen.names) == 4
        for part in seen, unseen:
            assert part.labels.tolist() == sorted(4 * list(range(len(part.names))))
            for name, label in zip(part.names, range(len(part.names))):
                expected = people.images[people.labels == people.names.index(name)]
                assert (part.images[part.labels == label] == expected).all()
    assert splits[0][1].names == splits[1][1].names != splits[2][1].names


def test_a_fifth_of_too_few_classes_is_refused(folder):
    with pytest.raises(DataError, match='1 unseen'):  # of 7
        face_verification.sets(options_of(folder, '--unseen', '2', '--validate'))


def test_the_parts_of_a_validation_cover_the_training_classes(tmp_path):
    npz(tmp_path / 'all.npz', classes=14, each=3)
    unseen = face_verification.sets(options_of(tmp_path / 'all.npz')).unseen.names
    verified = []
    for part in range(5):
        sets = face_verification.sets(options_of(tmp_path / 'all.npz', '--validate', '%d' % part))
        assert not set(sets.training.names) & set(sets.unseen.names)
        assert not set(unseen) & set(sets.training.names + sets.unseen.names)
        assert len(sets.training.names + sets.unseen.names) == 11
        verified += sets.unseen.names
    assert len(verified) == len(set(verified)) == 11


def test_augmented_images_are_new_standardized_and_repeatable():
    images = np.stack([person(number, (16, 20)) for number in range(6)])[:, None]
    images = ((images - 127) / 50).astype(np.float32)
    before = images.copy()
    first, second = (faces.augment(images, np.random.RandomState(4)) for _ in range(2))
    other = faces.augment(images, np.random.RandomState(5))
    assert (images == before).all()
    assert (first == second).all()
    assert first.shape == images.shape and first.dtype == np.float32
    assert np.abs(first - other).max(axis=(1, 2, 3)).min() > 0.1
    assert np.abs(first.mean(axis=(1, 2, 3))).max() < 1e-4
    assert np.abs(first.std(axis=(1, 2, 3)) - 1).max() < 0.01


def test_augmentation_of_no_strength_is_a_mirror_at_most():
    images = np.stack([person(number, (16, 20)) for number in range(6)])[:, None]
    images = ((images - images.mean((2, 3), keepdims=True))
              / images.std((2, 3), keepdims=True)).astype(np.float32)
    drawn = faces.augment(images, np.random.RandomState(0), 0., drawn=True)
    assert np.abs(drawn - images).max() < 0.01
    for photo, image in zip(faces.augment(images, np.random.RandomState(0), 0.), images):
        assert min(np.abs(photo - image).max(), np.abs(photo - image[..., ::-1]).max()) < 0.01
    weak, strong = (np.abs(faces.augment(images, np.random.RandomState(0), strength, drawn=True)
                           - images).mean() for strength in (0.3, 1.))
    assert 0.01 < weak < strong


def test_smoothed_labels_leave_scores_closer_to_each_other(folder, tmp_path):
    probability = {}
    for smoothing in '0', '0.3':
        options = options_of(folder, '--epochs', '20', '--label-smoothing', smoothing, '--wd', '0',
                             '--augment', '0', '--output-dir', str(tmp_path))
        sets = face_verification.sets(options)
        net, _, _ = face_verification.Run(options, sets, 0., 0)._train(Bar())
        _, predicted, shares = face_verification._predict(net, sets.training.images)
        assert (predicted == sets.training.labels).mean() > 0.9
        probability[smoothing] = shares.mean()
    # What minimizes the loss: 0.7 and a sixth of 0.3.
    assert probability['0'] > 0.9 > probability['0.3'] > 0.5


def test_drawings_are_neither_mirrored_nor_lit_nor_hidden():
    ramp = np.linspace(-1, 1, 20)
    images = np.tile(ramp, (40, 1, 16, 1)).astype(np.float32) + 0 * ramp
    again = faces.augment(images, np.random.RandomState(0), drawn=True)[:, 0]
    assert (again[:, 4:12, -5:].mean((1, 2)) > again[:, 4:12, :5].mean((1, 2))).all()
    photos = faces.augment(images, np.random.RandomState(0))[:, 0]
    assert (photos[:, 4:12, -5:].mean((1, 2)) < photos[:, 4:12, :5].mean((1, 2))).sum() > 5


def test_one_image_of_a_large_class_is_held_out(tmp_path):
    npz(tmp_path / 'a.npz', classes=1, labels=np.array([0, 0, 0, 0, 1, 1]))
    people, = faces.load_npz(str(tmp_path / 'a.npz'), None, print)
    training, known = faces.hold_out(people, 4, 0)
    assert training.labels.tolist() == [0, 0, 0, 1, 1] and known.labels.tolist() == [0]
    assert training.names == known.names == ['0', '1']
    assert sorted([*training.numbers[training.labels == 0], *known.numbers]) == [1, 2, 3, 4]


@pytest.mark.parametrize('arguments, error, words', [
    (['--unseen', '8'], DataError, '1 to train on and 8 unseen'),
    (['--batch-size', '25'], OptionError, '--batch-size must be at most 24'),
    (['--data-dir', 'no/such/folder'], DataError, 'cannot read no/such/folder: No such file'),
])
def test_what_cannot_be_done_is_said_in_one_line(folder, arguments, error, words):
    with pytest.raises(error) as caught:
        face_verification.main(['--data-dir', folder, *QUICK, *arguments])
    assert words in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('arguments', [
    ['--unseen', '1'], ['--center-weights', '-1'], ['--center-weights', 'nan'], ['--seeds'],
    ['--image-size', '8', '8'], ['--batch-size', '1'], ['--validate', '5'], ['--draws', '1'],
    ['--validate', '--pairs', 'pairs.txt']])
def test_impossible_arguments_are_refused(folder, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        face_verification.main(['--data-dir', folder, *arguments])
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err
