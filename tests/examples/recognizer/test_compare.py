"""examples/recognizer/compare.py: losses by the number of classes, on a few noisy patterns."""
import json
import os
import subprocess
import sys

import compare
import metrics
import numpy as np
import pytest
import train
from data import DataError
from patterns import patterns

QUICK = ['--drawings', '--epochs', '2', '--embedding-size', '16', '--size', '8', '8']
CENTER = 'center-0.1-decorrelation-0.1'
SOFTMAX, BOTH = 'softmax', 'λ = 0.1, decorrelation 0.1'     # titles


@pytest.fixture(name='data', scope='module')
def write_data(tmp_path_factory):
    """An .npz file with 12 classes to train on, 7 images each, and 12 for the test."""
    images, labels = patterns(24, 7)
    test = labels >= 12
    path = tmp_path_factory.mktemp('data') / 'data.npz'
    np.savez(path, train_images=images[~test], train_labels=labels[~test],
             test_images=images[test], test_labels=labels[test])
    return path


def run(data, out, *arguments):
    """The lines of runs.jsonl."""
    compare.main([str(data), '--output-dir', str(out), *QUICK, *arguments])
    return [json.loads(line) for line in (out / 'runs.jsonl').read_text().splitlines()]


def options(data, *arguments):
    """As compare.main makes them."""
    parsed = train.parse([str(data), '--output-dir', 'unused', *QUICK])
    return compare.argparse.Namespace(**{**vars(parsed), 'validate': '--validate' in arguments,
                                         'rotations': '--rotations' in arguments})


def test_a_comparison_that_is_killed_goes_on(data, tmp_path, monkeypatch, capsys):
    trained, original = [], train.train

    def killed(*args, title, **kwargs):
        def stop(row, network):
            trained.append((title, row['epoch']))
            if len(trained) == 6:
                raise KeyboardInterrupt
        return original(*args, title=title, after_epoch=stop, **kwargs)

    monkeypatch.setattr(train, 'train', killed)
    out, sizes = tmp_path / 'out', ['--classes', '4', '0', '--recipes', CENTER, '--seeds', '0']
    with pytest.raises(KeyboardInterrupt):
        run(data, out, *sizes)
    assert (out / 'table.md').read_text().count('4 classes') == 4
    kept = (out / 'runs.jsonl').read_bytes()
    lines = run(data, out, *sizes)
    assert (out / 'runs.jsonl').read_bytes().startswith(kept)
    assert [line['classes'] for line in lines] == [4, 4, 12, 12]
    assert trained == [(SOFTMAX, 1), (SOFTMAX, 2), (BOTH, 1), (BOTH, 2), (SOFTMAX, 1), (SOFTMAX, 2),
                       (SOFTMAX, 2), (BOTH, 1), (BOTH, 2)]
    assert len(run(data, out, *sizes, '--seeds', '1')) == 8
    assert not os.listdir(str(out / 'unfinished'))
    assert capsys.readouterr().out.splitlines()[-9].startswith('| --- |')
    assert (out / 'gain.png').read_bytes().startswith(b'\x89PNG')
    for line in lines:      # figures of later questions need no training
        embeddings = np.load(str(out / 'embeddings' / f'{line["embeddings"]}.npy'))
        found = metrics.held_out(embeddings, np.repeat(np.arange(12), 7), 'cosine')[0]['rank1']
        assert line['figures']['cosine']['rank1'][0] == pytest.approx(found.value, abs=1e-4)
    other = run(data, out, *sizes, '--classes', '4', '--size', '16', '16')  # not to be mixed
    assert len(other) == 10 and other[-1]['settings']['shape'] == [16, 16, 1]


def test_the_rule_is_shown_by_draws_of_test_classes(data, tmp_path, monkeypatch, capsys):
    """Center loss that always helps is chosen always, and harmful one never."""
    random, labels = np.random.RandomState(0), np.repeat(np.arange(12), 7)
    (tmp_path / 'embeddings').mkdir()
    of, lines = compare.load(options(data)), []
    settings = compare.settings_of(options(data), of)
    for classes, (softmax, center) in (60, (0.7, 0.2)), (80, (0.2, 0.7)):
        for name, noise in ('softmax', softmax), (CENTER, center):
            embeddings = np.eye(12)[labels] + noise * random.randn(84, 12)
            np.save(str(tmp_path / 'embeddings' / f'{classes}-{name}.npy'), embeddings)
            lines.append({'settings': settings, 'classes': classes, 'images_per_class': 0,
                          'seed': 0, 'recipe': name, 'embeddings': f'{classes}-{name}',
                          'figures': compare.figures_of(embeddings, labels)})
    (tmp_path / 'runs.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    monkeypatch.setattr(compare, 'DRAWS', 10)
    run(data, tmp_path, '--rule')
    rows = [line.split(' | ') for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[5:] for row in rows] == [['helps', '100', '100 |'], ['harms', '0', '0 |']]


def test_a_table_says_what_the_figures_are():
    """Two seeds of softmax, and of one more loss; each draw with its own."""
    def line(recipe, seed, eer, rank1):
        figures = {'eer': eer, 'rank1': rank1}
        return {'classes': 20, 'images_per_class': 8, 'recipe': recipe, 'seed': seed,
                'figures': {'euclidean': figures, 'cosine': figures}}

    runs = [line('softmax', 0, [0.2, 0.1, 0.3], [0.5, 0.5, 0.5]),
            line('softmax', 1, [0.4, 0.3, 0.5], [0.7, 0.7, 0.7]),
            line('softmax', 2, [0.9, 0.9, 0.9], [0.1, 0.1, 0.1]),     # has no other beside it
            line(CENTER, 0, [0.1, 0.05, 0.15], [0.8, 0.8, 0.8]),
            line(CENTER, 1, [0.2, 0.15, 0.25], [1.0, 1.0, 1.0])]
    found = compare.summary(runs)[20, 8, CENTER, 'cosine']
    eer, ratio, gain = found['eer']
    assert (eer.value, ratio.value, gain.value) == pytest.approx((0.15, 0.5, 15))
    assert ratio.interval() == pytest.approx((0.5, 0.5))
    assert found['rank1'][1].value == pytest.approx(30)     # points
    assert 'enrolled_rank1' not in found


def test_fewer_classes_are_among_more_ones_with_the_same_pictures(data):
    of = compare.load(options(data))
    few, many = (compare.draw(of, number, 5, 3) for number in (4, 9))
    assert few.tolist() == many[:len(few)].tolist() and len(few) == 4 * 5
    assert not set(of.labels[many]) & set(of.labels[of.test])
    assert few.tolist() != compare.draw(of, 4, 5, 4).tolist()
    with pytest.raises(DataError, match='from 2 to 12, .*, got 13'):
        compare.draw(of, 13, 0, 0)


def test_turned_classes_and_validation_ones(data):
    plain, of = compare.load(options(data)), compare.load(options(data, '--rotations'))
    assert of.test.tolist() == plain.test.tolist() and len(of.train) == 4 * len(plain.train)
    names = of.labels[of.train].reshape(4, -1)
    assert len(np.unique(names)) == 48 and (np.diff(names, axis=0) > 0).all()
    np.testing.assert_array_equal(of.images[of.train[-1]],
                                  np.rot90(plain.images[plain.train[-1]], 3))
    validation = compare.load(options(data, '--validate'))
    test, others = (set(of.labels[rows]) for rows in (validation.test, validation.train))
    assert len(test) == 2 and len(others) == 10 and not test & others
    assert set(validation.test) | set(validation.train) == set(plain.train)


def test_what_a_recipe_trains(data, tmp_path):
    """Also by the program itself, in a terminal without λ."""
    row = compare.parsed('plain-center-0.03-decorrelation-0.01')
    assert row == (0.03, 0.01, True) and row.name == 'λ = 0.03, decorrelation 0.01, plain'
    done = subprocess.run(
        [sys.executable, compare.__file__, str(data), '--output-dir', str(tmp_path), *QUICK,
         '--recipes', 'plain-center-0.03', '--seeds', '0', '--classes', '5'],
        stdout=subprocess.PIPE, check=True, timeout=300,
        env={**os.environ, 'PYTHONIOENCODING': 'ascii:strict'})
    assert b'| 5 classes | ? = 0.03, plain | cosine |' in done.stdout
    with pytest.raises(SystemExit):
        run(data, tmp_path, '--recipes', 'arcface')
