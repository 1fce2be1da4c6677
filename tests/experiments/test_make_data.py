"""The scripts that make data sets, on small archives and folders that the test makes."""
import io
import zipfile

import face_verification
import faces
import make_lfw
import make_omniglot
import numpy as np
import pytest
from data import DataError
from PIL import Image


def png(pixels, mode=None):
    content = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(content, 'PNG')
    return content.getvalue()


def drawing(seed):
    """Black ink on white, as bits: True is paper."""
    paper = np.ones((105, 105), bool)
    top, left = np.random.RandomState(seed).randint(10, 60, 2)
    paper[top:top + 25, left:left + 8] = False
    return paper


def omniglot(path, alphabets, root='images_x/'):
    """An archive with 4 images of each character of {alphabet: number of characters}."""
    with zipfile.ZipFile(str(path), 'w') as archive:
        archive.writestr('__MACOSX/._images_x', b'')
        for alphabet, characters in alphabets.items():
            for character in range(1, characters + 1):
                for image in range(1, 5):
                    archive.writestr(
                        '%s%s/character%02d/%04d_%02d.png' % (root, alphabet, character,
                                                              17 * character, image),
                        png(drawing(hash((len(alphabet), character, image)) % 2 ** 31), '1'))
    return str(path)


@pytest.mark.parametrize('root', ['', 'images_x/'])
def test_omniglot(tmp_path, root):
    parts = [omniglot(tmp_path / 'background.zip', {'Latin': 3, 'Greek_(old)': 2}, root),
             omniglot(tmp_path / 'evaluation.zip', {'Runes': 10}, root)]
    make_omniglot.main([*parts, str(tmp_path / 'omniglot.npz')])
    with np.load(str(tmp_path / 'omniglot.npz')) as file:
        arrays = dict(file)
    assert arrays['train_images'].shape == (20, 28, 28)
    assert arrays['train_images'].dtype == np.uint8
    assert arrays['train_labels'].tolist() == sorted(4 * list(range(5)))
    assert arrays['test_labels'].tolist() == sorted(4 * list(range(10)))
    # The first class is the first character of the first alphabet by name. A pixel is the mean of
    # the 3 or 4 rows and columns whose middle lies in its part of the image.
    ink = ~drawing(hash((len('Greek_(old)'), 1, 2)) % 2 ** 31)
    scaled = arrays['train_images'][1].astype(float)
    assert scaled.max() == 255 and scaled.min() == 0
    covered = [np.flatnonzero((np.arange(105) + 0.5 > 3.75 * pixel)
                              & (np.arange(105) + 0.5 <= 3.75 * (pixel + 1)))
               for pixel in range(28)]
    expected = np.array([[ink[np.ix_(rows, columns)].mean() for columns in covered]
                         for rows in covered])
    np.testing.assert_allclose(scaled, 255 * expected, atol=1.01)
    sets = face_verification.sets(face_verification.parse([
        '--data-dir', str(tmp_path / 'omniglot.npz'), '--images', 'drawings', '--batch-size', '4']))
    assert len(sets.training.names) == 5 and len(sets.unseen.names) == 10


def broken(path):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('Latin/character01/0001_01.png', b'no image')


@pytest.mark.parametrize('damage, words', [
    (lambda path: open(path, 'wb').close(), 'File is not a zip file'),
    (lambda path: open(path, 'rb+').truncate(2000), 'File is not a zip file'),
    (lambda path: zipfile.ZipFile(path, 'w').close(), 'has no files alphabet/characterNN/NAME.png'),
    (broken, 'cannot read Latin/character01/0001_01.png in .*: no image that can be read')])
def test_an_archive_that_is_none_is_refused(tmp_path, damage, words):
    path = omniglot(tmp_path / 'archive.zip', {'Latin': 2})
    damage(path)
    with pytest.raises(DataError, match=words) as caught:
        make_omniglot.main([path, path, str(tmp_path / 'out.npz')])
    assert path in str(caught.value) and '\n' not in str(caught.value)
    assert not (tmp_path / 'out.npz').exists()


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(DataError, match='cannot read no.zip: No such file'):
        make_omniglot.main(['no.zip', 'no.zip', str(tmp_path / 'out.npz')])


@pytest.fixture(name='lfw')
def lfw_folder(tmp_path):
    """Four people with 1, 2, 3 and 30 colour images, and what is no person."""
    folder = tmp_path / 'lfw'
    for seed, (name, images) in enumerate((('Ann_Ash', 2), ('Bob_Elm', 1), ('Cy_Fir', 30),
                                           ('Dee_Oak', 3))):
        (folder / name).mkdir(parents=True)
        for number in range(1, images + 1):
            pixels = np.full((250, 250, 3), 40 * seed, np.uint8)
            pixels[65:185, 75:175] = 100 + number  # the rectangle that is kept
            Image.fromarray(pixels).save(str(folder / name / ('%s_%04d.png' % (name, number))))
    (folder / 'README').write_text('no person')
    (tmp_path / 'test.txt').write_text('Dee_Oak\n\n')
    return folder


def test_lfw(tmp_path, lfw, capsys):
    make_lfw.main([str(lfw), str(tmp_path / 'lfw.npz'), '--test-people',
                   str(tmp_path / 'test.txt')])
    with np.load(str(tmp_path / 'lfw.npz')) as file:
        arrays = dict(file)
    assert arrays['train_images'].shape == (22, 48, 40)
    assert arrays['train_labels'].tolist() == [0, 0] + 20 * [1]
    assert arrays['test_labels'].tolist() == [0, 0, 0]
    for images, numbers in ((arrays['train_images'], [1, 2, *range(1, 21)]),
                            (arrays['test_images'], [1, 2, 3])):
        assert images.dtype == np.uint8
        for image, number in zip(images, numbers):
            assert (image == 100 + number).all()
    assert 'left out 1 people' in capsys.readouterr().err
    training, test = faces.load_npz(str(tmp_path / 'lfw.npz'), None, pytest.fail)
    assert len(training.names) == 2 and len(test.names) == 1


def test_an_lfw_image_that_cannot_be_read_is_left_out(tmp_path, lfw, capsys):
    path = lfw / 'Cy_Fir' / 'Cy_Fir_0002.png'
    path.write_bytes(b'no image')
    make_lfw.main([str(lfw), str(tmp_path / 'lfw.npz'), '--test-people',
                   str(tmp_path / 'test.txt')])
    assert 'left out %s: no image' % path in capsys.readouterr().err
    with np.load(str(tmp_path / 'lfw.npz')) as file:
        assert len(file['train_labels']) == 21


@pytest.mark.parametrize('names, arguments, words', [
    ('Dee_Oak\nEve_Yew\n', [], 'has no folder for 1 names of .*test.txt, the first is Eve_Yew'),
    ('\n', [], 'test.txt has no names'), ('Bob_Elm\n', [], 'has no people for the testing classes'),
    ('Dee_Oak\n', ['--crop', '251', '100'], 'has 250 x 250 pixels, fewer than --crop 251 100'),
    (None, [], 'cannot read .*test.txt: No such file')])
def test_what_makes_no_lfw_is_said(tmp_path, lfw, names, arguments, words):
    if names is None:
        (tmp_path / 'test.txt').unlink()
    else:
        (tmp_path / 'test.txt').write_text(names)
    with pytest.raises(DataError, match=words):
        make_lfw.main([str(lfw), str(tmp_path / 'lfw.npz'), '--test-people',
                       str(tmp_path / 'test.txt'), *arguments])
