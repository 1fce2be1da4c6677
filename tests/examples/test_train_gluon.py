"""train_gluon.py, as `make demo` runs it."""
import re

import pytest
from matplotlib.image import imread

TITLES = ['softmax alone', 'softmax + center loss']


def accuracies(text):
    """(by scores, by nearest center) of each run."""
    found = re.findall(r'^(.+?) +accuracy by scores ([\d.]+), by nearest center ([\d.]+)$', text,
                       re.MULTILINE)
    assert [title for title, *_ in found] == TITLES
    return [[float(number) for number in numbers] for _, *numbers in found]


def test_it_trains_twice_and_draws_both_side_by_side(example, tmp_path):
    done = example('train_gluon.py', '--epochs', 4)
    for row in accuracies(done.stdout):
        assert all(0.3 < number <= 1 for number in row)     # guessing: 0.1
    for title in TITLES:        # a progress bar each
        assert re.search(re.escape(title) + r':.*4/4 \[.*loss=\d', done.stderr)
    height, width, _ = imread(str(tmp_path / 'distributions.png')).shape
    assert width == 3 * height
    assert done.stdout.endswith('wrote distributions.png\n')


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(example):
    one, again, other = (example('train_gluon.py', '--epochs', 1, '--seed', seed).stdout
                         for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.slow
def test_center_loss_keeps_the_accuracy_and_helps_the_nearest_center(example):
    (alone, alone_by_center), (joint, joint_by_center) = accuracies(
        example('train_gluon.py').stdout)
    assert joint > alone - 0.01
    assert joint_by_center > alone_by_center + 0.01
