"""examples/recognizer/metrics.py against scikit-learn, or pair by pair."""
import itertools
from math import comb

import metrics
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics


def people(seed, classes, each, apart=1.5, size=16):
    """Embeddings of classes around points that are drawn at random, and their labels."""
    random = np.random.RandomState(seed)
    sizes = each if np.ndim(each) else [each] * classes
    labels = np.repeat(np.arange(classes), sizes)
    return apart * random.randn(classes, size)[labels] + random.randn(len(labels), size), labels


@pytest.mark.parametrize('kind', ['cosine', 'euclidean'])
def test_held_out_figures_pair_by_pair(kind):
    """Every class weighs alike, however many images it has."""
    embeddings, labels = people(1, 9, [2, 3, 4, 7, 8, 9, 10, 12, 30])
    names = np.array([f'class {label}' for label in labels])
    figures, (far, tar, distance) = metrics.held_out(embeddings, names, kind)
    between = sklearn_metrics.pairwise_distances(embeddings, metric=kind)
    sizes = np.bincount(labels)
    rows = [(between[i, j], labels[i] == labels[j],
             1 / comb(sizes[labels[i]], 2) / 9 if labels[i] == labels[j] else
             1 / sizes[labels[i]] / sizes[labels[j]] / comb(9, 2))
            for i, j in itertools.combinations(range(len(labels)), 2)]
    apart, same, weights = map(np.array, zip(*rows))
    expected = sklearn_metrics.roc_curve(same, -apart, sample_weight=weights,
                                         drop_intermediate=False)
    np.testing.assert_allclose(far, expected[0], atol=1e-9)
    np.testing.assert_allclose(tar, expected[1], atol=1e-9)

    for rate in metrics.FALSE_ACCEPTS:
        assert figures[f'tar_at_far_{100 * rate:g}'].value == pytest.approx(max(tar[far <= rate]))
    crossing = np.argmin(abs(far + tar - 1))
    assert figures['eer'].value == pytest.approx(far[crossing], abs=0.01)
    limit = metrics.threshold_at_far(far, distance, 0.01)
    below, with_it = (weights[~same & (apart <= limit + more)].sum() for more in (-1e-9, 1e-9))
    assert below <= 0.01 < with_it
    np.fill_diagonal(between, np.inf)
    hits = labels[between.argmin(axis=1)] == labels
    assert figures['rank1'].value == pytest.approx(
        np.mean([hits[labels == label].mean() for label in range(9)]))
    assert figures['eer'].interval() is None    # nine classes are too few


def test_an_interval_is_where_the_figure_of_other_classes_lies():
    inside = 0
    for seed in range(20):
        embeddings, labels = people(seed, 40, 6, apart=0.6)
        figures, _ = metrics.held_out(embeddings[:120], labels[:120], 'cosine', seed=seed)
        truth = metrics.held_out(*people(100 + seed, 60, 6, apart=0.6), 'cosine', draws=1)[0]
        low, high = figures['eer'].interval()
        assert low < figures['eer'].value < high
        inside += low < truth['eer'].value < high
    assert inside >= 15     # 95 % are meant to be; 20 classes are few


def test_enrolled_from_five_is_what_a_loop_over_images_counts():
    embeddings, labels = people(2, 12, [6] * 6 + [9] * 5 + [3], apart=0.8)
    found = metrics.enrolled_from_five(embeddings, labels, 'cosine')
    random, counted = np.random.RandomState(0), []
    for _ in range(metrics._ENROLMENTS):
        classes, means, others = metrics._enrol(embeddings, labels, 'cosine', random, 6)
        assert classes.tolist() == list(range(11)) and others.sum() == 6 + 4 * 5 + 3
        near = sklearn_metrics.pairwise_distances(embeddings, means, metric='cosine')
        mine = [i for i in range(len(labels)) if others[i] and labels[i] < 11]
        limit = np.quantile([near[i].min() for i in mine], 0.95)
        counted.append([
            [np.mean([near[i].argmin() == label for i in mine if labels[i] == label] or np.nan)
             for label in range(12)],
            [np.mean([min(near[i, other] for other in range(11) if other != label) < limit
                      for i in np.flatnonzero(labels == label)]) for label in range(12)]])
    np.testing.assert_allclose(list(found.values()), np.mean(counted, axis=0))
    assert metrics.enrolled_from_five(*people(0, 5, 3), 'cosine') == {}


@pytest.mark.parametrize('kind', ['cosine', 'euclidean'])
def test_the_share_of_strangers_is_within_a_factor_of_two_on_other_classes(kind):
    """As a user would see it: classes are enrolled one after the other, strangers come."""
    embeddings, labels = people(3, 200, [3, 6, 9, 14] * 50, apart=1)
    mine = labels < 100
    found = metrics.thresholds_for_strangers(embeddings[mine], labels[mine], kind,
                                             shares=(0.1, 0.02), counts=(1, 5, 20))
    assert [count for count, _ in found[0.1]] == [1, 5, 20]
    assert [count for count, _ in found[0.02]][:2] == [1, 5]
    random = np.random.RandomState(4)
    others, sizes = np.arange(100, 200), np.bincount(labels)
    for share, points in found.items():
        for count, limit in points:
            accepted = []
            for _ in range(max(20, 200 // count)):
                enrolled = random.choice(others[sizes[others] >= 5], count, replace=False)
                means = np.array([metrics.mean(embeddings[labels == label][:5], kind)
                                  for label in enrolled])
                strangers = ~mine & ~np.isin(labels, enrolled)
                near = sklearn_metrics.pairwise_distances(embeddings[strangers], means,
                                                          metric=kind).min(axis=1)
                accepted.append((near < limit).mean())
            assert share / 2 < np.mean(accepted) < 2 * share, (kind, share, count)
        # With more classes enrolled, a stranger has to be nearer to one of them.
        assert (np.diff([limit for _, limit in points]) < 0).all()


def test_too_few_classes_give_no_threshold():
    assert 0.001 not in metrics.thresholds_for_strangers(*people(5, 12, 6))
    assert metrics.thresholds_for_strangers(*people(5, 3, 6)) == {}
