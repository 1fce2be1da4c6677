"""The decisions of a training: what is held out, which losses are compared, which one is taken."""
import json
import os
import shutil
from typing import NamedTuple

import center_loss_op  # noqa: F401 - before mxnet, for newer NumPys

import checkpoint
import mxnet as mx
import numpy as np
from data import DataError, printable

# Classes to train on: with fewer, center loss did harm; with more, λ can be high. See `choose`.
FEWEST_FOR_CENTER_LOSS, MANY = 50, 300
# Shares of the draws of held-out classes in which a figure has to be lower. See `choose`.
SURE, LIKELY = 0.95, 0.8
DECORRELATION = 0.1
# With fewer classes images are held out: so few classes say nothing of others.
FEW_CLASSES = 10
# A class with a larger share of the images is not held out: most pairs would be of it.
LARGEST_SHARE = 0.1
MOST_NAMES = 40             # in the line about what is held out
MOST_HELD_OUT = 3000        # images: all pairs of them are compared
RISE = 0.8                  # share of the updates in which λ rises to its full height


class Row(NamedTuple):
    """What is trained and compared: λ, the weight of the decorrelation loss, and whether the
    embedding is plain, without batch normalization."""
    center_weight: float
    decorrelation: float
    plain: bool = False

    @property
    def name(self):
        """How tables call it."""
        loss = f'λ = {self.center_weight:g}' if self.center_weight else 'softmax'
        return (loss + (f', decorrelation {self.decorrelation:g}' if self.decorrelation else '')
                + ', plain' * self.plain)


SOFTMAX = Row(0., 0.)
# What center loss is by default, up to MANY classes and with more.
OF_FEW_CLASSES, OF_MANY_CLASSES = Row(0.01, 0.01, plain=True), Row(0.1, DECORRELATION)


def rows(center_weights, classes, one, say):
    """The Rows to train; `one`: there is nothing to compare them on, or no way to train several.

    `center_weights` are those that the user asked for, or None. With many classes center loss comes
    with decorrelation, and softmax with decorrelation is trained as well, to tell which of the two
    makes the difference.
    """
    if center_weights is None and classes < FEWEST_FOR_CENTER_LOSS:
        say(f'softmax only: trained on fewer than {FEWEST_FOR_CENTER_LOSS} classes, here '
            f'{classes}, center loss makes it harder to tell other classes apart')
        return [SOFTMAX]
    if center_weights is None and classes <= MANY:
        if one:
            say(f'softmax only: whether center loss helps with {classes} classes can only be found '
                'by a comparison')
        return [SOFTMAX] if one else [SOFTMAX, OF_FEW_CLASSES]
    usual = OF_MANY_CLASSES.center_weight
    weights = sorted(set(center_weights or ([usual] if one else [0, usual])))
    result = [] if weights[0] else [SOFTMAX, Row(0., DECORRELATION)][:len(weights)]
    return result + [Row(weight, DECORRELATION) for weight in weights if weight]


def choose(figures, rows, classes):
    """Which of the Rows to export: from {Row: {name: metrics.Figure}} of what is held out, with
    `eer` and `rank1`, empty if that is nothing, and the number of classes trained on.

    The evidence (docs/results.md): on faces, λ = 0.1 with batch normalization of the embedding
    lowers the equal error rate of other classes and leaves rank-1 as it is from 400 classes on, and
    harms both below 100; λ = 0.01 with a plain embedding does no harm from 50 classes on, and is
    the better one up to 200. These two replace softmax alone where they do no harm, if they have a
    lower equal error rate, and not a lower rank-1 in most draws of the held-out classes. Of a few
    classes the equal error rate is a coin flip, and rank-1 shows the harm: another λ, which may do
    harm, has to be better for nearly all draws. Redrawing the held-out classes shows how often that
    is right.
    """
    best, usual = rows[0], OF_FEW_CLASSES if classes <= MANY else OF_MANY_CLASSES
    for row in rows[1:]:
        if row.center_weight and classes < FEWEST_FOR_CENTER_LOSS:
            continue
        eer, rank1 = ((figures[row][name], figures[best][name]) for name in ('eer', 'rank1'))
        better = eer[0].value < eer[1].value
        if row == usual:
            better &= np.mean(rank1[0].draws < rank1[1].draws) < LIKELY
        else:
            better &= rank1[0].value >= rank1[1].value
            if row.center_weight:
                better &= np.mean(eer[0].draws < eer[1].draws) >= SURE
        best = row if better else best
    return best


def learning_rate(lr, updates):
    """The learning rate of an update: a warm-up, then a cosine down to 0."""
    return mx.lr_scheduler.CosineScheduler(updates, lr, warmup_begin_lr=lr / 50,
                                           warmup_steps=min(50, updates // 2))


def batches(count, batch_size, random):
    """The rows of each batch of an epoch, which has 25 or more: a small set is seen several times.

    All images are taken once, in random order, before one is taken again.
    """
    steps = max(25, count // batch_size)
    turns = -(-steps * batch_size // count)
    order = np.concatenate([random.permutation(count) for _ in range(turns)])
    return order[:steps * batch_size].reshape(steps, batch_size)


# -- what is held out


class HeldOut(NamedTuple):
    """Rows of the pictures: to train on, and held out; and whether these are 'classes' or
    'images' (of the classes trained on)."""
    train: np.ndarray
    test: np.ndarray
    kind: str

    def names(self, pictures):
        """The classes of what is held out."""
        return [pictures.names[label] for label in np.unique(pictures.labels[self.test])]

    def described(self, pictures):
        """A line for the user."""
        train = np.unique(pictures.labels[self.train])
        _, height, width, channels = pictures.images.shape
        names = [printable(name) for name in self.names(pictures)]
        if len(names) > MOST_NAMES:
            names[MOST_NAMES:] = ['…', 'all of them in metrics.json']
        held_out = (f'{len(self.test)} of other classes held out: {", ".join(names)}'
                    if self.kind == 'classes' else f'{len(self.test)} more of them held out')
        return (f'{len(self.train)} pictures of {len(train)} classes to train on, '
                f'{"grey" if channels == 1 else "colour"}, {height} x {width}; {held_out}')


def hold_out(pictures, share, seed, trained_before):
    """What to hold out of data.Pictures, a HeldOut: a share of the classes, or a list of names;
    but no class of `trained_before`, a set of names."""
    random, labels = np.random.RandomState(seed), pictures.labels
    counts = np.bincount(labels)
    if isinstance(share, list) or share and pictures.apart:
        names = share if isinstance(share, list) else pictures.apart
        for wrong, what in ((set(names) - set(pictures.names), 'is not there'), (
                set(names) & trained_before, 'the network was trained on')):
            if wrong:
                raise DataError(f'--held-out names a class that {what}: {printable(min(wrong))}')
        chosen = [pictures.names.index(name) for name in names]
    else:
        eligible = [label for label, name in enumerate(pictures.names)
                    if name not in trained_before and counts[label] <= LARGEST_SHARE * counts.sum()]
        if share and (len(counts) < FEW_CLASSES or len(eligible) < 2):
            return _images(labels, share, random)
        chosen = random.permutation(eligible)[:max(2, round(share * len(counts))) if share else 0]
    test = np.isin(labels, chosen)
    if len(counts) - len(chosen) < 2:
        raise DataError(f'there are {len(counts)} classes with two pictures or more, and two are '
                        'needed to train on')
    return HeldOut(np.flatnonzero(~test), _fewer(np.flatnonzero(test), labels, random), 'classes')


def _images(labels, share, random):
    """Hold out images of each class: two or more, if two are left to train on."""
    if labels.max() < 1:
        raise DataError('there is only 1 class with two pictures or more: two are needed')
    test = np.zeros(len(labels), bool)
    for label, count in enumerate(np.bincount(labels)):
        mine = random.permutation(np.flatnonzero(labels == label))
        test[mine[:min(max(2, round(share * count)), max(count - 2, 0))]] = True
    if len(np.unique(labels[test])) < 2:    # there is nothing to compare
        test[:] = False
    return HeldOut(np.flatnonzero(~test), _fewer(np.flatnonzero(test), labels, random), 'images')


def _fewer(rows, labels, random):
    """At most MOST_HELD_OUT rows: the same number of each class, but for classes with fewer."""
    rows = random.permutation(rows)
    turn = np.zeros(len(rows), int)     # the how-manieth of its class each row is
    for label in np.unique(labels[rows]):
        mine = labels[rows] == label
        turn[mine] = np.arange(mine.sum())
    return np.sort(rows[np.argsort(turn, kind='stable')[:MOST_HELD_OUT]])


# -- the same training again


class Progress:
    """The checkpoints of a training, and training.json, which says of what training they are.

    DataError if there is an unfinished training, and it is not to be continued (`resume`). The
    `first` of several workers writes.
    """

    def __init__(self, out, resume, first):
        self._out, self._first, self._state = out, first, None
        self._folder = os.path.join(out, 'checkpoints')
        self._path = os.path.join(self._folder, 'training.json')
        if first:
            checkpoint.make_folder(out, 'checkpoints')
        if os.path.lexists(self._path) and (first or resume):
            self._state = checkpoint.json_object(checkpoint.read_file(self._path), self._path)
        if first and not resume:
            if self._state and not self._state.get('finished'):
                raise DataError(f'{self._folder} are of a training that has not ended: continue it '
                                'with --resume, or take another --output-dir')
            shutil.rmtree(self._folder)
            checkpoint.make_folder(out, 'checkpoints')
            self._state = None

    def folder(self, row):
        """Where the states of a Row are."""
        name = '-'.join(f'{value:g}' for value in row)
        if self._first:
            checkpoint.make_folder(self._out, 'checkpoints', name)
        return os.path.join(self._folder, name)

    def finish(self):
        """The training has ended: another one may begin here."""
        checkpoint.write(self._path, json.dumps({**self._state, 'finished': True}))

    def held_out(self, pictures, options, choose, say):
        """The HeldOut of the training that is continued, or a new one: choose(). The data have to
        be those of the training before, but for pictures that are gone."""
        options = json.loads(json.dumps(options))
        if self._state is None:
            held_out = choose()
            self._state = {
                'options': options, 'classes': pictures.names, 'kind': held_out.kind,
                'pictures': list(zip(pictures.files, pictures.digests)),
                'train': held_out.train.tolist(), 'test': held_out.test.tolist()}
            if self._first:
                checkpoint.write(self._path, json.dumps(self._state))
            return held_out
        try:
            return self._continued(pictures, options, say)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            raise DataError(f'{self._path} is damaged: take another --output-dir') from None

    def _continued(self, pictures, options, say):
        state = self._state
        for name, value in options.items():
            before = state['options'].get(name)
            if before != value:
                raise DataError(f'the training was begun with {name} = {printable(before)}, not '
                                f'{printable(value)}: resume with the same, or take another '
                                '--output-dir')
        saved, now = dict(state['pictures']), dict(zip(pictures.files, pictures.digests))
        other = [file for file in now if saved.get(file) != now[file]]
        gone = [file for file in saved if file not in now]
        if other or set(state['classes']) - set(pictures.names):
            raise DataError(
                f'{len(other or gone)} pictures are '
                f'{"new, or not what they were" if other else "gone, with all of a class"}; the '
                f'first is {printable((other or gone)[0])}: restore the data with which the '
                'training was begun, or take another --output-dir')
        if gone:
            say(f'left out {len(gone)} pictures that are gone since the training was begun; the '
                f'first is {printable(gone[0])}')
        rows = {file: row for row, file in enumerate(pictures.files)}
        train, test = (np.array([rows[file] for file in (state['pictures'][row][0] for row
                                                         in state[part]) if file in rows], int)
                       for part in ('train', 'test'))
        return HeldOut(train, test, state['kind'])
