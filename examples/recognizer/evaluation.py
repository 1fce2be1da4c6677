"""How good a recognizer is on labelled pictures: `recognize.py evaluate`."""
import io
import json
import math
import os
import pickle
import re
import sys
from collections import Counter

import checkpoint
import data
import metrics
import numpy as np
import report
from data import printable
from served import DataError, Network, read_gallery, usable_name

_MOST_COMPARED = 3000       # pictures of which all pairs are compared
_THUMBNAIL = 96, 96
FIGURES = {
    'known_accepted': 'enrolled: accepted with the right name',
    'rank1_of_known': 'enrolled: nearest to the right name',
    'known_wrong': 'enrolled: accepted with a wrong name',
    'strangers_accepted_now': 'not enrolled: accepted',
    'eer': 'pairs: equal error rate', 'tar_at_far_1': 'pairs: accepted at 1 % false accepts',
    'tar_at_far_0.1': 'pairs: accepted at 0.1 % false accepts',
    'rank1': 'the nearest other picture is of the same class'}


def evaluate(options):
    """Measure a recognizer on labelled pictures other than the enrolled ones. The classes that are
    not enrolled are strangers. Every class weighs alike."""
    network = Network(options.out)
    if options.pairs or options.bin:
        return evaluate_pairs(options, network)
    paths, names, status = class_files(options.folder)
    embeddings, rows, failed = network.all_of(paths)
    present, labels = np.unique([names[row] for row in rows], return_inverse=True)
    if len(present) < 2 or np.bincount(labels).max() < 2:
        raise DataError(f'{options.folder} needs pictures of two classes, and two of one')
    some = np.sort(np.random.RandomState(0).permutation(len(labels))[:_MOST_COMPARED])
    figures, curve, thresholds = metrics.measure(
        embeddings[some], labels[some], network.kind, {*metrics.STRANGERS, options.strangers})
    result = {'pictures': len(labels), 'classes': len(present), 'thresholds': thresholds}
    answered, confused = identified(options, network, embeddings, labels, present, result)
    figures = {name: figure for name, figure in {**figures, **answered}.items()
               if name in FIGURES and math.isfinite(figure.value)}
    result['figures'] = {name: {'value': figure.value, 'interval': figure.interval()}
                         for name, figure in figures.items()}
    table = ['%, in brackets the 95 % interval over classes', ''], [
        [text, figures[name].text()] for name, text in FIGURES.items() if name in figures]
    if options.report:
        files = [paths[rows[row]] for row in some]
        sections = [
            ('Figures', report.table(*table)),
            ('Confusion table', report.table(['class', 'answer', 'pictures', 'of'], confused)),
            *report.of_embeddings(
                embeddings[some], labels[some], present,
                [os.path.relpath(file, options.folder) for file in files], network.kind,
                {'all pairs': curve[:2]},
                (lambda row: data.read_picture(files[row], _THUMBNAIL, 3))
                if options.pictures else None)]
        checkpoint.write(options.report, report.page('Evaluation of a recognizer', sections))
    if options.write:
        network.write_thresholds(thresholds)
    if options.json:
        print(json.dumps(result))
    else:
        print(*_lines(result, table, confused, f'{options.strangers:g}'), sep='\n')
        if options.write:
            print(f'wrote the thresholds to {printable(options.out)}')
    return int(status or failed)


def identified(options, network, embeddings, labels, present, result):
    """({name: Figure} of what `identify` answers, [(class, answer, how often, of how many)] of
    enrolled classes); adds to the result how many are enrolled, and thresholds."""
    gallery = read_gallery(options.out, network.settings, needed=False)
    if not gallery:
        return {}, []
    names, means = list(gallery), np.array([mean for mean, _ in gallery.values()])
    own = np.array([names.index(name) if name in gallery else -1 for name in present])[labels]
    between = metrics.distances(embeddings, means, network.kind)
    nearest, limit = between.min(axis=1), options.threshold
    measured = metrics.share_distance(nearest[own < 0], labels[own < 0], options.strangers)
    points = result['thresholds']['strangers'].setdefault(f'{options.strangers:g}', [])
    # Of more classes than the points are of, this measurement is better than to go on from them.
    if measured is not None and len(names) > max((count for count, _ in points), default=0):
        points.append([len(names), measured])
    if limit is None:
        try:
            limit, _ = network.threshold('strangers', options.strangers, len(names))
        except DataError:     # OUT has none: those that were just found
            limit = math.inf if measured is None else measured
    result.update(enrolled=len(np.unique(own[own >= 0])),
                  threshold=limit if math.isfinite(limit) else None,
                  threshold_for_these_strangers=measured)
    answers = np.array(names, object)[between.argmin(axis=1)]
    answers[nearest >= limit] = 'unknown'
    true = present[labels]
    confused = sorted(Counter(zip(true[own >= 0], answers[own >= 0])).items())
    return (metrics.identified(between, own, labels, limit),
            [(one, answer, count, (true == one).sum()) for (one, answer), count in confused])


def _lines(result, table, confused, wished):
    """An evaluation as people read it."""
    yield (f'{result["pictures"]} pictures of {result["classes"]} classes, '
           f'{result.get("enrolled", 0)} of them enrolled')
    yield from report.aligned(*table)
    if 'threshold' in result:
        yield ('no threshold: every picture was accepted' if result['threshold'] is None else
               f'threshold of these figures: {result["threshold"]:.4f}')
    if result.get('threshold_for_these_strangers') is not None:
        yield (f'threshold that accepts {wished} of these strangers with this gallery: '
               f'{result["threshold_for_these_strangers"]:.4f}')
    points = result['thresholds']['strangers'].get(wished)
    yield (f'too few classes to find the threshold for {wished} of strangers' if not points else
           f'threshold for {wished} of strangers, by enrolled classes: '
           + ', '.join(f'{count}: {limit:.4f}' for count, limit in points))
    mistakes = [row for row in confused if row[0] != row[1]]
    for one, answer, count, _ in sorted(mistakes, key=lambda row: (-row[2], row))[:10]:
        yield f'{count} of {one} taken for {answer}'


# -- pairs of pictures


def evaluate_pairs(options, network):
    """Pairs of pictures, as people report them: accuracy over ten folds."""
    files, pairs, same = (pairs_of_bin(options.bin) if options.bin else
                          pairs_of_text(options.pairs, options.folder))
    embeddings, rows, failed = network.all_of(files, options.bin)
    place = np.full(len(files), -1)
    place[rows] = np.arange(len(rows))
    good = (place[pairs] >= 0).all(axis=1)
    pairs, same = place[pairs[good]], same[good]
    if min(same.sum(), (~same).sum()) < 10:
        raise DataError(
            f'{options.bin or options.pairs} needs ten pairs of the same class and ten of '
            f'different ones, has {same.sum()} and {(~same).sum()} with their pictures')
    one, other = (metrics.scaled(embeddings[side], network.kind) for side in pairs.T)
    # The distance of vectors of length 1 is √(2 (1 − cos)).
    apart = np.linalg.norm(one - other, axis=1)
    result = metrics.of_pairs(apart ** 2 / 2 if network.kind == 'cosine' else apart, same)
    print(json.dumps(result) if options.json else
          f'{len(same)} pairs: accuracy {100 * result["accuracy"]:.2f} ± '
          f'{100 * result["accuracy_std"]:.2f} % over ten folds, equal error rate '
          f'{100 * result["eer"]:.2f} %, accepted at 1 % false accepts '
          f'{100 * result["tar_at_far_1"]:.1f} %, at 0.1 % {100 * result["tar_at_far_0.1"]:.1f} %')
    return int(failed)


def pairs_of_text(path, folder):
    """(files, pairs of their rows, whether each shows one class) of LFW's pairs.txt.

    A line is "name 1 2" for two pictures of one class, or "name 1 other 2" for two of different
    classes. The number is the one at the end of a file's name (name_0001.jpg).
    """
    files = {(name, int(number.group(1))): file for file, name in zip(*class_files(folder)[:2])
             for number in [re.search(r'([0-9]{1,9})\.\w+$', file)] if number}
    try:
        lines = read_bytes(path).decode('utf-8-sig').splitlines()
    except UnicodeDecodeError:
        raise DataError(f'{path} is no text: is it a .bin? Then use --bin') from None
    used, pairs, same, missing = {}, [], [], []
    for number, line in enumerate(lines, 1):
        if re.fullmatch(r'\s*([0-9]+\s*){0,2}', line):
            continue    # the first line: how many folds and pairs
        words = line.split('\t') if '\t' in line else line.split()
        if len(words) == 3:
            words.insert(2, words[0])
        if len(words) != 4 or not all(re.fullmatch('[0-9]{1,9}', words[at]) for at in (1, 3)):
            raise DataError(f'{path}, line {number}: expected "name 1 2" or "name 1 other '
                            f'2", got {line[:80]!r}')
        pair = [(words[0], int(words[1])), (words[2], int(words[3]))]
        if all(one in files for one in pair):
            pairs.append([used.setdefault(one, len(used)) for one in pair])
            same.append(words[0] == words[2])
        missing += [one for one in pair if one not in files]
    if missing:
        print(f'{printable(path)}: left out the pairs with {len(set(missing))} pictures that are '
              f'not there, the first is {printable(missing[0][0][:99])} {missing[0][1]}',
              file=sys.stderr)
    return ([files[one] for one in used], np.array(pairs, int).reshape(-1, 2),
            np.array(same, bool))


class _DataOnly(pickle._Unpickler):     # the one in C allocates what a damaged file asks for
    """Reads lists, tuples, bytes, numbers and booleans; what would need a class is refused."""

    dispatch = {code: read for code, read in pickle._Unpickler.dispatch.items()
                if code != pickle.BYTEARRAY8[0]}    # also allocates what the file asks for

    def find_class(self, *name):
        raise pickle.UnpicklingError('it names a function or a class')


def pairs_of_bin(path):
    """As `pairs_of_text`, of insightface's .bin; the pictures are binary files."""
    content = read_bytes(path)
    try:
        # In Python 2, which wrote the files that are around, bytes were strings.
        files, same = _DataOnly(io.BytesIO(content), encoding='bytes').load()
        if not (isinstance(files, list) and isinstance(same, (list, tuple))
                and {*map(type, files)} <= {bytes} and {*map(type, same)} <= {bool, int}
                and len(files) == 2 * len(same)):
            raise ValueError('it has others')
    # A damaged pickle raises nearly anything.
    except Exception as error:
        raise DataError(f'cannot read {path} as a list of pictures and one of booleans: '
                        f'{type(error).__name__}: {str(error)[:80]}') from None
    return ([io.BytesIO(file) for file in files], np.arange(len(files)).reshape(-1, 2),
            np.array(same, bool))


# -- files that the user names


def class_files(folder):
    """(paths, their classes, 1 if a class has no pictures) of one sub-folder per class."""
    status = 0

    def leave_out(name, file, reason):
        nonlocal status
        if reason == data.NO_PICTURES:
            print(f'{printable(os.path.join(folder, file))}: no pictures', file=sys.stderr)
            status = 1

    found = list(data.in_folder(folder, leave_out))
    for name in {name for name, *_ in found}:
        if not usable_name(name):
            raise DataError(f'a class cannot have the name {name[:99]!r}: rename its folder in '
                            f'{folder}')
    if not found:
        raise DataError(f'{folder} has no sub-folders with pictures: it needs one per class')
    names, _, paths = zip(*found)
    return paths, names, status


def picture_files(paths):
    """(files and the pictures in folders, 1 if a folder has none); a file may have any name."""
    found, status = [], 0
    for path in paths:
        mine = list(data.walk(path)) if os.path.isdir(path) else [path]
        if not mine:
            print(f'{printable(path)}: no pictures', file=sys.stderr)
            status = 1
        found += mine
    return found, status


def read_bytes(path):
    """The content of a file that the user names, which may be a link."""
    return checkpoint.read_file(os.path.realpath(path) if os.path.islink(path) else path, 2 ** 31)
