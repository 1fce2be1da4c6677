"""The metrics of recognition of unseen classes, by loops over pairs and over drawn classes."""
import numpy as np
import pytest
import verification
from sklearn.metrics import roc_auc_score, roc_curve


def clouds(seed, classes=6, images=5, size=4, spread=0.8):
    """(embedding, labels) of classes whose images lie around a point each."""
    random = np.random.RandomState(seed)
    labels = np.repeat(np.arange(classes), images)
    embedding = random.normal(size=(classes, size))[labels]
    return embedding + random.normal(scale=spread, size=embedding.shape), labels


def distance_of(name, a, b):
    return (np.sqrt(((a - b) ** 2).sum()) if name == 'euclidean' else
            1 - a @ b / np.sqrt((a @ a) * (b @ b)))


def split(distance, embedding, labels):
    """(genuine, impostor) distances of all pairs, by a loop."""
    genuine, impostor = [], []
    for i in range(len(labels)):
        for j in range(i):
            apart = distance_of(distance, embedding[i], embedding[j])
            (genuine if labels[i] == labels[j] else impostor).append(apart)
    return np.array(genuine), np.array(impostor)


def error_rate(genuine, impostor):
    """The mean of both error rates where they are closest, at one of the distances."""
    rates = [(abs((impostor <= t).mean() - (genuine > t).mean()),
              ((impostor <= t).mean() + (genuine > t).mean()) / 2)
             for t in np.concatenate([genuine, impostor])]
    return min(rates)[1]


def once(labels):
    """Every class drawn once."""
    return np.ones((labels.max() + 1, 1), np.float32)


@pytest.mark.parametrize('seed', range(5))
def test_verification_agrees_with_loops_over_all_pairs(seed):
    embedding, labels = clouds(seed)
    metrics, curves = verification.verify(embedding, labels, verification.all_pairs(labels),
                                          once(labels))
    for distance in 'euclidean', 'cosine':
        genuine, impostor = split(distance, embedding, labels)
        # The curve has steps: at its crossing the two rates differ by one pair at most.
        assert metrics['eer_' + distance].value == pytest.approx(
            error_rate(genuine, impostor), abs=1 / len(genuine))
        assert metrics['auc_' + distance].value == pytest.approx(
            (genuine[:, None] < impostor).mean(), abs=1e-4)
        far, tar = curves[distance]
        for percent in 1, 0.1:
            accepted = [(genuine <= t).mean() for t in [-1., *genuine, *impostor]
                        if (impostor <= t).mean() <= percent / 100]
            assert (metrics['tar_at_far_%g_%s' % (percent, distance)].value
                    == pytest.approx(max(accepted), abs=1 / len(genuine)))
        assert far[0] == tar[0] == 0 and far[-1] == tar[-1] == 1
        apart = np.concatenate([genuine, impostor])
        fars, tars, _ = roc_curve(np.arange(len(apart)) < len(genuine), -apart,
                                  drop_intermediate=False)
        corners = set(zip(fars.round(9), tars.round(9)))
        ours = set(zip(far.round(9), tar.round(9)))
        # Pairs of nearly the same distance are accepted together.
        assert ours <= corners and len(corners - ours) < 0.05 * len(corners)


def test_classes_far_apart_are_told_apart():
    labels = np.repeat(np.arange(3), 7)
    embedding = 10 * np.eye(3)[labels] + np.random.RandomState(0).normal(scale=0.1, size=(21, 3))
    metrics, _ = verification.verify(embedding, labels, verification.all_pairs(labels),
                                     once(labels))
    metrics.update(verification.identify(embedding, labels, once(labels)))
    assert len(metrics) == 2 * 8
    assert {name: metric.value for name, metric in metrics.items()} == {
        name: pytest.approx(0 if name.startswith('eer') else 1) for name in metrics}


@pytest.mark.parametrize('listed', [False, True])
def test_a_draw_agrees_with_a_set_that_repeats_its_classes(listed):
    """Of a class drawn twice there are two copies, which are never compared with each other."""
    embedding, labels = clouds(3, classes=8, images=6)
    pairs = verification.all_pairs(labels)
    if listed:
        chosen = np.random.RandomState(0).uniform(size=len(pairs.genuine)) < 0.4
        pairs = verification.Pairs(*(array[chosen] for array in pairs))
    drawn = verification.draw_classes(8, 12, 1)
    metrics, _ = verification.verify(embedding, labels, pairs, drawn)
    for draw, times in enumerate(drawn.T.astype(int)):
        for distance in 'euclidean', 'cosine':
            genuine, impostor = [], []
            for i, j, same in zip(*pairs):
                apart = distance_of(distance, embedding[i], embedding[j])
                if same:
                    genuine += times[labels[i]] * [apart]
                else:
                    impostor += times[labels[i]] * times[labels[j]] * [apart]
            genuine, impostor = np.array(genuine), np.array(impostor)
            expected = error_rate(genuine, impostor)
            assert metrics['eer_' + distance].draws[draw] == pytest.approx(expected, abs=0.03)
            assert metrics['auc_' + distance].draws[draw] == pytest.approx(
                (genuine[:, None] < impostor).mean(), abs=0.01)


def test_every_class_drawn_once_gives_the_metric_itself():
    embedding, labels = clouds(4, classes=10, images=8)
    metrics, _ = verification.verify(embedding, labels, verification.all_pairs(labels),
                                     once(labels))
    metrics.update(verification.identify(embedding, labels, once(labels)))
    for name, metric in metrics.items():
        assert metric.draws.shape == (1,)
        assert metric.draws[0] == pytest.approx(metric.value, abs=0.004), name


def test_pairs_by_class_may_be_many_or_few(monkeypatch):
    embedding, labels = clouds(5)
    drawn = verification.draw_classes(6, 9, 2)
    pairs = verification.all_pairs(labels)
    full, _ = verification.verify(embedding, labels, pairs, drawn)
    monkeypatch.setattr(verification, '_FULL', 0)
    sparse, _ = verification.verify(embedding, labels, pairs, drawn)
    for name, metric in full.items():
        assert metric.draws == pytest.approx(sparse[name].draws)


def test_no_draw_is_of_one_class_alone():
    assert ((verification.draw_classes(2, 50, 0) > 0).sum(0) == 2).all()


def test_a_draw_without_a_pair_of_a_kind_says_nothing():
    embedding, labels = clouds(0, classes=4)
    pairs = verification.Pairs(*np.array([[0, 1], [5, 6], [0, 10]]).T, np.array([1, 1, 0], bool))
    drawn = np.array([[1, 0, 1], [1, 3, 0], [1, 0, 1], [1, 1, 2]], np.float32)
    draws = verification.verify(embedding, labels, pairs, drawn)[0]['auc_cosine'].draws
    assert np.isnan(draws).tolist() == [False, True, False]
    low, high = verification.combine({0: {'auc': verification.Measured(0.5, draws)}})['auc'][
        'interval']
    assert 0 <= low <= high <= 1


def test_draws_are_with_replacement_and_repeatable():
    drawn = verification.draw_classes(50, 400, 0)
    assert drawn.shape == (50, 400) and (drawn.sum(0) == 50).all()
    # The share of classes that a draw leaves out: (1 - 1 / 50) ** 50.
    assert (drawn == 0).mean() == pytest.approx(0.98 ** 50, abs=0.01)
    assert (drawn == verification.draw_classes(50, 400, 0)).all()


@pytest.mark.parametrize('distance', ['euclidean', 'cosine'])
def test_rank_1_is_the_nearest_other_image(distance):
    embedding, labels = clouds(6)
    nearest = [min((distance_of(distance, embedding[i], embedding[j]), labels[j])
                   for j in range(30) if j != i)[1] for i in range(30)]
    metrics = verification.identify(embedding, labels, once(labels))
    assert metrics['rank1_' + distance].value == pytest.approx(np.mean(nearest == labels))


@pytest.mark.parametrize('distance', ['euclidean', 'cosine'])
def test_one_shot_is_the_share_of_tasks_that_are_solved(distance):
    """With as many classes as a task has, all that is drawn is which image stands for each."""
    embedding, labels = clouds(7, classes=20, images=3, spread=0.4)
    metrics = verification.identify(embedding, labels, once(labels))
    apart = np.array([[distance_of(distance, a, b) for b in embedding] for a in embedding])
    shares = []
    for i in range(60):
        for j in np.flatnonzero(labels == labels[i]):
            if i != j:  # each other class's image must be farther away, one of three by chance
                farther = (apart[i] > apart[i, j]).reshape(20, 3).mean(1)
                shares.append(np.prod(np.delete(farther, labels[i])))
    assert metrics['one_shot_' + distance].value == pytest.approx(np.mean(shares), abs=0.02)


def test_an_image_is_never_compared_with_itself_in_one_shot():
    embedding, labels = clouds(8, images=2)
    rows = [np.flatnonzero(labels == label) for label in range(6)]
    for own, others in verification._tasks(rows, labels, np.random.RandomState(0)):
        assert (own != np.arange(12)).all() and (labels[own] == labels).all()
        assert others.shape == (12, 5)
        for row in range(12):
            assert sorted(labels[others[row]]) == [k for k in range(6) if k != labels[row]]


def test_enrolled_images_are_not_asked_for():
    """Of every class one image lies where those of the others do: found by no other image."""
    labels = np.repeat(np.arange(4), 6)
    random = np.random.RandomState(0)
    embedding = 10 * np.eye(4)[labels] + random.normal(scale=0.01, size=(24, 4))
    odd = np.arange(24) % 6 == 0
    embedding[odd] = -10
    rows = [np.flatnonzero(labels == label) for label in range(4)]
    hits, asked = verification._enrol(embedding, rows, 5, 'euclidean', np.random.RandomState(1))
    # Four good ones and the odd one are near enough to the good one that is asked for.
    assert (hits == ~odd[asked]).all() and 0 < odd[asked].sum() < 20
    assert len(asked) == 10 * 4 and sorted(set(labels[asked])) == [0, 1, 2, 3]
    hits, asked = verification._enrol(embedding, rows, 1, 'euclidean', np.random.RandomState(1))
    assert len(asked) == 10 * 20
    # A good one is found unless the odd one of its class was enrolled, a sixth of the draws.
    assert 0.65 < hits[~odd[asked]].mean() < 1


def test_classes_of_too_few_images_are_not_enrolled():
    embedding, labels = clouds(9, images=5)
    metrics = verification.identify(embedding, labels, once(labels))
    assert 'enrol_1_cosine' in metrics and 'enrol_5_cosine' not in metrics


def test_shares_are_weighed_by_the_classes_drawn():
    hits, labels = np.array([1., 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    drawn = np.array([[2, 0, 1], [0, 2, 1]], np.float32)
    measured = verification._share_of_hits(hits, labels, drawn)
    assert measured.value == pytest.approx(0.6)
    assert measured.draws == pytest.approx([1 / 2, 2 / 3, 3 / 5])


def known_and_unknown(seed):
    """Images of 5 classes around known centers and of 4 others elsewhere."""
    random = np.random.RandomState(seed)
    centers = 2 * random.normal(size=(5, 6))
    labels, other = np.repeat(np.arange(5), 8), np.repeat(np.arange(4), 10)
    images = []
    for mine in centers[labels], random.normal(size=(4, 6))[other]:
        embedding = mine + 0.9 * random.normal(size=mine.shape)
        scores = np.exp(embedding @ centers.T)
        shares = scores / scores.sum(1, keepdims=True)
        images.append(verification.Known(embedding, shares.argmax(1), shares.max(1)))
    return images[0], labels, images[1], other, centers


def test_recognition_agrees_with_loops():
    known, labels, unknown, other, centers = known_and_unknown(0)
    means = centers + 0.3
    metrics = verification.recognize(known, labels, unknown, other, centers, means,
                                     np.ones((5, 1)), np.ones((4, 1)))
    assert metrics['accuracy_softmax'].value == np.mean(known.predicted == labels)
    for name, points in ('center', centers), ('mean', means):
        distances = [[min(np.linalg.norm(x - point) for point in points) for x in part.embedding]
                     for part in (known, unknown)]
        nearest = [min(range(5), key=lambda k, x=x: np.linalg.norm(x - points[k]))
                   for x in known.embedding]
        assert metrics['accuracy_' + name].value == np.mean(nearest == labels)
        expected = roc_auc_score([0] * 40 + [1] * 40, distances[0] + distances[1])
        assert metrics['reject_' + name].value == pytest.approx(expected)
        threshold = sorted(distances[0])[37]  # 38 of 40 known are within: 5 % rejected
        assert metrics['false_accepts_' + name].value == pytest.approx(
            np.mean(np.array(distances[1]) <= threshold), abs=1 / 40)
    expected = roc_auc_score([1] * 40 + [0] * 40, [*known.probability, *unknown.probability])
    assert metrics['reject_softmax'].value == pytest.approx(expected)
    for name, metric in metrics.items():
        assert metric.draws == pytest.approx([metric.value], abs=0.03), name


def test_recognition_draws_known_and_unknown_classes():
    known, labels, unknown, other, centers = known_and_unknown(1)
    drawn, unknown_drawn = (verification.draw_classes(classes, 6, classes) for classes in (5, 4))
    metrics = verification.recognize(known, labels, unknown, other, centers, centers, drawn,
                                     unknown_drawn)
    strange = [np.array([min(np.linalg.norm(x - c) for c in centers) for x in part.embedding])
               for part in (known, unknown)]
    for draw in range(6):
        weights = [drawn[labels, draw], unknown_drawn[other, draw]]
        expected = roc_auc_score([0] * 40 + [1] * 40, np.concatenate(strange),
                                 sample_weight=np.concatenate(weights))
        assert metrics['reject_center'].draws[draw] == pytest.approx(expected, abs=0.005)


def measured(value, *draws):
    return {'eer': verification.Measured(value, np.array(draws))}


def test_runs_are_combined_over_seeds_and_classes():
    random = np.random.RandomState(0)
    draws = {seed: 0.2 + 0.01 * seed + 0.02 * random.normal(size=4000) for seed in range(3)}
    runs = {seed: measured(0.2 + 0.01 * seed, *values) for seed, values in draws.items()}
    result = verification.combine(runs)['eer']
    assert result['mean'] == pytest.approx(0.21) and 'ratio' not in result
    # The variance of a mean over 3 drawn seeds: of the classes, which the seeds do not share here,
    # 0.02² / 3 · (1 + 2 / 3), for a seed may be drawn twice; and of the seeds, (2/3) · 0.01² / 3.
    deviation = np.sqrt(0.02 ** 2 / 3 * 5 / 3 + 2 / 3 * 0.01 ** 2 / 3)
    low, high = result['interval']
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.05)


def test_a_ratio_is_of_the_same_draws():
    random = np.random.RandomState(1)
    classes = 0.2 + 0.05 * random.normal(size=500)  # far more than what the recipes differ by
    base = {seed: measured(0.2, *classes) for seed in range(2)}
    runs = {seed: measured(0.1, *(classes / 2)) for seed in range(2)}
    entry = verification.combine(runs, base)['eer']
    assert entry['ratio'] == pytest.approx(0.5)
    assert entry['ratio_interval'] == pytest.approx([0.5, 0.5])
    assert entry['difference'] == pytest.approx(-0.1)
    assert entry['difference_interval'][0] < entry['difference_interval'][1] < 0


def test_there_is_no_ratio_to_nothing():
    entry = verification.combine({0: measured(0.1, 0.1, 0.2)}, {0: measured(0.05, 0., 0.1)})['eer']
    assert entry['ratio'] is None and entry['ratio_interval'] is None
    assert entry['difference'] == pytest.approx(0.05)
