"""How well embeddings tell classes apart, and the distances at which to accept: NumPy alone.

Every class weighs alike, however many images it has: a pair of images of one class weighs one over
the number of such pairs, and a pair of images of two classes one over the number of pairs of these
two. Intervals come from draws of the classes with replacement (bootstrap): they say how much a
figure depends on which classes were held out.
"""
from typing import NamedTuple

import numpy as np

FALSE_ACCEPTS = 0.01, 0.001         # shares of the pairs of different classes
STRANGERS = 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001
COUNTS = 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000
ENROLLED = 5                        # images per class that `enrol` is expected to get
REJECTED = 0.05                     # share of the images of enrolled classes that may be rejected
FEWEST = 10                         # with fewer classes an interval would be far too narrow
DRAWS = 200
# How tables call the figures, and those of which less is better.
TITLES = {'eer': 'equal error rate', 'tar_at_far_1': 'TAR at 1 % FAR', 'rank1': 'rank-1',
          'enrolled_rank1': 'enrolled from five', 'strangers_accepted': 'strangers accepted'}
ERRORS = 'eer', 'strangers_accepted'
_MOST_PAIRS = 300000                # of which the draws are computed; the figures take all pairs
_ENROLMENTS = 5                     # random choices of the images to enrol


class Figure(NamedTuple):
    """A figure, its values for draws of the classes, and how many classes there are."""
    value: float
    draws: np.ndarray
    classes: int

    def interval(self):
        """The limits (low, high) of 95 % of the draws, or None with too few classes."""
        draws = self.draws[np.isfinite(self.draws)]
        if self.classes < FEWEST or not len(draws):
            return None
        return tuple(np.percentile(draws, [2.5, 97.5]).tolist())

    def with_(self, function, other):
        """function(self, other); the draws of both are of the same classes."""
        return Figure(function(self.value, other.value), function(self.draws, other.draws),
                      self.classes)

    def text(self, form='{:.1f}', scale=100):
        """The figure and its interval."""
        limits = ', '.join(form.format(scale * end) for end in self.interval() or ())
        return form.format(scale * self.value) + (f' [{limits}]' if limits else '')


# -- distances


def scaled(vectors, kind):
    """The vectors, (…, d), as `distances` compares them: with length 1 for the cosine."""
    vectors = np.asarray(vectors, np.float64)
    if kind == 'euclidean':
        return vectors
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def distances(a, b, kind):
    """The distances of each of a, (N, d), to each of b, (K, d): (N, K), 1 − cos or Euclidean."""
    a, b = scaled(a, kind), scaled(b, kind)
    if kind == 'cosine':
        return np.maximum(1 - a @ b.T, 0)
    squares = (a ** 2).sum(axis=1)[:, None] + (b ** 2).sum(axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))


def mean(embeddings, kind):
    """What is enrolled for some images of a class, (n, d): (d,)."""
    return scaled(scaled(embeddings, kind).mean(axis=0), kind)


# -- pairs


def roc(distance, same, weights):
    """(far, tar, distance): the shares of the pairs of different classes, and of the same class,
    that are no farther apart than each distance. Pairs come nearest first; begins with 0, 0, −inf.
    """
    last = np.append(np.flatnonzero(np.diff(distance)), len(distance) - 1)
    below = [np.append(0, np.cumsum(np.where(kind, weights, 0))[last]) for kind in (~same, same)]
    with np.errstate(invalid='ignore'):     # there may be no pairs of one kind
        return (*(one / one[-1] for one in below), np.append(-np.inf, distance[last]))


def rates(far, tar):
    """{name: figure} of a ROC curve. eer: where the share of accepted pairs of others equals that
    of rejected pairs of one class; tar_at_far_…: the largest share of pairs of one class that is
    accepted with at most this share of others."""
    return {'eer': float(np.interp(0, far + tar - 1, far)) if np.isfinite(tar[-1]) else np.nan, **{
        f'tar_at_far_{100 * rate:g}': float(tar[np.searchsorted(far, rate, 'right') - 1])
        for rate in FALSE_ACCEPTS}}


def threshold_at_far(far, distance, rate):
    """Below this distance lies at most this share of the pairs of others; None if no pair does."""
    place = np.searchsorted(far, rate, 'right')
    return float(distance[min(place, len(far) - 1)]) if far[place - 1] > 0 else None


def of_pairs(distance, same, folds=10):
    """{name: value} of a list of pairs, as people report them on LFW: `accuracy` at the distance
    that is best for nine folds on the tenth, and what a ROC curve gives."""
    fold = np.zeros(len(same), int)
    for kind in same, ~same:
        fold[kind] = np.arange(kind.sum()) * folds // kind.sum()
    order, accuracies = np.argsort(distance, kind='stable'), []
    distance, same, fold = distance[order], same[order], fold[order]
    for test in (fold == number for number in range(folds)):
        right = np.cumsum(np.where(same[~test], 1, -1))
        best = distance[~test][right.argmax()]
        accuracies.append(((distance[test] <= best) == same[test]).mean())
    return {'pairs': len(same), 'accuracy': float(np.mean(accuracies)),
            'accuracy_std': float(np.std(accuracies)),
            **rates(*roc(distance, same, np.ones(len(same)))[:2])}


# -- images


def by_class(values, labels):
    """The mean of values, (N,), of each class; NaN are left out, and given for classes without."""
    counted = np.isfinite(values := np.asarray(values, float))
    with np.errstate(invalid='ignore'):
        return (np.bincount(labels, np.where(counted, values, 0))
                / np.bincount(labels, counted))


def rank1(embeddings, labels, kind):
    """Per class, the share of images whose nearest other image is of the same class: (C,)."""
    between = distances(embeddings, embeddings, kind)
    np.fill_diagonal(between, np.inf)
    return by_class(labels[between.argmin(axis=1)] == labels, labels)


def enrolled_from_five(embeddings, labels, kind, seed=0):
    """Two figures per class, {name: (C,)}, after five images of each class were enrolled that has
    more; {} if fewer than two have.

    - enrolled_rank1: the share of a class's other images whose nearest mean is that of the class;
    - strangers_accepted: the share of a class's images that are nearer to the mean of another class
      than the distance at which 5 % of the images of enrolled classes are rejected.
    """
    random, sums = np.random.RandomState(seed), 0
    if (np.bincount(labels) > ENROLLED).sum() < 2:
        return {}
    for _ in range(_ENROLMENTS):
        classes, means, others = _enrol(embeddings, labels, kind, random, ENROLLED + 1)
        between = distances(embeddings, means, kind)
        mine = np.isin(labels, classes) & others
        hits = np.where(mine, classes[between.argmin(axis=1)] == labels, np.nan)
        limit = np.quantile(between[mine].min(axis=1), 1 - REJECTED)
        between[labels[:, None] == classes] = np.inf
        accepted = between.min(axis=1) < limit
        sums = sums + np.array([by_class(hits, labels), by_class(accepted, labels)])
    return dict(zip(('enrolled_rank1', 'strangers_accepted'), sums / _ENROLMENTS))


def _enrol(embeddings, labels, kind, random, least):
    """(classes, means, others): the classes with that many images, the means of five random images
    of each, and which images were not enrolled."""
    classes = np.flatnonzero(np.bincount(labels) >= least)
    chosen = [random.permutation(np.flatnonzero(labels == label))[:ENROLLED] for label in classes]
    others = np.ones(len(labels), bool)
    others[np.concatenate(chosen)] = False
    return classes, np.array([mean(embeddings[mine], kind) for mine in chosen]), others


# -- all figures


def _drawn(classes, draws, seed):
    """How often each class occurs in draws of them, (draws, classes)."""
    return np.random.RandomState(seed).multinomial(classes, np.full(classes, 1 / classes), draws)


def _figures(of_classes, drawn):
    """{name: Figure} of figures per class, {name: (C,)}; classes with NaN do not count."""
    result = {}
    for name, of_class in of_classes.items():
        known = np.isfinite(of_class)
        value = of_class[known].mean() if known.any() else np.nan
        with np.errstate(invalid='ignore'):
            draws = drawn[:, known] @ of_class[known] / drawn[:, known].sum(axis=1)
        result[name] = Figure(float(value), draws, drawn.shape[1])
    return result


def held_out(embeddings, labels, kind, draws=DRAWS, seed=0):
    """Every figure of images of classes that the network was not trained on: ({name: Figure},
    (far, tar, distance)), all of them shares.

    The figures are those of `rates`, rank1, and if two classes have more than five images, those of
    `enrolled_from_five`. Labels are of any kind: two classes or more, one with two images or more.
    """
    labels = np.unique(labels, return_inverse=True)[1]
    counts, (first, second) = np.bincount(labels), np.triu_indices(len(labels), k=1)
    apart = distances(embeddings, embeddings, kind)[first, second]
    order = np.argsort(apart, kind='stable')
    pairs = apart[order], labels[first[order]], labels[second[order]]

    def curve(apart, one, other, times):
        """The ROC curve of these pairs, if each class was drawn so many times."""
        share, within = times / counts, times / np.maximum(counts * (counts - 1) / 2, 1)
        return roc(apart, one == other, np.where(
            one == other, within[one], share[one] * share[other]))

    drawn, of_all = _drawn(len(counts), draws, seed), curve(*pairs, np.ones(len(counts)))
    # For the draws all pairs of one class, and some of the others.
    kept = np.random.RandomState(seed).uniform(size=len(order)) < _MOST_PAIRS / len(order)
    some = [part[kept | (pairs[1] == pairs[2])] for part in pairs]
    of_draws = [rates(*curve(*some, times)[:2]) for times in drawn]
    figures = {name: Figure(value, np.array([draw[name] for draw in of_draws]), len(counts))
               for name, value in rates(*of_all[:2]).items()}
    figures.update(_figures({'rank1': rank1(embeddings, labels, kind),
                             **enrolled_from_five(embeddings, labels, kind, seed)}, drawn))
    return figures, of_all


def identified(between, own, labels, limit, seed=0):
    """What `identify` answers for pictures of known classes and of strangers, {name: Figure}: from
    the distances to the enrolled means, (N, K), the column of each picture's class, −1 for a
    stranger, the classes, (N,) from 0 on, and the distance from which on it answers "unknown"."""
    nearest, accepted = between.argmin(axis=1), between.min(axis=1) < limit
    known, right = own >= 0, nearest == own
    hits = {'known_accepted': (known, accepted & right), 'rank1_of_known': (known, right),
            'known_wrong': (known, accepted & ~right), 'strangers_accepted_now': (~known, accepted)}
    return _figures({name: by_class(np.where(of, hit, np.nan), labels)
                     for name, (of, hit) in hits.items()},
                    _drawn(labels.max() + 1, DRAWS, seed))


# -- thresholds


def share_distance(nearest, labels, share):
    """The distance below which this share of strangers lies, every class alike; None if they are
    too few to tell."""
    order = np.argsort(nearest)
    weights = 1 / np.bincount(labels)[labels[order]] if len(labels) else np.zeros(0)
    place = int(np.searchsorted(np.cumsum(weights), share * weights.sum()))
    return float(nearest[order[place]]) if place else None


def thresholds_for_strangers(embeddings, labels, kind='cosine', shares=STRANGERS, counts=COUNTS,
                             seed=0):
    """The distance below which `identify` accepts a share of the images of strangers, by the number
    of enrolled classes: {share: [[enrolled classes, distance], …]}.

    Five images of each class are enrolled, and the images of each class are strangers to the
    others. For every choice of so many of the others, what counts is the nearest mean; the
    average over all choices needs no draw: if the means are ordered by their distance to an image,
    the m-th of n is the nearest of K with the probability C(n − m, K − 1) / C(n, K).

    A pair of share and count is left out if the accepted images come from too few classes to say
    something of others.
    """
    labels = np.unique(labels, return_inverse=True)[1]
    random, sizes, found = np.random.RandomState(seed), np.bincount(labels), {}
    # The images of the tenth class, if all have fewer than five.
    least = min(ENROLLED, max(1, np.sort(sizes)[-min(FEWEST, len(sizes))]))
    for _ in range(_ENROLMENTS):
        classes, means, _ = _enrol(embeddings, labels, kind, random, least)
        between = distances(embeddings, means, kind)
        between[labels[:, None] == classes] = np.inf
        near = np.argsort(between, axis=1)[:, :-1]      # the last is infinite for most
        between = np.take_along_axis(between, near, axis=1)
        order = np.argsort(between, axis=None)
        strangers, ranks = np.divmod(order, between.shape[1])
        strangers, enrolled, apart = labels[strangers], near.ravel()[order], between.ravel()[order]
        for count in (count for count in counts if count <= between.shape[1]):
            weights = nearest_of(count, between.shape[1])[ranks] / sizes[strangers]
            below = np.cumsum(weights)
            for share in shares:
                place = int(np.searchsorted(below, share * below[-1]))
                masses = (np.bincount(of_pair[:place], weights[:place])
                          for of_pair in (strangers, enrolled))
                # How many classes with equal masses would vary as much.
                found.setdefault((share, count), []).append((apart[place], min(
                    mass.sum() ** 2 / max((mass ** 2).sum(), 1e-30) for mass in masses)))
    result = {}
    for (share, count), draws in found.items():
        distance, classes = np.mean(draws, axis=0)
        if classes >= FEWEST:
            result.setdefault(share, []).append([count, float(distance)])
    return result


def nearest_of(count, others):
    """The probability that the m-th nearest of the others is the nearest of so many random ones."""
    ranks = np.arange(others)
    taken = np.where(others - ranks >= count, count / (others - ranks), 0.)
    return taken * np.append(1, np.cumprod(1 - taken)[:-1])


def measure(embeddings, labels, kind, shares=STRANGERS, seed=0):
    """(figures, curve, thresholds): what `held_out` gives, and what recognizer.json has of it, for
    'pairs' and 'strangers' {share: [[enrolled classes, distance], …]}; a pair enrols one."""
    figures, curve = held_out(embeddings, labels, kind, seed=seed)
    strangers = thresholds_for_strangers(embeddings, labels, kind, sorted(shares), seed=seed)
    limits = {rate: threshold_at_far(curve[0], curve[2], rate) for rate in FALSE_ACCEPTS}
    pairs = {rate: [[1, limit]] for rate, limit in limits.items() if limit is not None}
    return figures, curve, {of: {f'{share:g}': points for share, points in found.items()}
                            for of, found in (('pairs', pairs), ('strangers', strangers))}
