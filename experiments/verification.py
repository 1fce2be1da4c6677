"""Metrics of embeddings of classes that are not in the training set, with intervals.

They measure whether two images show the same class (verification), which of 20 classes an image
belongs to (one-shot), and which of all classes after one or five images of each were enrolled. For
classes in the training set they measure which class an image has, and whether it has one of these
classes at all (rejection).

Each metric is computed once for the test, and once for each of many draws of the classes with
replacement (bootstrap). The draws tell how much it depends on the classes in the test.
"""
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import brentq
from sklearn.metrics import auc, pairwise_distances, roc_curve

DISTANCES = ('euclidean', 'cosine')
# False accept rates, in percent, at which true accept rates are reported.
FALSE_ACCEPTS = (1, 0.1)
WAYS = 20
ENROLLED = (1, 5)
CONFIDENCE = 0.95
# A bootstrap over fewer classes gives an interval that is far too narrow: over two classes, every
# draw has both classes once, so the interval has no width.
FEWEST = 10
# The share of images of known classes that a threshold may reject.
REJECTED = 0.05

# The least number of tasks for one-shot accuracy.
_TASKS = 10000
_ENROLMENTS = 10
# Distances of pairs are counted in so many equal steps. Sorting 40 million distances would take ten
# times as long, and would change no rate that is shown.
_STEPS = 1 << 16
# The curves of the bootstrap are computed at so many thresholds, and interpolated between them.
_THRESHOLDS = 192
# The largest full matrix that counts pairs by their two classes; a larger one is sparse.
_FULL = 1 << 26


class Measured(NamedTuple):
    """The value of a metric, and its value for each draw of the classes, (draws,)."""
    value: float
    draws: np.ndarray


class Pairs(NamedTuple):
    """The pairs to compare: the rows of both images, (P,), and whether both have one class."""
    first: np.ndarray
    second: np.ndarray
    genuine: np.ndarray


def all_pairs(labels):
    """Every pair of images once."""
    first, second = np.triu_indices(len(labels), k=1)
    return Pairs(first.astype(np.int32), second.astype(np.int32), labels[first] == labels[second])


def draw_classes(classes, draws, seed):
    """How often each class occurs in each draw of `classes` with replacement: (classes, draws).

    A draw that has only one class is repeated, because it has no pair of two classes.
    """
    random = np.random.RandomState(seed)
    drawn = np.zeros((draws, classes))
    alone = np.ones(draws, bool)
    while alone.any():
        drawn[alone] = random.multinomial(classes, np.full(classes, 1 / classes), alone.sum())
        alone = (drawn > 0).sum(axis=1) < 2
    return drawn.T.astype(np.float32)


def equal_error_rate(far, tar):
    """The rate at which false accepts are as frequent as false rejects on a ROC curve."""
    return brentq(lambda rate: 1 - rate - np.interp(rate, far, tar), 0, 1)


def verify(embedding, labels, pairs, drawn):
    """Verification of pairs of images, which are accepted if their distance is small.

    - eer_*: the rate at which false accepts and false rejects are equally frequent
    - tar_at_far_1_*, tar_at_far_0.1_*: share of the genuine pairs that are accepted at the distance
      that accepts 1 % or 0.1 % of the other pairs
    - auc_*: area under the ROC curve

    In a draw of the classes, the weight of a pair is the product of how often its two classes were
    drawn. Copies of one class are not compared with each other.

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
                # With a short list, a draw may have no pair of one kind.
                [of_curve(*curve) if all(rates[-1] for rates in curve) else np.nan
                 for curve in zip(fars, tars)]))
    return metrics, curves


def _tar_at(percent):
    return lambda far, tar: np.interp(percent / 100, far, tar)


_CURVE_METRICS = {'eer': equal_error_rate,
                  **{'tar_at_far_%g' % percent: _tar_at(percent) for percent in FALSE_ACCEPTS},
                  'auc': auc}


def _thresholds(far, tar):
    """Steps of the distance that resolve both rates, small false accept rates most closely."""
    few = np.concatenate([np.logspace(-4.5, 0, _THRESHOLDS // 2, endpoint=False),
                          np.linspace(0.02, 1, _THRESHOLDS // 4)])
    return np.unique(np.concatenate([np.searchsorted(far, few), np.searchsorted(
        tar, np.linspace(0, 1, _THRESHOLDS // 4))]))


def _drawn_curves(steps, far, tar, labels, pairs, drawn):
    """(false accept rates, true accept rates), each (draws, thresholds + 2), from 0 to 1."""
    classes = len(drawn)
    edges = _thresholds(far, tar)
    # Pairs of bin b are accepted from threshold b on. NumPy sorts short integers in linear time.
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
    """The share of counts, (bins, draws), below each threshold: (draws, bins + 1)."""
    below = np.cumsum(counts, axis=0, dtype=np.float64)
    return np.vstack([np.zeros_like(below[:1]), below / np.maximum(below[-1], 1)]).T


def _share_of_hits(hits, labels, drawn):
    """The share of hits, (N,), among samples of these labels, as Measured."""
    right = np.bincount(labels, hits, minlength=len(drawn))
    counts = np.bincount(labels, minlength=len(drawn))
    return Measured(float(hits.mean()), (right @ drawn) / np.maximum(counts @ drawn, 1))


def identify(embedding, labels, drawn, seed=0):
    """Identification among classes of which few images are known.

    - rank1_*: share of images whose nearest other image has the same class
    - one_shot_*: share of images that are nearer to another image of their class than to one image
      of each of 19 other classes (or of all others, if there are fewer)
    - enrol_1_*, enrol_5_*: 1 or 5 images of each class that has more are enrolled; share of the
      other images for which the nearest mean of enrolled images is that of their class

    Parameters and result are those of `verify`; `seed` chooses images and classes.
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
    """Yields for each image (another of its class, (N,); one of 19 other classes each, (N, 19))."""
    starts = np.concatenate([[0], np.cumsum([len(mine) for mine in rows])])
    by_class = np.concatenate(rows)
    place = np.empty(len(labels), int)
    place[by_class] = np.arange(len(labels))
    sizes = np.diff(starts)
    for _ in range(-(-_TASKS // len(labels))):
        # Any image but itself: a step of 1 to size − 1 on a circle of the images of its class.
        step = 1 + (random.uniform(size=len(labels)) * (sizes[labels] - 1)).astype(int)
        own = starts[labels] + (place - starts[labels] + step) % sizes[labels]
        keys = random.uniform(size=(len(labels), len(rows)))
        keys[np.arange(len(labels)), labels] = 2
        others = np.argsort(keys, axis=1)[:, :min(WAYS, len(rows)) - 1]
        chosen = starts[others] + (random.uniform(size=others.shape) * sizes[others]).astype(int)
        yield by_class[own], by_class[chosen]


def _enrol(features, rows, number, distance, random):
    """(hits, images): whether the nearest class of each image that is not enrolled is its own."""
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
    """The outputs of a network for images: features, (N, d), the class with the largest softmax
    probability, (N,), and that probability, (N,)."""
    embedding: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray


def recognize(known, labels, unknown, unknown_labels, centers, means, drawn, unknown_drawn):
    """Recognition of classes in the training set, among images of other classes.

    - accuracy_softmax, accuracy_center, accuracy_mean: share of the known images whose class has
      the largest score, the nearest center, the nearest mean of training features (Euclidean)
    - reject_*: the probability that an image of an unknown class gets a worse rating than an image
      of a known class (AUROC). The rating is the largest probability, the distance to the nearest
      center, or the distance to the nearest mean
    - false_accepts_*: share of the unknown images that are accepted if 5 % of the known images are
      rejected

    Parameters
    ----------
    known, unknown : Known
    labels, unknown_labels : numpy.ndarray
        The labels of `known` among the training classes, of `unknown` among the other classes.
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


def combine(runs, base=None, seed=0, without=()):
    """Runs of one recipe with several seeds: their mean, and intervals over seeds and classes.

    Each draw takes the classes of the draw and as many of the seeds, with replacement; both recipes
    get the same draws.

    Parameters
    ----------
    runs : {seed: {name: Measured}}
    base : dict like runs, optional
        The runs with the same seeds to compare with.
    without : set of str
        The metrics that get no intervals because they are over too few classes.

    Returns
    -------
    {name: dict}
        `mean` and its `interval`, [low, high]; with a base also `difference` and `ratio`, to its
        mean, with `difference_interval` and `ratio_interval`. The ratio is None if it would divide
        by 0, each interval is None for the metrics in `without`.
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
        if name in without:
            entry.update((key, None) for key in entry if key.endswith('interval'))
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
