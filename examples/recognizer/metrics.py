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
CONFIDENCE = 0.95
DRAWS = 200
_MOST_PAIRS = 300000                # of which the draws are computed; the figures take all pairs
_ENROLMENTS = 5                     # random choices of the images to enrol
_LEAST_CLASSES = 10                 # from which accepted strangers have to come, see `_effective`


class Figure(NamedTuple):
    """A figure, its values for each draw of the classes, and how many classes there are."""
    value: float
    draws: np.ndarray
    classes: int

    def interval(self):
        """(low, high), or None with too few classes."""
        return interval(self.draws) if self.classes >= FEWEST else None

    def better_than(self, other):
        """(low, high) of self − other, whose draws were of the same classes; None as above."""
        return self._replace(draws=self.draws - other.draws).interval()


def interval(draws):
    """The limits between which `CONFIDENCE` of the draws lie, or None if there are none."""
    draws = draws[np.isfinite(draws)]
    edge = 50 * (1 - CONFIDENCE)
    return tuple(map(float, np.percentile(draws, [edge, 100 - edge]))) if len(draws) else None


def unit(vectors):
    """The vectors, (…, d), as float64 with length 1."""
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def scaled(vectors, kind):
    """As `distances` compares them: with length 1 for the cosine."""
    return unit(vectors) if kind == 'cosine' else np.asarray(vectors, np.float64)


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


class Pairs(NamedTuple):
    """Every pair of images once: their distance and the two classes, (P,), nearest first."""
    distance: np.ndarray
    one: np.ndarray
    other: np.ndarray
    counts: np.ndarray      # images of each class, (C,)

    def weights(self, drawn):
        """What each pair counts, if each class was drawn so many times."""
        share = drawn / np.maximum(self.counts, 1)
        within = drawn / np.maximum(self.counts * (self.counts - 1) / 2, 1)
        return np.where(self.one == self.other, within[self.one],
                        share[self.one] * share[self.other])

    def roc(self):
        """(far, tar, distance), see `roc`."""
        return roc(self.distance, self.one == self.other, self.weights(np.ones(len(self.counts))))

    def drawn_rocs(self, drawn, seed):
        """Yield (far, tar) for each draw of the classes, at fewer distances and of fewer pairs."""
        same = self.one == self.other
        rare = np.random.RandomState(seed).uniform(size=len(same)) < _MOST_PAIRS / len(same)
        kept = Pairs(*(column[same | rare] for column in self[:3]), self.counts)
        same = kept.one == kept.other
        # Steps of the distance that are short where few pairs of different classes are accepted.
        ranks = np.unique(np.concatenate([
            np.flatnonzero(kind)[np.unique(np.geomspace(1, kind.sum(), 500).astype(int)) - 1]
            for kind in (same, ~same)]))
        places = 2 * np.searchsorted(ranks, np.arange(len(same))) + same
        for times in drawn:
            sums = np.bincount(places, kept.weights(times), 2 * len(ranks) + 2).reshape(-1, 2)
            with np.errstate(invalid='ignore'):
                rates = np.vstack([[0, 0], np.cumsum(sums, axis=0)]) / sums.sum(axis=0)
            yield tuple(rates.T)


def roc(distance, same, weights):
    """(far, tar, distance): the shares of the pairs of different classes, and of the same class,
    that are no farther apart than each distance. Pairs come nearest first; begins with 0, 0, −inf.
    """
    last = np.append(np.flatnonzero(np.diff(distance)), len(distance) - 1)
    rates = []
    for kind in ~same, same:
        below = np.cumsum(np.where(kind, weights, 0))[last]
        rates.append(np.append(0, below / below[-1] if below[-1] > 0 else below * np.nan))
    return (*rates, np.append(-np.inf, distance[last]))


def all_pairs(embeddings, labels, kind):
    """Every pair of images, with labels from 0 on, as Pairs."""
    first, second = np.triu_indices(len(labels), k=1)
    apart = distances(embeddings, embeddings, kind)[first, second]
    order = np.argsort(apart, kind='stable')
    return Pairs(apart[order], labels[first[order]], labels[second[order]], np.bincount(labels))


def equal_error_rate(far, tar):
    """Where the share of accepted pairs of others equals that of rejected pairs of one class."""
    gap = far - (1 - tar)
    after = int(np.argmax(gap >= 0))
    if gap[after] == 0 or not after:
        return float(far[after])
    step = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(far[after - 1] + step * (far[after] - far[after - 1]))


def tar_at_far(far, tar, rate):
    """The largest share of pairs of one class that is accepted with at most this rate of others."""
    return float(tar[np.searchsorted(far, rate, 'right') - 1])


def threshold_at_far(far, distance, rate):
    """Below this distance lies at most this share of the pairs of others; None if no pair does."""
    place = np.searchsorted(far, rate, 'right')
    return float(distance[min(place, len(far) - 1)]) if far[place - 1] > 0 else None


def rank1(embeddings, labels, kind):
    """Per class, the share of images whose nearest other image is of the same class: (C,)."""
    between = distances(embeddings, embeddings, kind)
    np.fill_diagonal(between, np.inf)
    return by_class(labels[between.argmin(axis=1)] == labels, labels)


def by_class(values, labels):
    """The mean of values, (N,), of each class; NaN are left out, and given for classes without."""
    counted = np.isfinite(values := np.asarray(values, float))
    with np.errstate(invalid='ignore'):
        return (np.bincount(labels, np.where(counted, values, 0))
                / np.bincount(labels, counted))


def draw_classes(classes, draws=DRAWS, seed=0):
    """How often each class occurs in draws of them, (draws, classes)."""
    return np.random.RandomState(seed).multinomial(classes, np.full(classes, 1 / classes), draws)


def held_out(embeddings, labels, kind, draws=DRAWS, seed=0):
    """Every figure of images of classes that the network was not trained on.

    Parameters
    ----------
    embeddings : numpy.ndarray, (N, d)
    labels : numpy.ndarray, (N,)
        Of any kind; two classes or more, one of them with two images or more.
    kind : 'cosine' or 'euclidean'

    Returns
    -------
    ({name: Figure}, (far, tar, distance))
        eer, tar_at_far_1, tar_at_far_0.1, rank1; and, if two classes have more than five images,
        enrolled_rank1 and strangers_accepted, see `enrolled_from_five`. All are shares.
    """
    labels = np.unique(labels, return_inverse=True)[1]
    drawn = draw_classes(labels.max() + 1, draws, seed)
    pairs = all_pairs(embeddings, labels, kind)
    of_all, curves = pairs.roc(), list(pairs.drawn_rocs(drawn, seed))
    metrics = {'eer': equal_error_rate, **{
        f'tar_at_far_{100 * rate:g}': lambda far, tar, rate=rate: tar_at_far(far, tar, rate)
        for rate in FALSE_ACCEPTS}}
    figures = {name: Figure(metric(*of_all[:2]), np.array([metric(*one) for one in curves]),
                            drawn.shape[1])
               for name, metric in metrics.items()}
    for name, of_class in (('rank1', rank1(embeddings, labels, kind)),
                           *enrolled_from_five(embeddings, labels, kind, seed).items()):
        figures[name] = _figure(of_class, drawn)
    return figures, of_all


def enrolled_from_five(embeddings, labels, kind, seed=0):
    """Two figures per class, {name: (C,)}, after five images of each class were enrolled that has
    more; {} if fewer than two have.

    - enrolled_rank1: the share of a class's other images whose nearest mean is that of the class;
    - strangers_accepted: the share of a class's images that are nearer to the mean of another class
      than the distance at which 5 % of the images of enrolled classes are rejected.
    """
    random = np.random.RandomState(seed)
    sums = 0
    if (np.bincount(labels) > ENROLLED).sum() < 2:
        return {}
    for _ in range(_ENROLMENTS):
        classes, means, others = _enrol(embeddings, labels, kind, random, ENROLLED + 1)
        between = distances(embeddings, means, kind)
        mine = np.isin(labels, classes) & others
        nearest = between[mine].argmin(axis=1)
        limit = np.quantile(between[mine].min(axis=1), 1 - REJECTED)
        between[labels[:, None] == classes] = np.inf
        hits = np.full(len(labels), np.nan)
        hits[mine] = classes[nearest] == labels[mine]
        accepted = between.min(axis=1) < limit
        sums = sums + np.array([by_class(hits, labels), by_class(accepted, labels)])
    return dict(zip(('enrolled_rank1', 'strangers_accepted'), sums / _ENROLMENTS))


def _enrol(embeddings, labels, kind, random, least):
    """(classes, means, others): the classes with that many images, the means of five random images
    of each, and which images were not enrolled."""
    classes = np.flatnonzero(np.bincount(labels) >= least)
    means, others = [], np.ones(len(labels), bool)
    for label in classes:
        mine = random.permutation(np.flatnonzero(labels == label))[:ENROLLED]
        means.append(mean(embeddings[mine], kind))
        others[mine] = False
    return classes, np.array(means), others


def identified(between, own, labels, limit, seed=0):
    """What `identify` answers for pictures of known classes and of strangers: {name: Figure}.

    Parameters
    ----------
    between : numpy.ndarray (N, K)
        The distances to the enrolled means.
    own : numpy.ndarray (N,)
        The column of a picture's class, −1 for a stranger.
    labels : numpy.ndarray (N,)
        The classes, of strangers too, from 0 on.
    limit : float
        From this distance on, the answer is "unknown".
    """
    nearest, accepted = between.argmin(axis=1), between.min(axis=1) < limit
    known, right = own >= 0, nearest == own
    hits = {'known_accepted': (known, accepted & right), 'rank1_of_known': (known, right),
            'known_wrong': (known, accepted & ~right), 'strangers_accepted_now': (~known, accepted)}
    drawn = draw_classes(labels.max() + 1, seed=seed)
    return {name: _figure(by_class(np.where(of, hit, np.nan), labels), drawn)
            for name, (of, hit) in hits.items()}


def _figure(of_class, drawn):
    """The Figure of a figure per class, (C,), NaN for classes that do not count."""
    known = np.isfinite(of_class)
    with np.errstate(invalid='ignore'):
        return Figure(float(of_class[known].mean()) if known.any() else float('nan'),
                      drawn[:, known] @ of_class[known] / drawn[:, known].sum(axis=1),
                      drawn.shape[1])


def share_distance(nearest, labels, share):
    """The distance below which this share of strangers lies, every class alike; None if they are
    too few to tell."""
    order = np.argsort(nearest)
    weights = 1 / np.bincount(labels)[labels[order]] if len(labels) else np.zeros(0)
    place = int(np.searchsorted(np.cumsum(weights), share * weights.sum()))
    return float(nearest[order[place]]) if place else None


def of_pairs(distance, same, folds=10):
    """{name: value} of a list of pairs, as people report them on LFW: `accuracy` at the distance
    that is best for nine folds on the tenth, and what a ROC curve gives."""
    fold = np.zeros(len(same), int)
    for kind in same, ~same:
        fold[kind] = np.arange(kind.sum()) * folds // kind.sum()
    accuracies = []
    for test in (fold == number for number in range(folds)):
        order = np.argsort(distance[~test])
        right = np.cumsum(np.where(same[~test][order], 1, -1))
        best = distance[~test][order][right.argmax()]
        accuracies.append(((distance[test] <= best) == same[test]).mean())
    order = np.argsort(distance, kind='stable')
    far, tar, _ = roc(distance[order], same[order], np.ones(len(same)))
    return {'pairs': len(same), 'accuracy': float(np.mean(accuracies)),
            'accuracy_std': float(np.std(accuracies)), 'eer': equal_error_rate(far, tar),
            **{f'tar_at_far_{100 * rate:g}': tar_at_far(far, tar, rate) for rate in FALSE_ACCEPTS}}


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
    random, sizes = np.random.RandomState(seed), np.bincount(labels)
    least = ENROLLED
    while least > 1 and (sizes >= least).sum() < FEWEST:
        least -= 1
    found = {}
    for _ in range(_ENROLMENTS):
        classes, means, _ = _enrol(embeddings, labels, kind, random, least)
        between = distances(embeddings, means, kind)
        between[labels[:, None] == classes] = np.inf
        near = np.argsort(between, axis=1)[:, :-1]      # the last is infinite for most
        between = np.take_along_axis(between, near, axis=1)
        order = np.argsort(between, axis=None)
        strangers, ranks = np.divmod(order, between.shape[1])
        strangers, enrolled, apart = labels[strangers], near.ravel()[order], between.ravel()[order]
        for count in counts:
            if count > between.shape[1]:
                break
            weights = nearest_of(count, between.shape[1])[ranks] / sizes[strangers]
            below = np.cumsum(weights)
            for share in shares:
                place = int(np.searchsorted(below, share * below[-1]))
                found.setdefault((share, count), []).append((apart[place], min(
                    _effective(np.bincount(of_pair[:place], weights[:place]))
                    for of_pair in (strangers, enrolled))))
    result = {share: [] for share in shares}
    for (share, count), draws in found.items():
        distance, classes = np.mean(draws, axis=0)
        if classes >= _LEAST_CLASSES:
            result[share].append([count, float(distance)])
    return {share: points for share, points in result.items() if points}


def thresholds(embeddings, labels, kind, curve, shares=STRANGERS, seed=0):
    """What recognizer.json has: {'pairs': {share: distance}, 'strangers': {share: [[enrolled
    classes, distance], …]}}; `curve` is that of `held_out`."""
    strangers = thresholds_for_strangers(embeddings, labels, kind, sorted(shares), seed=seed)
    return {'pairs': {f'{rate:g}': threshold_at_far(curve[0], curve[2], rate)
                      for rate in FALSE_ACCEPTS},
            'strangers': {f'{share:g}': points for share, points in strangers.items()}}


def _effective(mass):
    """How many equal masses vary as much as these."""
    return mass.sum() ** 2 / max((mass ** 2).sum(), 1e-30)


def nearest_of(count, others):
    """The probability that the m-th nearest of the others is the nearest of so many random ones."""
    ranks = np.arange(others)
    taken = np.where(others - ranks >= count, count / (others - ranks), 0.)
    return taken * np.append(1, np.cumprod(1 - taken)[:-1])
