"""What embeddings of classes that training never saw are good for, and how sure that is.

Whether two images show the same class (verification), which of 20 classes an image belongs to
(one-shot), which of all after one or five images of each were enrolled; and for classes that
were trained on, which it is and whether it is one of them at all (rejection).

A metric is measured twice: once as it is, and once for many draws of the classes with
replacement (bootstrap), which say how much it depends on who happened to be in the test.
"""
from typing import NamedTuple

import numpy as np
from scipy import sparse
from sklearn.metrics import auc, pairwise_distances, roc_curve
from scipy.optimize import brentq

DISTANCES = ('euclidean', 'cosine')
# False accept rates, in percent, at which true accept rates are reported.
FALSE_ACCEPTS = (1, 0.1)
WAYS = 20
ENROLLED = (1, 5)
CONFIDENCE = 0.95
# The share of images of known classes that a threshold may reject.
REJECTED = 0.05

# An estimate of one-shot accuracy is the mean of at least so many tasks.
_TASKS = 10000
_ENROLMENTS = 10
# Distances of pairs are counted in so many even steps: sorting 40 million would take ten times as
# long, and move no rate that is shown.
_STEPS = 1 << 16
# Thresholds at which the curves of the bootstrap are known; between them they are interpolated.
_THRESHOLDS = 192
# Pairs by class and class as a full matrix, up to so many numbers; else as a sparse one.
_FULL = 1 << 26


class Measured(NamedTuple):
    """A metric: its value, and what it is for each draw of the classes, (draws,)."""
    value: float
    draws: np.ndarray


class Pairs(NamedTuple):
    """Which images are compared: numbers of both, (P,), and whether they show the same class."""
    first: np.ndarray
    second: np.ndarray
    genuine: np.ndarray


def all_pairs(labels):
    """Every pair of images once."""
    first, second = np.triu_indices(len(labels), k=1)
    return Pairs(first.astype(np.int32), second.astype(np.int32), labels[first] == labels[second])


def draw_classes(classes, draws, seed):
    """How often each class occurs in each draw of `classes` with replacement: (classes, draws).

    A draw of one class alone, with which no other could be confused, is made again.
    """
    random = np.random.RandomState(seed)
    drawn = np.zeros((draws, classes))
    alone = np.ones(draws, bool)
    while alone.any():
        drawn[alone] = random.multinomial(classes, np.full(classes, 1 / classes), alone.sum())
        alone = (drawn > 0).sum(axis=1) < 2
    return drawn.T.astype(np.float32)


def equal_error_rate(far, tar):
    """Where false accepts are as frequent as false rejects on a ROC curve."""
    return brentq(lambda rate: 1 - rate - np.interp(rate, far, tar), 0, 1)


def verify(embedding, labels, pairs, drawn):
    """Verification of pairs of images: accepted when their distance is small.

    - eer_*: where false accepts and false rejects are equally frequent
    - tar_at_far_1_*, tar_at_far_0.1_*: share of the genuine pairs that is accepted at a distance
      that accepts 1 % and 0.1 % of the others
    - auc_*: area under the ROC curve

    In a draw of the classes a pair counts as often as both its classes do; the copies of a
    class are not compared with each other.

    Parameters
    ----------
    embedding : numpy.ndarray, (N, d)
    labels : numpy.ndarray, (N,)
        From 0 on.
    pairs : Pairs
    drawn : numpy.ndarray, (classes, draws)
        From `draw_classes`.

    Returns
    -------
    metrics : {name: Measured}
    curves : {distance: (far, tar)}
    """
    metrics, curves = {}, {}
    for distance in DISTANCES:
        between = pairwise_distances(embedding.astype(np.float64), metric=distance)
        apart = between[pairs.first, pairs.second].astype(np.float32)
        del between
        low, high = apart.min(), apart.max()
        steps = ((apart - low) * ((_STEPS - 1) / max(high - low, 1e-30))).astype(np.uint16)
        curves[distance] = far, tar = [
            _shares(np.bincount(steps[kind], minlength=_STEPS)[:, None])[0]
            for kind in (~pairs.genuine, pairs.genuine)]
        fars, tars = _drawn_curves(steps, far, tar, labels, pairs, drawn)
        for name, of_curve in _CURVE_METRICS.items():
            metrics['%s_%s' % (name, distance)] = Measured(float(of_curve(far, tar)), np.array(
                # Of a short list a draw may take no pair of a kind.
                [of_curve(*curve) if all(rates[-1] for rates in curve) else np.nan
                 for curve in zip(fars, tars)]))
    return metrics, curves


def _tar_at(percent):
    return lambda far, tar: np.interp(percent / 100, far, tar)


_CURVE_METRICS = {'eer': equal_error_rate,
                  **{'tar_at_far_%g' % percent: _tar_at(percent) for percent in FALSE_ACCEPTS},
                  'auc': auc}


def _thresholds(far, tar):
    """Steps of the distance that follow both rates, and small false accept rates closely."""
    few = np.concatenate([np.logspace(-4.5, 0, _THRESHOLDS // 2, endpoint=False),
                          np.linspace(0.02, 1, _THRESHOLDS // 4)])
    return np.unique(np.concatenate([np.searchsorted(far, few), np.searchsorted(
        tar, np.linspace(0, 1, _THRESHOLDS // 4))]))


def _drawn_curves(steps, far, tar, labels, pairs, drawn):
    """(false accept rates, true accept rates), each (draws, thresholds + 2), from 0 to 1."""
    classes = len(drawn)
    edges = _thresholds(far, tar)
    # Pairs of bin b are accepted from threshold b on. Short integers are sorted in linear time.
    bins = np.searchsorted(edges, np.arange(_STEPS), 'right').astype(np.uint16)[steps]
    one, other = labels[pairs.first], labels[pairs.second]
    genuine = np.zeros((len(edges) + 1, classes), np.float32)
    np.add.at(genuine, (bins[pairs.genuine], one[pairs.genuine]), 1)
    tars = genuine @ drawn
    fars = np.empty_like(tars)
    one, other, bins = (array[~pairs.genuine] for array in (one, other, bins))
    order = np.argsort(bins, kind='stable')
    ends = np.searchsorted(bins[order], np.arange(len(edges) + 2))
    for number, (start, end) in enumerate(zip(ends, ends[1:])):
        rows = order[start:end]
        counts = sparse.coo_matrix((np.ones(len(rows), np.float32), (one[rows], other[rows])),
                                   (classes, classes))
        dense = len(rows) > classes ** 2 // 20 and classes ** 2 <= _FULL
        fars[number] = (drawn * ((counts.toarray() if dense else counts.tocsr()) @ drawn)).sum(0)
    return _shares(fars), _shares(tars)


def _shares(counts):
    """Of (bins, draws): which share lies below each threshold, (draws, bins + 1)."""
    below = np.cumsum(counts, axis=0, dtype=np.float64)
    return np.vstack([np.zeros_like(below[:1]), below / np.maximum(below[-1], 1)]).T


def _share_of_hits(hits, labels, drawn):
    """The share of hits, (N,), among samples of these labels, as Measured."""
    right = np.bincount(labels, hits, minlength=len(drawn))
    counts = np.bincount(labels, minlength=len(drawn))
    return Measured(float(hits.mean()), (right @ drawn) / np.maximum(counts @ drawn, 1))


def identify(embedding, labels, drawn, seed=0):
    """Whose image it is, of classes that are known by few images.

    - rank1_*: share of images whose nearest other one is of the same class
    - one_shot_*: share of images that are nearer to another one of their class than to images of
      19 other classes, one each (or of all, where there are fewer)
    - enrol_1_*, enrol_5_*: share of the other images that are nearest to the mean of their own
      class's enrolled images, 1 or 5 of each class that has more

    Parameters and result as for `verify`; `seed` chooses images and classes.
    """
    metrics = {}
    rows = [np.flatnonzero(labels == label) for label in range(len(drawn))]
    tasks = list(_tasks(rows, labels, np.random.RandomState(seed)))
    for distance in DISTANCES:
        features = embedding.astype(np.float64)
        if distance == 'cosine':  # so that means are means of directions
            features /= np.linalg.norm(features, axis=1, keepdims=True) + 1e-12
        between = pairwise_distances(features, metric=distance)
        hits = np.mean([between[np.arange(len(labels)), own]
                        < between[np.arange(len(labels))[:, None], others].min(axis=1)
                        for own, others in tasks], axis=0)
        metrics['one_shot_' + distance] = _share_of_hits(hits, labels, drawn)
        np.fill_diagonal(between, np.inf)
        hits = labels[between.argmin(axis=1)] == labels
        metrics['rank1_' + distance] = _share_of_hits(hits, labels, drawn)
        del between
        for number in ENROLLED:
            enrolled = _enrol(features, rows, number, distance, np.random.RandomState(seed))
            if enrolled is not None:
                metrics['enrol_%d_%s' % (number, distance)] = _share_of_hits(
                    enrolled[0], labels[enrolled[1]], drawn)
    return metrics


def _tasks(rows, labels, random):
    """For each image (one of its class, (N,); one of each of 19 other classes, (N, 19)), often."""
    starts = np.concatenate([[0], np.cumsum([len(mine) for mine in rows])])
    by_class = np.concatenate(rows)
    place = np.empty(len(labels), int)
    place[by_class] = np.arange(len(labels))
    sizes = np.diff(starts)
    for _ in range(-(-_TASKS // len(labels))):
        # Any but itself: a step of 1 to size − 1 around the circle of its class.
        step = 1 + (random.uniform(size=len(labels)) * (sizes[labels] - 1)).astype(int)
        own = starts[labels] + (place - starts[labels] + step) % sizes[labels]
        keys = random.uniform(size=(len(labels), len(rows)))
        keys[np.arange(len(labels)), labels] = 2
        others = np.argsort(keys, axis=1)[:, :min(WAYS, len(rows)) - 1]
        chosen = starts[others] + (random.uniform(size=others.shape) * sizes[others]).astype(int)
        yield by_class[own], by_class[chosen]


def _enrol(features, rows, number, distance, random):
    """(hits, images): of images that are not enrolled, whether the nearest class is theirs."""
    rows = [mine for mine in rows if len(mine) > number]
    if len(rows) < 2:
        return None
    hits, images = [], []
    for _ in range(_ENROLMENTS):
        shuffled = [random.permutation(mine) for mine in rows]
        means = np.stack([features[mine[:number]].mean(axis=0) for mine in shuffled])
        others = np.concatenate([mine[number:] for mine in shuffled])
        own = np.repeat(np.arange(len(rows)), [len(mine) - number for mine in rows])
        nearest = pairwise_distances(features[others], means, metric=distance).argmin(axis=1)
        hits.append(nearest == own)
        images.append(others)
    return np.concatenate(hits).astype(float), np.concatenate(images)


class Known(NamedTuple):
    """What a network says of images: features, (N, d), and softmax probabilities: the class
    with the largest one, (N,), and that one, (N,)."""
    embedding: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray


def recognize(known, labels, unknown, unknown_labels, centers, means, drawn, unknown_drawn):
    """Recognition of classes that were trained on, among images of others.

    - accuracy_softmax, accuracy_center, accuracy_mean: share of the known images whose class has
      the largest score, the nearest center, the nearest mean of training features (Euclidean)
    - reject_*: the probability that an image of an unknown class looks less known than one of a
      known class (AUROC), by the largest probability, the distance to the nearest center, to the
      nearest mean
    - false_accepts_*: share of the unknown accepted where 5 % of the known are rejected

    Parameters
    ----------
    known, unknown : Known
    labels, unknown_labels : numpy.ndarray
        Of the former among the classes trained on, of the latter among the others.
    centers, means : numpy.ndarray, (C, d)
    drawn, unknown_drawn : numpy.ndarray
        From `draw_classes`.

    Returns
    -------
    {name: Measured}
    """
    metrics = {'accuracy_softmax': _share_of_hits((known.predicted == labels).astype(float),
                                                  labels, drawn)}
    strangeness = {'softmax': (1 - known.probability, 1 - unknown.probability)}
    for name, points in ('center', centers), ('mean', means):
        distances = [pairwise_distances(images.embedding.astype(np.float64), points)
                     for images in (known, unknown)]
        metrics['accuracy_' + name] = _share_of_hits(
            (distances[0].argmin(axis=1) == labels).astype(float), labels, drawn)
        strangeness[name] = [of_images.min(axis=1) for of_images in distances]
    for name, (of_known, of_unknown) in strangeness.items():
        genuine = np.repeat([True, False], [len(of_known), len(of_unknown)])
        far, tar, _ = roc_curve(genuine, -np.concatenate([of_known, of_unknown]),
                                drop_intermediate=False)
        edges = np.unique(np.quantile(np.concatenate([of_known, of_unknown]),
                                      np.linspace(0, 1, 4 * _THRESHOLDS)))
        curves = []
        for values, classes, draw in ((of_unknown, unknown_labels, unknown_drawn),
                                      (of_known, labels, drawn)):
            counts = np.zeros((len(edges) + 1, len(draw)))
            np.add.at(counts, (np.searchsorted(edges, values), classes), 1)
            curves.append(_shares(counts @ draw))
        for metric, of_curve in (('reject', auc), ('false_accepts', _far_at)):
            metrics['%s_%s' % (metric, name)] = Measured(
                float(of_curve(far, tar)), np.array([of_curve(*curve) for curve in zip(*curves)]))
    return metrics


def _far_at(far, tar):
    return np.interp(1 - REJECTED, tar, far)


def combine(runs, base=None, seed=0):
    """Runs of one recipe with several seeds: their mean, and intervals over seeds and classes.

    Each draw takes the classes of the draw and as many of the seeds, with replacement; of both
    recipes the same ones.

    Parameters
    ----------
    runs : {seed: {name: Measured}}
    base : dict like runs, optional
        Of the same seeds: what to compare with.

    Returns
    -------
    {name: dict}
        `mean` and its `interval`, [low, high]; with a base also `difference` and `ratio`, to its
        mean, with `difference_interval` and `ratio_interval`. No ratio, None, where it would
        divide by 0.
    """
    result = {}
    for name in next(iter(runs.values())):
        mean, draws = _mean(runs, name, seed)
        entry = {'mean': mean, 'interval': _interval(draws)}
        if base is not None:
            base_mean, base_draws = _mean(base, name, seed)
            divides = base_mean > 0 and not (base_draws == 0).any()
            entry.update(
                difference=mean - base_mean, difference_interval=_interval(draws - base_draws),
                ratio=mean / base_mean if divides else None,
                ratio_interval=_interval(draws / base_draws) if divides else None)
        result[name] = entry
    return result


def _mean(runs, name, seed):
    """(mean over the runs, means over a draw of the runs for every draw of the classes)."""
    values = np.array([of_seed[name].value for of_seed in runs.values()])
    draws = np.stack([of_seed[name].draws for of_seed in runs.values()])
    random = np.random.RandomState(seed)
    chosen = random.randint(len(draws), size=draws.shape)
    return float(values.mean()), np.take_along_axis(draws, chosen, axis=0).mean(axis=0)


def _interval(draws):
    edge = 50 * (1 - CONFIDENCE)
    return [float(value) for value in np.nanpercentile(draws, [edge, 100 - edge])]
