"""The face example on images that the test makes: smooth random patterns, one a person."""
import json
import operator
import os
import struct

import face_verification
import faces
import numpy as np
import PIL.ImageFile
import pytest
from data import DataError
from options import OptionError
from PIL import Image
from scipy import stats
from scipy.ndimage import gaussian_filter

QUICK = ['--unseen', '3', '--image-size', '16', '16', '--embedding-size', '8', '--batch-size',
         '8', '--epochs', '2']


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


def options_of(folder, *arguments):
    return face_verification.parser().parse_args(['--data-dir', folder, *QUICK, *arguments])


def test_a_run_leaves_metrics_and_curves_and_shows_a_table(folder, tmp_path, capsys):
    face_verification.main(['--data-dir', folder, *QUICK, '--center-weights', '0.01', '0.1',
                            '--seeds', '0', '3', '--output-dir', str(tmp_path)])
    results = json.loads((tmp_path / 'metrics.json').read_text())
    assert list(results) == ['0', '0.01', '0.1']
    for result in results.values():
        assert set(result['seeds']) == {'0', '3'}
        for name in face_verification.METRICS:
            values = [of_seed[name] for of_seed in result['seeds'].values()]
            assert all(0 <= value <= 1 for value in values)
            assert result[name] == pytest.approx(np.mean(values))
            low, high = result['interval'][name]
            assert low <= result[name] <= high
    with Image.open(str(tmp_path / 'roc.png')) as picture:
        assert picture.format == 'PNG'
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ['λ', '0', '0.01', '0.1']
    assert '%.1f' % (100 * results['0.1']['eer_cosine']) in lines[3]


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(folder, tmp_path):
    results = []
    for run in 'first', 'second':
        face_verification.main(['--data-dir', folder, *QUICK, '--center-weights', '0.1', '--seeds',
                                '1', '2', '--output-dir', str(tmp_path / run)])
        results.append((tmp_path / run / 'metrics.json').read_bytes())
    assert results[0] == results[1]
    seeds = json.loads(results[0].decode())['0.1']['seeds']
    assert seeds['1'] != seeds['2']


class Bar:
    """A progress bar that only counts."""
    total = 0

    def update(self):
        self.total += 1

    def set_postfix(self, **kwargs):
        pass


def test_center_loss_gathers_the_people_it_trains_on(folder):
    options = options_of(folder, '--epochs', '60', '--lr', '0.01')
    seen, _ = face_verification.parts(options)[0]
    spread, bar = {}, Bar()
    for weight in 0., 0.1:
        net = face_verification.train(options, seen, weight, 0, bar)
        embedding = face_verification.embed(net, seen.images)
        means = np.stack([embedding[seen.labels == label].mean(0) for label in range(6)])
        spread[weight] = (np.square(embedding - means[seen.labels]).sum()
                          / np.square(embedding - embedding.mean(0)).sum())
    assert spread[0.1] < 0.8 * spread[0.]
    assert bar.total == 2 * 60 * (24 // 8)


@pytest.mark.parametrize('seed', range(5))
def test_metrics_agree_with_loops_over_all_pairs(seed):
    random = np.random.RandomState(seed)
    labels = np.repeat(np.arange(6), 5)
    embedding = random.normal(size=(6, 4))[labels] + random.normal(scale=0.8, size=(30, 4))
    metrics, _ = face_verification.verify(embedding, labels)
    for distance in 'euclidean', 'cosine':
        genuine, impostor = [], []
        for i in range(30):
            for j in range(i):
                a, b = embedding[i], embedding[j]
                apart = (np.sqrt(((a - b) ** 2).sum()) if distance == 'euclidean' else
                         1 - a @ b / np.sqrt((a @ a) * (b @ b)))
                (genuine if labels[i] == labels[j] else impostor).append(apart)
        genuine, impostor = np.array(genuine), np.array(impostor)
        auc = (genuine[:, None] < impostor).mean()
        assert metrics['auc_' + distance] == pytest.approx(auc)
        # The curve has steps: at its crossing the two rates differ by one pair at most.
        rates = [(abs((impostor <= t).mean() - (genuine > t).mean()),
                  ((impostor <= t).mean() + (genuine > t).mean()) / 2)
                 for t in np.concatenate([genuine, impostor])]
        assert metrics['eer_' + distance] == pytest.approx(min(rates)[1], abs=1 / len(genuine))
        if distance == 'euclidean':
            for name, far in ('tar_at_far_1', 0.01), ('tar_at_far_0.1', 0.001):
                accepted = max((genuine <= t).mean() for t in [-1., *genuine, *impostor]
                               if (impostor <= t).mean() <= far)
                assert metrics[name] == pytest.approx(accepted)
            nearest = [min((((embedding[i] - embedding[j]) ** 2).sum(), labels[j])
                           for j in range(30) if j != i)[1] for i in range(30)]
            assert metrics['rank1'] == np.mean(nearest == labels)


def test_people_far_apart_are_told_apart():
    labels = np.repeat(np.arange(3), 4)
    embedding = 10 * np.eye(3)[labels] + np.random.RandomState(0).normal(scale=0.1, size=(12, 3))
    metrics, _ = face_verification.verify(embedding, labels)
    assert metrics == {name: pytest.approx(0 if name.startswith('eer') else 1)
                       for name in face_verification.METRICS}


def test_the_interval_is_student_s():
    values = [0.1, 0.12, 0.17]
    runs = {seed: dict.fromkeys(face_verification.METRICS, value)
            for seed, value in enumerate(values)}
    result = face_verification.summary(runs)
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert result['interval']['rank1'] == pytest.approx(expected)
    # 4.303 is the 97.5 % point for two degrees of freedom in any table.
    assert expected[1] - np.mean(values) == pytest.approx(4.303 * np.std(values, ddof=1) / 3 ** .5,
                                                          rel=1e-3)


def test_one_seed_has_no_interval_and_equal_values_one_of_width_0():
    same = dict.fromkeys(face_verification.METRICS, 0.2)
    one, two = face_verification.summary({0: same}), face_verification.summary({0: same, 1: same})
    assert one['interval']['rank1'] is None
    assert two['interval']['rank1'] == pytest.approx([0.2, 0.2])
    assert face_verification.table({'0': one}).count('±') == 0


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


def test_validation_never_sees_the_unseen(folder):
    unseen = face_verification.parts(options_of(folder))[0][1].names
    chosen = face_verification.parts(options_of(folder, '--validate'))
    for seen, validation in chosen.values():
        assert (len(seen.names), len(validation.names)) == (4, 2)
        assert not set(unseen) & set(seen.names + validation.names)
        assert not set(seen.names) & set(validation.names)
    assert len({tuple(validation.names) for _, validation in chosen.values()}) > 1


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


@pytest.mark.parametrize('arguments, error, words', [
    (['--unseen', '8'], DataError, '9 people with 2 images or more, --unseen 8 needs 10'),
    (['--unseen', '4', '--validate'], DataError, '--unseen 4 needs 10'),
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
    ['--image-size', '8', '8'], ['--batch-size', '1']])
def test_impossible_arguments_are_refused(folder, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        face_verification.main(['--data-dir', folder, *arguments])
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err
