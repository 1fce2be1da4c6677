"""experiments/recognizer.py: the split, and the figures against a naive count."""
import numpy as np
import pytest
import recognizer
from PIL import Image

RANDOM = np.random.RandomState(3)


def options(data, out, *more):
    return recognizer.parse([str(data), '--output-dir', str(out), *more])


def test_figures_by_hand():
    # Four images of two enrolled classes, three of strangers; distances to both means.
    mine = np.array([[1., 5], [2, 9], [7, 3], [4, 6]])
    theirs = np.array([[9., 8], [3, 3.5], [20, 1]])
    figures = recognizer.figures_of(mine, [0, 0, 1, 1], theirs)
    assert figures['rank-1'] == 3 / 4
    # The nearest distances are 1, 2, 3, 4: 5 % are rejected beyond 3.85, which 3 and 1 are below.
    assert figures['strangers accepted'] == 2 / 3
    assert recognizer.table({0: [figures], .1: [figures]}).splitlines()[-1] == (
        '| 0.1 | 75.0 (75.0 to 75.0) | 66.7 (66.7 to 66.7) |')


def test_unseen_classes_of_a_folder_are_not_trained_on(tmp_path):
    for name in range(9):
        (tmp_path / 'data' / f'{name}').mkdir(parents=True)
        for number in range(7):
            Image.fromarray(RANDOM.randint(0, 255, (8, 8), 'uint8')).save(
                str(tmp_path / 'data' / f'{name}' / f'{number}.png'))
    folder, unseen = recognizer.split(options(tmp_path / 'data', tmp_path / 'out'), 0)
    trained = {path.name for path in (tmp_path / 'out' / '0-classes').iterdir()}
    assert folder == str(tmp_path / 'out' / '0-classes') and len(unseen) == 3
    assert trained | set(unseen) == set('012345678') and not trained & set(unseen)
    known, strangers = recognizer.roles(unseen)
    assert len(known) == 2 and len(strangers) == 1 and not set(known) & set(strangers)
    assert all(len(paths) == 7 for paths in unseen.values())


def test_an_npz_file_is_trained_on_without_its_test_images(tmp_path):
    arrays = {f'{part}_{kind}': values for part in ('train', 'test') for kind, values in (
        ('images', RANDOM.randint(0, 255, (12, 6, 5), 'uint8')), ('labels', np.arange(12) // 6))}
    np.savez(str(tmp_path / 'set.npz'), **arrays)
    train, unseen = recognizer.split(options(tmp_path / 'set.npz', tmp_path / 'out'), 0)
    with np.load(train) as file:
        assert sorted(file.files) == ['images', 'labels']
        assert (file['images'] == arrays['train_images']).all()
    assert sorted(unseen) == ['0', '1'] and all(len(paths) == 6 for paths in unseen.values())
    with Image.open(unseen['1'][5]) as image:
        assert (np.asarray(image) == arrays['test_images'][11]).all()


@pytest.mark.slow
def test_end_to_end(tmp_path, capsys):
    for name in range(8):
        (tmp_path / 'data' / f'{name}').mkdir(parents=True)
        pattern = RANDOM.randint(0, 255, (4, 4), 'uint8').repeat(4, 0).repeat(4, 1)
        for number in range(8):
            noisy = np.clip(pattern + RANDOM.normal(0, 20, pattern.shape), 0, 255).astype('uint8')
            Image.fromarray(noisy).save(str(tmp_path / 'data' / f'{name}' / f'{number}.png'))
    recognizer.main([str(tmp_path / 'data'), '--output-dir', str(tmp_path / 'out'),
                     '--unseen', '.5', '--seeds', '0',
                     '--train-options', '--epochs', '2', '--held-out', '0.5'])
    assert '| 0.1 | 100.0' in capsys.readouterr().out
