"""Recognize people, products or plants that were enrolled from a few pictures each.

    python recognize.py enrol OUT GALLERY          # one sub-folder of pictures per class
    python recognize.py identify OUT photo.jpg folder_of_photos
    python recognize.py verify OUT one.jpg other.jpg
    python recognize.py evaluate OUT FOLDER        # how good is it on pictures of mine?
    python recognize.py list OUT; python recognize.py remove OUT NAME
    python recognize.py embed OUT folder_of_photos --output features.npz
    python recognize.py import OUT model.onnx --size 112 112 --mean 127.5 --std 127.5

OUT is the --output-dir of train.py, or what `import` makes of an ONNX network that maps pictures to
embeddings. To serve it, copy OUT and this program with data.py, checkpoint.py, metrics.py and
report.py: they need numpy, pillow, tqdm and onnxruntime.

`enrol` writes the mean embedding of each class to OUT/gallery.npz, and `identify` finds the mean
that is nearest to a picture. The enrolled classes need not be among those of the training. At the
threshold or farther, a picture is unknown. The training measured, on classes held out of it, which
distance accepts which share of the pictures of strangers, by the number of enrolled classes; with
pictures of your own, `evaluate --write` measures it again.

A picture that cannot be read gets a line on stderr, and the others are still answered. The exit
status is 0 if all pictures were read, whatever the answers; 1 if some were not, or after an error;
2 for a wrong command line.
"""
import argparse
import contextlib
import io
import json
import math
import os
import pickle
import re
import signal
import stat
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import checkpoint
import data
import metrics
import numpy as np
import report
from checkpoint import CheckpointError
from data import BadPicture, printable
from tqdm import tqdm

MODEL, GALLERY = 'embedding.onnx', 'gallery.npz'
SHARE, FAR = 0.01, 0.01
# How long `enrol`, `remove` and `evaluate --write` wait for another program that changes OUT.
WAIT = 60
# The pictures that the network gets at a time have so many pixels, and are so many, at most.
_PIXELS, _BATCH = 64 * 64 * 64, 64
# All pairs of so many pictures are compared at most.
_MOST_COMPARED = 3000
_THUMBNAIL = 96, 96
_TYPES = {'tensor(float)': np.float32, 'tensor(float16)': np.float16, 'tensor(double)': np.float64,
          'tensor(uint8)': np.uint8}


class RecognizerError(Exception):
    """What the user can put right; it ends the program with one line."""


def main(arguments=None):
    """Do what the command line says; returns the exit status."""
    options = parse(arguments)
    try:
        return options.command(options)
    except (RecognizerError, CheckpointError) as error:
        line = ''.join(letter if letter.isprintable() else printable(letter)
                       for letter in str(error))
        print(f'recognize.py: error: {line}', file=sys.stderr)
        return 1


def parse(arguments=None):
    """The options as an argparse.Namespace."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(metavar='COMMAND', required=True)

    def command(function, text, name=None):
        sub = commands.add_parser(name or function.__name__, help=text, description=function.__doc__
                                  or text)
        sub.add_argument('out', metavar='OUT', help='the --output-dir of train.py')
        sub.set_defaults(command=function)
        return sub.add_argument

    def distance(text):
        if not float(text) >= 0:
            raise ValueError(text)
        return float(text)

    def share(text):
        if not 0 < float(text) < 1:
            raise ValueError(text)
        return float(text)

    def side(text):
        if not checkpoint.SIDES[0] <= int(text) <= checkpoint.SIDES[1]:
            raise ValueError(text)
        return int(text)

    def add_share(add, default):
        add('--strangers', type=share, metavar='SHARE', default=default, help='accept this share '
            f'of the pictures of classes that are not enrolled (default: {SHARE})')

    def add_threshold(add):
        add('--threshold', type=distance, metavar='DISTANCE',
            help='accept distances below this one instead; inf accepts everything')

    add = command(enrol, 'add classes to the gallery')
    add('gallery', metavar='GALLERY', help='one sub-folder of pictures per class, with its name')
    add = command(identify, 'name the class of each picture')
    add('paths', metavar='PATH', nargs='+', help='a file, or a folder: all pictures below it')
    add_share(add, None)
    add_threshold(add)
    add('--top', type=int, default=1, metavar='N', help='so many of the nearest classes')
    add('--json', action='store_true', help='an object per line')
    add = command(verify, 'compare two pictures')
    add('paths', metavar='PICTURE', nargs=2)
    add('--far', type=share, default=FAR, metavar='SHARE', help='accept this share of the pairs of '
        f'different classes (default: {FAR})')
    add_threshold(add)
    add('--json', action='store_true', help='an object instead')
    add = command(evaluate, 'measure it on labelled pictures')
    add('folder', metavar='FOLDER', nargs='?', help='one sub-folder of pictures per class; those '
        'that are not enrolled are strangers')
    either = add.__self__.add_mutually_exclusive_group()
    either.add_argument('--pairs', metavar='FILE', help="LFW's pairs.txt, of pictures in FOLDER")
    either.add_argument('--bin', metavar='FILE', help="insightface's .bin of pairs")
    add_share(add, SHARE)
    add_threshold(add)
    add('--write', action='store_true', help='write the thresholds that were found to OUT')
    add('--report', metavar='FILE', help='write a page for a browser')
    add('--pictures', action='store_true', help='with the worst pairs of pictures in it')
    add('--json', action='store_true', help='one object instead of a table')
    add = command(embed, 'write the embeddings of pictures')
    add('paths', metavar='PATH', nargs='+')
    add('--output', metavar='FILE', required=True, help='an .npz file with `paths`, (n,), and '
        '`embeddings`, (n, d)')
    command(show, 'list the enrolled classes', 'list')
    command(remove, 'remove classes from the gallery')('names', metavar='NAME', nargs='+')
    add = command(bring, "make OUT of somebody else's network", 'import')
    add('model', metavar='MODEL', help='an ONNX file: RGB or grey pictures in, embeddings out')
    add('--size', type=side, nargs=2, metavar=('H', 'W'), help='of its input (default: as it says)')
    add('--mean', type=float, nargs='+', default=[0.], metavar='M', help='subtracted from pixels '
        'of 0 to 255, by channel (default: 0)')
    add('--std', type=distance, nargs='+', default=[1.], metavar='S',
        help='and what they are divided by then (default: 1)')
    add('--distance', choices=('cosine', 'euclidean'), default='cosine', help='default: cosine')
    options = parser.parse_args(arguments)
    if getattr(options, 'top', 1) < 1:
        parser.error('--top must be 1 or more')
    if options.command is evaluate and not (options.folder or options.bin):
        parser.error('evaluate needs a FOLDER, or --bin')
    return options


# -- the commands


def enrol(options):
    """Add the classes of a folder to OUT/gallery.npz. Classes that were enrolled before stay; a
    class that is enrolled again is replaced, and its earlier pictures no longer count."""
    network = Network(options.out)
    paths, names, status = class_files(options.gallery)
    embeddings, rows, failed = network.all_of(paths)
    if not len(rows):
        raise RecognizerError(f'no picture in {options.gallery} can be read')
    names = np.array(names, object)[rows]
    with network.changing('enrol'):
        classes = network.gallery(needed=False).classes()
        before = set(classes)
        for name in sorted(set(names)):
            mine = embeddings[names == name]
            classes[name] = metrics.mean(mine, network.kind), len(mine)
        network.write_gallery(classes)
    for name in sorted(set(names)):
        print(f'{"replaced" if name in before else "enrolled"}\t{printable(name)}\t'
              f'{classes[name][1]}')
    return int(status or failed)


def identify(options):
    """Print "path, name or unknown, nearest name, its distance" per picture, with tabs between."""
    network = Network(options.out)
    gallery = network.gallery()
    limit = network.stranger_threshold(options, len(gallery.names))
    paths, status = picture_files(options.paths)
    for path, embedding in network.embed(paths):
        if embedding is None:
            status = 1
            continue
        apart = metrics.distances(embedding[None], gallery.means, network.kind)[0]
        nearest = [(gallery.names[row], float(apart[row]))
                   for row in np.argsort(apart, kind='stable')[:options.top]]
        name = nearest[0][0] if nearest[0][1] < limit else None
        if options.json:
            line = json.dumps({'path': path, 'name': name, 'threshold': _number(limit), 'nearest': [
                {'name': one, 'distance': distance} for one, distance in nearest]})
        else:
            line = '\t'.join([printable(path), printable(name or 'unknown'), *(
                f'{printable(one)}\t{distance:.6g}' for one, distance in nearest)])
        tqdm.write(line, file=sys.stdout)
    return status


def _number(value):
    return value if math.isfinite(value) else None     # JSON has no infinity


def verify(options):
    """Print "same" or "different" and the distance of two pictures, with a tab between."""
    network = Network(options.out)
    limit = network.pair_threshold(options)
    embeddings, rows, _ = network.all_of(options.paths)
    if len(rows) < 2:
        return 1
    distance = float(metrics.distances(*embeddings[:, None], network.kind)[0, 0])
    if options.json:
        print(json.dumps({'paths': options.paths, 'same': distance < limit, 'distance': distance,
                          'threshold': _number(limit)}))
    else:
        print(f'{"same" if distance < limit else "different"}\t{distance:.6g}')
    return 0


def embed(options):
    """Write the embeddings of pictures as an .npz file."""
    network = Network(options.out)
    paths, status = picture_files(options.paths)
    embeddings, rows, failed = network.all_of(paths)
    content = checkpoint.npz(paths=np.array([paths[row] for row in rows], str),
                             embeddings=embeddings.astype(np.float32))
    checkpoint.write(options.output, content)
    print(f'wrote {len(rows)} embeddings to {printable(options.output)}')
    return int(status or failed)


def show(options):
    """Print each enrolled class and its number of pictures, with a tab between."""
    settings = checkpoint.load_recognizer(options.out, ())
    for name, (_, count) in read_gallery(options.out, settings).classes().items():
        print(f'{printable(name)}\t{count}')
    return 0


def remove(options):
    """Remove classes from OUT/gallery.npz: all of them, or none if one is not enrolled."""
    with checkpoint.lock(options.out, 'remove', WAIT):
        settings = checkpoint.load_recognizer(options.out, ())
        classes = read_gallery(options.out, settings).classes()
        for name in options.names:
            if name not in classes:
                raise RecognizerError(f'{name!r} is not enrolled, and nothing was removed: see '
                                      f'recognize.py list {options.out}')
        for name in set(options.names):
            del classes[name]
        write_gallery(options.out, settings, classes)
    for name in dict.fromkeys(options.names):
        print(f'removed\t{printable(name)}')
    return 0


def bring(options):
    """Make OUT of an ONNX network that maps pictures to embeddings, such as insightface's. It must
    take one input, (N, channels, height, width) or (N, height, width, channels), RGB or grey."""
    content = read_bytes(options.model)
    session = open_session(content, options.model)
    shape = list(session.get_inputs()[0].shape) if len(session.get_inputs()) == 1 else []
    if len(shape) != 4:
        raise RecognizerError(f'{options.model} must have one input with four axes, has '
                              f'{[one.shape for one in session.get_inputs()]}')
    last = shape[3] in (1, 3) and shape[1] not in (1, 3)
    channels, *sides = [shape[axis] for axis in ((3, 1, 2) if last else (1, 2, 3))]
    channels = channels if isinstance(channels, int) else 3
    size = options.size or sides
    if not all(isinstance(side, int) for side in size):
        raise RecognizerError(f'{options.model} takes any size: give the one that it was trained '
                              'with, --size H W')
    settings = {'network': 'imported', 'size': list(size), 'channels': channels,
                'mean': options.mean, 'std': options.std, 'features': 1,
                'distance': options.distance, 'row': {}, 'classes': [],
                'thresholds': {'pairs': {}, 'strangers': {}}}
    if not {len(options.mean), len(options.std)} <= {1, channels}:
        raise RecognizerError(f'--mean and --std must be 1 or {channels} numbers')
    settings['features'] = Runner(session, settings, options.model).run(
        np.zeros((1, *size, channels), np.uint8)).shape[1]
    with checkpoint.lock(options.out, 'import'):
        if os.path.lexists(os.path.join(options.out, checkpoint.DESCRIPTION)):
            raise RecognizerError(f'{options.out} has a recognizer already: take another OUT')
        checkpoint.publish(options.out, {MODEL: content}, settings)
    print(f'imported {printable(options.model)}: pictures of {size[0]} x {size[1]} to '
          f'{settings["features"]} features\nno threshold yet: evaluate {printable(options.out)} '
          'FOLDER --write finds them on pictures of yours')
    return 0


# -- evaluation


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
        raise RecognizerError(f'{options.folder} needs pictures of two classes, and two of one')
    paths = [paths[row] for row in rows]
    some = np.sort(np.random.RandomState(0).permutation(len(labels))[:_MOST_COMPARED])
    figures, curve = metrics.held_out(embeddings[some], labels[some], network.kind)
    found = {'pairs': {f'{rate:g}': metrics.threshold_at_far(curve[0], curve[2], rate)
                       for rate in metrics.FALSE_ACCEPTS},
             'strangers': {f'{share:g}': points for share, points in
                           metrics.thresholds_for_strangers(
                               embeddings[some], labels[some], network.kind,
                               sorted({*metrics.STRANGERS, options.strangers})).items()}}
    result = {'pictures': len(labels), 'classes': len(present)}
    gallery = network.gallery(needed=False)
    wrong, sections, wished = [], [], f'{options.strangers:g}'
    if gallery.names:
        of_name = {name: number for number, name in enumerate(gallery.names)}
        own = np.array([of_name.get(name, -1) for name in present])[labels]
        between = metrics.distances(embeddings, gallery.means, network.kind)
        nearest = between.min(axis=1)
        limit = network.stranger_threshold(options, len(gallery.names), needed=False)
        measured = metrics.share_distance(nearest[own < 0], labels[own < 0], options.strangers)
        result.update(enrolled=len(set(own[own >= 0].tolist())), threshold=limit,
                      threshold_for_these_strangers=measured)
        if measured is not None and wished not in found['strangers']:
            found['strangers'][wished] = [[len(gallery.names), measured]]
        limit = measured if limit is None else limit
        figures.update(metrics.identified(between, own, labels, math.inf if limit is None
                                          else limit))
        answers = np.array(gallery.names, object)[between.argmin(axis=1)]
        answers[nearest >= (math.inf if limit is None else limit)] = 'unknown'
        mine = own >= 0
        if mine.any():
            wrong = list(zip(present[labels[mine]], answers[mine]))
            sections.append(('Confusion of the enrolled classes', report.confusion(*zip(*wrong))))
    result['figures'] = {name: {'value': figure.value, 'interval': figure.interval()}
                         for name, figure in figures.items()}
    result['thresholds'] = found
    if options.report:
        write_report(options, network, result, sections, curve,
                     (embeddings[some], labels[some], present, [paths[row] for row in some]))
    if options.write:
        network.write_thresholds(found)
    if options.json:
        print(json.dumps(result))
    else:
        print_evaluation(result, wrong, wished)
        if options.write:
            print(f'wrote the thresholds to {printable(options.out)}')
    return int(status or failed)


FIGURES = {
    'known_accepted': 'enrolled: accepted with the right name',
    'rank1_of_known': 'enrolled: nearest to the right name',
    'known_wrong': 'enrolled: accepted with a wrong name',
    'strangers_accepted_now': 'strangers accepted',
    'eer': 'pairs: equal error rate', 'tar_at_far_1': 'pairs: accepted at 1 % false accepts',
    'tar_at_far_0.1': 'pairs: accepted at 0.1 % false accepts',
    'rank1': 'nearest other picture is of the same class',
    'enrolled_rank1': 'after enrolling five: nearest is the right class',
    'strangers_accepted': 'after enrolling five: strangers accepted, 5 % rejected'}


def figure_rows(result):
    """[what, its value in percent, its interval] of the figures of an evaluation."""
    return [[text, f'{100 * one["value"]:.2f} %', '' if one['interval'] is None else
             '{:.1f} to {:.1f}'.format(*(100 * end for end in one['interval']))]
            for name, text in FIGURES.items() for one in [result['figures'].get(name)]
            if one is not None and one['value'] == one['value']]


def print_evaluation(result, wrong, wished):
    """Print an evaluation as people read it."""
    print(f'{result["pictures"]} pictures of {result["classes"]} classes, '
          f'{result.get("enrolled", 0)} of them enrolled')
    for text, value, interval in [['', '', '95 % interval'], *figure_rows(result)]:
        print(f'{text:<56}{value:>9}  {interval:>14}'.rstrip())
    if result.get('threshold') is not None:
        print(f'threshold: {result["threshold"]:.4f}')
    if result.get('threshold_for_these_strangers') is not None:
        print(f'threshold that accepts {wished} of these strangers with this gallery: '
              f'{result["threshold_for_these_strangers"]:.4f}')
    for count, point in result['thresholds']['strangers'].get(wished, []):
        print(f'threshold for {wished} of strangers with {count} classes enrolled: {point:.4f}')
    if wished not in result['thresholds']['strangers']:
        print(f'too few classes to find the threshold for {wished} of strangers')
    mistakes = {}
    for pair in wrong:
        if pair[0] != pair[1]:
            mistakes[pair] = mistakes.get(pair, 0) + 1
    for (one, other), count in sorted(mistakes.items(), key=lambda item: (-item[1], item[0]))[:10]:
        print(f'{count}\tof {printable(one)}\ttaken for {printable(other)}')


def write_report(options, network, result, sections, curve, compared):
    """Write the page about an evaluation."""
    embeddings, labels, names, paths = compared
    picture = (lambda row: data.read_picture(paths[row], _THUMBNAIL, 3)) if options.pictures \
        else None
    files = [os.path.relpath(path, options.folder) for path in paths]
    checkpoint.write(options.report, report.page('Evaluation of a recognizer', [
        ('Figures', report.table(['', 'value', '95 % interval'], figure_rows(result))
         + report.paragraph('Every class weighs alike; intervals are over classes.')),
        *sections, ('ROC curve', report.roc_curves({'all pairs': curve[:2]})),
        ('The worst pairs', report.worst_pairs(embeddings, labels, names, files, network.kind,
                                               picture)),
        ('The embedding', report.scatter(embeddings, labels, names))]))


def evaluate_pairs(options, network):
    """Pairs of pictures, as people report them: accuracy over ten folds."""
    if options.bin:
        paths, pairs, same = pairs_of_bin(options.bin)
    else:
        paths, pairs, same = pairs_of_text(options.pairs, options.folder)
    name = options.bin or options.pairs
    embeddings, rows, failed = network.all_of(paths, name)
    place = np.full(len(paths), -1)
    place[rows] = np.arange(len(rows))
    good = (place[pairs] >= 0).all(axis=1)
    pairs, same = place[pairs[good]], same[good]
    if min(same.sum(), (~same).sum()) < 10:
        raise RecognizerError(f'{name} needs ten pairs of the same class and ten of different '
                              f'ones, has {same.sum()} and {(~same).sum()} with their pictures')
    one, other = (metrics.scaled(embeddings[side], network.kind) for side in pairs.T)
    apart = np.maximum(1 - (one * other).sum(axis=1), 0) if network.kind == 'cosine' else \
        np.linalg.norm(one - other, axis=1)
    result = metrics.of_pairs(apart, same)
    if options.json:
        print(json.dumps(result))
    else:
        print(f'{len(same)} pairs: accuracy {100 * result["accuracy"]:.2f} ± '
              f'{100 * result["accuracy_std"]:.2f} % over ten folds, equal error rate '
              f'{100 * result["eer"]:.2f} %, accepted at 1 % false accepts '
              f'{100 * result["tar_at_far_1"]:.1f} %, at 0.1 % '
              f'{100 * result["tar_at_far_0.1"]:.1f} %')
    return int(failed)


def pairs_of_text(path, folder):
    """(paths, pairs of their rows, whether each shows one class) of LFW's pairs.txt.

    A line is "name 1 2" for two pictures of one class, or "name 1 other 2" for two of different
    classes. The number is the one at the end of a file's name (name_0001.jpg).
    """
    files = {}
    for file, name in zip(*class_files(folder)[:2]):
        number = re.search(r'([0-9]{1,9})\.\w+$', file)
        if number:
            files[name, int(number.group(1))] = file
    try:
        lines = read_bytes(path).decode('utf-8-sig').splitlines()
    except UnicodeDecodeError:
        raise RecognizerError(f'{path} is no text: is it a .bin? Then use --bin') from None
    used, pairs, same, missing = {}, [], [], {}
    for number, line in enumerate(lines, 1):
        words = line.split('\t') if '\t' in line else line.split()
        if len(words) < 3 and all(re.fullmatch('[0-9]+', word) for word in words):
            continue    # the first line: how many folds and pairs
        if len(words) == 3:
            words.insert(2, words[0])
        if len(words) != 4 or not all(re.fullmatch('[0-9]{1,9}', words[at]) for at in (1, 3)):
            raise RecognizerError(f'{path}, line {number}: expected "name 1 2" or "name 1 other '
                                  f'2", got {line[:80]!r}')
        pair = [(words[0], int(words[1])), (words[2], int(words[3]))]
        missing.update((one, None) for one in pair if one not in files)
        if all(one in files for one in pair):
            pairs.append([used.setdefault(one, len(used)) for one in pair])
            same.append(words[0] == words[2])
    if missing:
        name, number = next(iter(missing))
        print(f'{printable(path)}: left out the pairs with {len(missing)} pictures that are not '
              f'there, the first is {printable(name)} {number}', file=sys.stderr)
    return ([files[one] for one in used], np.array(pairs, int).reshape(-1, 2),
            np.array(same, bool))


class _DataOnly(pickle._Unpickler):     # the one in C allocates what a damaged file asks for
    """Reads lists, tuples, bytes, numbers and booleans; what would need a class is refused."""

    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in (
        pickle.PROTO, pickle.FRAME, pickle.MARK, pickle.STOP, pickle.EMPTY_LIST, pickle.LIST,
        pickle.APPEND, pickle.APPENDS, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1,
        pickle.TUPLE2, pickle.TUPLE3, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT,
        pickle.BININT1, pickle.BININT2, pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING,
        pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT,
        pickle.MEMOIZE, pickle.GET, pickle.BINGET, pickle.LONG_BINGET)}


def pairs_of_bin(path):
    """As `pairs_of_text`, of insightface's .bin; the pictures are binary files."""
    try:
        # In Python 2, which wrote the files that are around, bytes were strings.
        files, same = _DataOnly(io.BytesIO(read_bytes(path)), encoding='bytes').load()
        if not (isinstance(files, list) and isinstance(same, (list, tuple))
                and all(isinstance(file, bytes) for file in files)
                and all(isinstance(value, int) for value in same)
                and len(files) == 2 * len(same)):
            raise ValueError('expected a list of encoded pictures and one of booleans')
    # A damaged pickle raises nearly anything.
    except Exception as error:
        if isinstance(error, RecognizerError):
            raise
        raise RecognizerError(f'cannot read {path}: no list of pictures and one of booleans '
                              f'({str(error)[:80] or type(error).__name__})') from None
    return ([io.BytesIO(file) for file in files], np.arange(len(files)).reshape(-1, 2),
            np.array(same, bool))


# -- OUT: the network and the gallery


class Runner:
    """Pictures to embeddings by ONNX Runtime."""

    def __init__(self, session, settings, path):
        self._session, self._path = session, path
        self._channels = channels = settings['channels']
        height, width = self.size = settings['size']
        self._mean, self._std = (np.array(settings[name], np.float32) for name in ('mean', 'std'))
        inputs = session.get_inputs()
        shape = inputs[0].shape
        fits = [axes for axes, expected in (((0, 3, 1, 2), (channels, height, width)),
                                            ((0, 1, 2, 3), (height, width, channels)))
                if len(inputs) == 1 and len(shape) == 4 and all(
                    not isinstance(one, int) or one == other
                    for one, other in zip(shape[1:], expected))]
        if not fits or inputs[0].type not in _TYPES:
            raise RecognizerError(f'{path} must take one input of {channels} x {height} x {width}, '
                                  f'takes {[(one.type, one.shape) for one in inputs]}')
        self._axes, self._input = fits[0], inputs[0]
        fixed = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        self.batch = min(max(1, _PIXELS // (height * width)), _BATCH)
        self._fixed = fixed
        self._room = 16 * settings.get('bytes', 0) + 2048 * max(_PIXELS, height * width)

    def run(self, pictures):
        """The embeddings, (n, d) float64, of pictures, (n, height, width, channels) uint8."""
        count = self._fixed or len(pictures)
        images = ((pictures - self._mean) / self._std).transpose(self._axes)
        images = images.astype(_TYPES[self._input.type])
        images = np.concatenate([images, images[:1].repeat(-len(images) % count, axis=0)])
        results = []
        for start in range(0, len(images), count):
            with bounded(self._room), one_line(self._path):
                results.append(np.asarray(self._session.run(
                    [self._session.get_outputs()[0].name],
                    {self._input.name: images[start:start + count]})[0], np.float64))
        if any(result.ndim < 2 or len(result) != count or result.size > count * 65536
               or result.shape[1:] != results[0].shape[1:] for result in results):
            raise RecognizerError(f'{self._path} must give an embedding per picture, gives '
                                  f'{results[0].shape} for {count}')
        return np.concatenate(results).reshape(len(images), -1)[:len(pictures)]


class Network:
    """OUT: from pictures to embeddings and names."""

    def __init__(self, out):
        self._out = out
        self._settings = settings = checkpoint.load_recognizer(out, (MODEL,))
        content, path = settings.pop('content')[MODEL], os.path.join(out, MODEL)
        self._runner = Runner(open_session(content, path), {**settings, 'bytes': len(content)},
                              path)
        self.kind = settings['distance']

    def embed(self, files, name=None):
        """Yield (file, embedding) per file, (d,); None, with a line on stderr, if there is none.
        `name` is what to call the source of files that are no paths."""
        def load(file):
            try:
                return data.read_picture(file, self._runner.size, self._settings['channels'])
            except BadPicture as error:
                return str(error)

        size = self._runner.batch
        with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(
                total=len(files), unit=' pictures', leave=False,
                disable=len(files) <= _BATCH or None) as bar:  # None: where stderr is no terminal
            for begin in range(0, len(files), size):
                batch = files[begin:begin + size]
                loaded = list(pool.map(load, batch))    # Pillow decodes without Python's lock
                good = [one for one in loaded if not isinstance(one, str)]
                embeddings = self._runner.run(np.stack(good)) if good else ()
                if good and embeddings.shape[1] != self._settings['features']:
                    raise RecognizerError(
                        f'{os.path.join(self._out, MODEL)} gives {embeddings.shape[1]} features, '
                        f'recognizer.json says {self._settings["features"]}: train again')
                embeddings = iter(embeddings)
                for row, (file, one) in enumerate(zip(batch, loaded), begin):
                    embedding = None
                    if not isinstance(one, str):
                        embedding = next(embeddings)
                        if not np.isfinite(embedding).all():
                            one, embedding = 'the network gives numbers that are not finite', None
                    if embedding is None:
                        called = printable(file) if name is None or isinstance(file, str) else \
                            f'picture {row} of {printable(name)}'
                        tqdm.write(f'{called}: {one}', file=sys.stderr)
                    yield file, embedding
                bar.update(len(batch))

    def all_of(self, files, name=None):
        """(embeddings (n, d), rows of the files that have one, whether others have none)."""
        found = [(row, embedding) for row, (_, embedding) in enumerate(self.embed(files, name))
                 if embedding is not None]
        embeddings = np.array([embedding for _, embedding in found]).reshape(
            len(found), self._settings['features'])
        return embeddings, [row for row, _ in found], len(found) < len(files)

    @contextlib.contextmanager
    def changing(self, what):
        """A context in which no other program changes OUT."""
        with checkpoint.lock(self._out, what, WAIT):
            if checkpoint.load_recognizer(self._out, ())['files'] != self._settings['files']:
                raise RecognizerError(f'{self._out} got another network meanwhile: start again')
            yield

    def gallery(self, needed=True):
        """The enrolled classes."""
        return read_gallery(self._out, self._settings, needed)

    def write_gallery(self, classes):
        """Write the enrolled classes, {name: (mean, number of pictures)}."""
        write_gallery(self._out, self._settings, classes)

    def write_thresholds(self, thresholds):
        """Write the thresholds that were found into recognizer.json; the others stay."""
        with self.changing('evaluate'):
            settings = checkpoint.load_recognizer(self._out, tuple(self._settings['files']))
            for kind, found in thresholds.items():
                settings['thresholds'][kind].update(found)
            checkpoint.publish(self._out, settings.pop('content'), settings)

    def pair_threshold(self, options):
        """The distance from which on two pictures count as of different classes."""
        if options.threshold is not None:
            return options.threshold
        known = {float(share): limit for share, limit
                 in self._settings['thresholds']['pairs'].items() if limit is not None}
        if options.far not in known:
            raise RecognizerError(
                f'{self._out} has no threshold for --far {options.far:g}: use '
                + ''.join(f'--far {share:g}, ' for share in known)
                + '--threshold DISTANCE, or find one with evaluate OUT FOLDER --write')
        return known[options.far]

    def stranger_threshold(self, options, count, needed=True):
        """The distance from which on a picture is unknown, with so many classes enrolled."""
        if options.threshold is not None:
            return options.threshold
        known = {float(share): [point for point in points if point[1] is not None]
                 for share, points in self._settings['thresholds']['strangers'].items()}
        known = {share: sorted(points) for share, points in sorted(known.items()) if points}
        share = options.strangers or SHARE
        if known and options.strangers is None and share < min(known):
            share = min(known)
            print(f'too few classes were held out to accept {SHARE:g} of strangers: accepting '
                  f'{share:g}', file=sys.stderr)
        if not known or not min(known) <= share <= max(known):
            if not needed:
                return None
            raise RecognizerError(
                f'{self._out} has no threshold for {share:g} of strangers: use '
                + (f'--strangers from {min(known):g} to {max(known):g}, ' if known else '')
                + '--threshold DISTANCE, or find one with evaluate OUT FOLDER --write')
        limits = [threshold_at(points, count) for points in known.values()]
        if count > max(known[min(known, key=lambda one: abs(one - share))])[0]:
            print(f'{count} classes are enrolled, more than the threshold was measured for',
                  file=sys.stderr)
        return float(np.interp(np.log(share), np.log(list(known)), limits))


def threshold_at(points, count):
    """The distance for so many enrolled classes: [[classes, distance], …] is linear in their log,
    and goes on in its last direction."""
    logs, limits = np.log([point[0] for point in points]), [point[1] for point in points]
    if len(points) > 1 and np.log(count) > logs[-1]:
        slope = (limits[-1] - limits[-2]) / (logs[-1] - logs[-2])
        return max(0., limits[-1] + slope * (np.log(count) - logs[-1]))
    return float(np.interp(np.log(count), logs, limits))


class Gallery(NamedTuple):
    """The enrolled classes: their names, (K,), means, (K, d), and numbers of pictures, (K,)."""
    names: list
    means: np.ndarray
    counts: list

    def classes(self):
        """{name: (mean, number of pictures)}."""
        return dict(zip(self.names, zip(self.means, self.counts)))


def read_gallery(out, settings, needed=True):
    """The Gallery in OUT, after a check of all that is in it; without `needed`, it may be empty."""
    path = os.path.join(out, GALLERY)
    if not os.path.lexists(path):
        if needed:
            raise RecognizerError(f'nothing is enrolled yet: recognize.py enrol {out} GALLERY')
        return Gallery([], np.zeros((0, settings['features'])), [])
    arrays = checkpoint.read_npz(checkpoint.read_file(path), 2 ** 31, path)

    def need(good, what):
        if not good:
            raise RecognizerError(f'cannot use {path}: {what}; remove it and enrol again')

    missing = {'names', 'means', 'counts', 'network'} - set(arrays)
    need(not missing, f'it has no {", ".join(sorted(missing))}')
    names, means, counts = (arrays[name] for name in ('names', 'means', 'counts'))
    need(arrays['network'].shape == () and str(arrays['network']) == settings['files'].get(MODEL),
         'it was made with another network')
    need(names.ndim == 1 and names.dtype.kind == 'U' and len(names), 'it has no names')
    need(means.dtype.kind == 'f' and means.shape == (len(names), settings['features'])
         and counts.dtype.kind in 'iu' and counts.shape == names.shape and counts.min() > 0,
         f'it needs a mean of {settings["features"]} numbers and a count for each of its '
         f'{len(names)} names')
    names, means = names.tolist(), means.astype(np.float64)
    need(all(map(usable_name, names)) and len(set(names)) == len(names),
         'its names are not as they have to be')
    lengths = np.linalg.norm(means, axis=1)
    need(np.isfinite(lengths).all() and (settings['distance'] != 'cosine' or np.isclose(
        lengths, 1, atol=1e-3).all()), 'its means are not finite, or not of length 1')
    return Gallery(names, means, counts.tolist())


def write_gallery(out, settings, classes):
    """Write gallery.npz, or remove it with its last class."""
    path = os.path.join(out, GALLERY)
    if not classes:
        os.unlink(path)
        return
    means, counts = zip(*classes.values())
    checkpoint.write(path, checkpoint.npz(
        names=np.array(list(classes)), means=np.array(means), counts=np.array(counts),
        network=np.array(settings['files'][MODEL])))


def usable_name(name):
    """Whether a class can have this name: the lines of `identify` must be unambiguous."""
    return 0 < len(name) < 1000 and name.isprintable() and name != 'unknown'


# -- files


def class_files(folder):
    """(paths, their classes, 1 if a class has no pictures) of one sub-folder per class."""
    paths, names, status = [], [], 0
    try:
        with os.scandir(folder) as entries:
            classes = sorted((entry.name, entry.path) for entry in entries
                             if entry.is_dir() and not entry.name.startswith('.'))
        for name, path in classes:
            if not usable_name(name):
                raise RecognizerError(f'a class cannot have the name {name[:99]!r}: rename its '
                                      f'folder in {folder}')
            mine = list(data.walk(path))
            if not mine:
                print(f'{printable(path)}: no pictures', file=sys.stderr)
                status = 1
            paths += mine
            names += [name] * len(mine)
    except OSError as error:
        raise RecognizerError(f'cannot read {error.filename}: {error.strerror}') from None
    if not paths:
        raise RecognizerError(f'{folder} has no sub-folders with pictures: it needs one per class')
    return paths, names, status


def picture_files(paths):
    """(the paths of all pictures, 1 if a folder has none); a file that is named may have any
    name."""
    found, status = [], 0
    for path in paths:
        mine = list(data.walk(path)) if os.path.isdir(path) else [path]
        if not mine:
            print(f'{printable(path)}: no pictures', file=sys.stderr)
            status = 1
        found += mine
    return found, status


def read_bytes(path, most=2 ** 31):
    """The content of a file that the user names."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            raise RecognizerError(f'cannot read {path}: it is no file, or one of more than '
                                  f'{most >> 20} MB')
        with open(path, 'rb') as file:
            return file.read()
    except OSError as error:
        raise RecognizerError(f'cannot read {path}: {error.strerror}') from None


def open_session(content, path):
    """ONNX Runtime with a network."""
    with bounded(16 * len(content)), one_line(path):
        try:
            import onnxruntime
        except ImportError:
            raise RecognizerError('onnxruntime is missing: pip install onnxruntime') from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4      # what is wrong comes as an exception as well
        return onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])


@contextlib.contextmanager
def one_line(path):
    """One line for whatever ONNX Runtime raises for a network that is damaged or does not fit."""
    try:
        yield
    except RecognizerError:
        raise
    except Exception as error:
        reason = ' '.join(str(error).split())[:200]
        raise RecognizerError(f'cannot run {path}: {reason or type(error).__name__}') from None


@contextlib.contextmanager
def bounded(more):
    """A context in which the process takes so many bytes more, and 0.4 GB, but no others: a small
    ONNX file can ask for any memory. Only Linux has such a limit."""
    try:
        import resource
        with open('/proc/self/statm', encoding='ascii') as file:
            now = int(file.read().split()[5]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_DATA)
        limit = now + more + 400_000_000
        hard = before[1] if before[1] != resource.RLIM_INFINITY else limit
        resource.setrlimit(resource.RLIMIT_DATA, (min(limit, hard), before[1]))
    except (ImportError, OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


if __name__ == '__main__':
    warnings.filterwarnings('ignore', module='PIL')  # about odd metadata
    for stream in sys.stdout, sys.stderr:
        stream.reconfigure(errors='backslashreplace')
    if hasattr(signal, 'SIGPIPE'):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly in `… | head`
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
