"""Recognize people, products or plants that were enrolled from a few pictures each; see README.md.

    python recognize.py enrol OUT GALLERY          # one sub-folder of pictures per class
    python recognize.py identify OUT photo.jpg folder_of_photos
    python recognize.py verify OUT one.jpg other.jpg
    python recognize.py evaluate OUT FOLDER        # how good is it on pictures of mine?
    python recognize.py list OUT; python recognize.py remove OUT NAME
    python recognize.py embed OUT folder_of_photos --output features.npz
    python recognize.py import OUT model.onnx --size 112 112 --mean 127.5 --std 127.5

OUT is the --output-dir of train.py, or what `import` makes of an ONNX network that maps pictures to
embeddings. A picture that cannot be read gets a line on stderr, and the others are still answered.
The exit status is 0 if all pictures were read, whatever the answers; 1 if some were not, or after
an error; 2 for a wrong command line.
"""
import argparse
import json
import os
import signal
import sys
import warnings

import checkpoint
import metrics
import numpy as np
from data import number, printable
from evaluation import class_files, evaluate, picture_files, read_bytes
from served import MODEL, SHARE, WAIT, DataError, Network, Runner, read_gallery, write_gallery
from tqdm import tqdm


def main(arguments=None):
    """Do what the command line says; returns the exit status."""
    options = parse(arguments)
    try:
        return options.command(options)
    except checkpoint.DataError as error:
        print(f'recognize.py: error: {printable(error)}', file=sys.stderr)
        return 1


def parse(arguments=None):
    """The options as an argparse.Namespace."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(metavar='COMMAND', required=True)

    def command(function, name=None):
        sub = commands.add_parser(name or function.__name__, description=function.__doc__,
                                  help=function.__doc__.split('. ')[0].split('\n')[0])
        sub.add_argument('out', metavar='OUT', help='the --output-dir of train.py')
        sub.set_defaults(command=function)
        return sub.add_argument

    def add_limits(add, name, default, text):
        add(name, type=number(1e-9, 1), metavar='SHARE', default=default,
            help=f'accept this share of {text} (default: {SHARE})')
        add('--threshold', type=number(0, 1e30), metavar='DISTANCE',
            help='accept distances below this one instead')
        add('--json', action='store_true', help='write JSON, an object per line')

    command(enrol)('gallery', metavar='GALLERY', help='one sub-folder of pictures per class')
    add = command(identify)
    add('paths', metavar='PATH', nargs='+', help='a file, or a folder: all pictures below it')
    add_limits(add, '--strangers', None, 'the pictures of other classes')
    add('--top', type=number(1, 10 ** 6, int), default=1, metavar='N', help='so many names')
    add = command(verify)
    add('paths', metavar='PICTURE', nargs=2)
    add_limits(add, '--far', SHARE, 'the pairs of different classes')
    add = command(evaluate)
    add('folder', metavar='FOLDER', nargs='?', help='one sub-folder of pictures per class')
    add('--pairs', metavar='FILE', help="LFW's pairs.txt, of pictures in FOLDER")
    add('--bin', metavar='FILE', help="insightface's .bin of pairs, instead of FOLDER")
    add_limits(add, '--strangers', SHARE, 'the pictures of other classes')
    add('--write', action='store_true', help='write the thresholds that were found to OUT')
    add('--report', metavar='FILE', help='write a page for a browser')
    add('--pictures', action='store_true', help='with the worst pairs of pictures in it')
    add = command(embed)
    add('paths', metavar='PATH', nargs='+')
    add('--output', metavar='FILE', required=True, help='with `paths` and `embeddings`, (n, d)')
    command(show, 'list')
    command(remove)('names', metavar='NAME', nargs='+')
    add = command(bring, 'import')
    add('model', metavar='MODEL', help='an ONNX file')
    add('--size', type=number(*checkpoint.SIDES, int), nargs=2, metavar=('H', 'W'),
        help='of its input (default: as it says)')
    add('--mean', type=float, nargs='+', default=[0.], help='of pixels, by channel (default: 0)')
    add('--std', type=number(1e-9, 1e9), nargs='+', default=[1.], help='as --mean (default: 1)')
    add('--distance', choices=('cosine', 'euclidean'), default='cosine', help='default: cosine')
    options = parser.parse_args(arguments)
    if options.command is evaluate and bool(options.folder) == bool(options.bin):
        parser.error('evaluate needs a FOLDER, or --bin')
    return options


def enrol(options):
    """Add the classes of a folder to OUT/gallery.npz. Classes that were enrolled before stay; a
    class that is enrolled again is replaced, and its earlier pictures no longer count."""
    network = Network(options.out)
    paths, names, status = class_files(options.gallery)
    embeddings, rows, failed = network.all_of(paths)
    if not rows:
        raise DataError(f'no picture in {options.gallery} can be read')
    names = np.array(names, object)[rows]
    with network.changing():
        classes = read_gallery(options.out, network.settings, needed=False)
        before = set(classes)
        for name in sorted(set(names)):
            mine = embeddings[names == name]
            classes[name] = metrics.mean(mine, network.kind), len(mine)
        write_gallery(options.out, network.settings, classes)
    for name in sorted(set(names)):
        print(f'{"replaced" if name in before else "enrolled"}\t{printable(name)}\t'
              f'{classes[name][1]}')
    return int(status or failed)


def identify(options):
    """Print "path, name or unknown, nearest name, its distance" per picture, with tabs between."""
    network = Network(options.out)
    gallery = read_gallery(options.out, network.settings)
    limit, remark = options.threshold, None
    if limit is None:
        limit, remark = network.threshold('strangers', options.strangers, len(gallery))
    if remark:
        print(remark, file=sys.stderr)
    paths, status = picture_files(options.paths)
    names, means = list(gallery), np.array([mean for mean, _ in gallery.values()])
    answered = 0
    for row, embedding in network.embed(paths):
        answered += 1
        apart = metrics.distances(embedding[None], means, network.kind)[0]
        nearest = [(names[place], float(apart[place]))
                   for place in np.argsort(apart, kind='stable')[:options.top]]
        name = nearest[0][0] if nearest[0][1] < limit else None
        if options.json:
            line = json.dumps({'path': paths[row], 'name': name, 'threshold': limit, 'nearest': [
                {'name': one, 'distance': distance} for one, distance in nearest]})
        else:
            line = '\t'.join([printable(paths[row]), name or 'unknown', *(
                f'{one}\t{distance:.6g}' for one, distance in nearest)])
        tqdm.write(line, file=sys.stdout)
    return int(status or answered < len(paths))


def verify(options):
    """Print "same" or "different" and the distance of two pictures, with a tab between."""
    network = Network(options.out)
    limit = options.threshold
    if limit is None:
        limit, _ = network.threshold('pairs', options.far)
    embeddings, rows, _ = network.all_of(options.paths)
    if len(rows) < 2:
        return 1
    distance = float(metrics.distances(*embeddings[:, None], network.kind)[0, 0])
    print(json.dumps({'paths': options.paths, 'same': distance < limit, 'distance': distance,
                      'threshold': limit}) if options.json else
          f'{"same" if distance < limit else "different"}\t{distance:.6g}')
    return 0


def embed(options):
    """Write the embeddings of pictures as an .npz file."""
    network = Network(options.out)
    paths, status = picture_files(options.paths)
    embeddings, rows, failed = network.all_of(paths)
    checkpoint.write(options.output, checkpoint.npz(
        paths=np.array([paths[row] for row in rows], str), embeddings=embeddings.astype('f4')))
    print(f'wrote {len(rows)} embeddings to {printable(options.output)}')
    return int(status or failed)


def show(options):
    """Print each enrolled class and its number of pictures, with a tab between."""
    settings = checkpoint.load_recognizer(options.out, ())
    gallery = read_gallery(options.out, settings, needed=False)
    for name, (_, count) in gallery.items():
        print(f'{name}\t{count}')
    return 0


def remove(options):
    """Remove classes from OUT/gallery.npz: all of them, or none if one is not enrolled."""
    names = list(dict.fromkeys(options.names))
    with checkpoint.lock(options.out, WAIT):
        settings = checkpoint.load_recognizer(options.out, ())
        classes = read_gallery(options.out, settings)
        for name in names:
            if name not in classes:
                raise DataError(f'{name!r} is not enrolled, and nothing was removed: see '
                                f'recognize.py list {options.out}')
            del classes[name]
        write_gallery(options.out, settings, classes)
    for name in names:
        print(f'removed\t{name}')
    return 0


def bring(options):
    """Make OUT of an ONNX network that maps pictures to embeddings, such as insightface's. It must
    take one input, (N, channels, height, width) or (N, height, width, channels), RGB or grey."""
    content = read_bytes(options.model)
    runner = Runner(content, options.model, options.mean, options.std, size=options.size)
    settings = {'network': 'imported', 'size': runner.size, 'channels': runner.channels,
                'mean': options.mean, 'std': options.std, 'distance': options.distance, 'row': {},
                'classes': [], 'thresholds': {'pairs': {}, 'strangers': {}}}
    settings['features'] = runner(np.zeros((1, *runner.size, runner.channels), 'uint8')).shape[1]
    with checkpoint.lock(options.out):
        if os.path.lexists(os.path.join(options.out, checkpoint.DESCRIPTION)):
            raise DataError(f'{options.out} has a recognizer already: take another OUT')
        checkpoint.publish(options.out, {MODEL: content}, settings)
    print('imported {}: pictures of {} x {} to {} features'.format(
        printable(options.model), *runner.size, settings['features']))
    print(f'no threshold yet: evaluate {printable(options.out)} FOLDER --write finds them on '
          'pictures of yours')
    return 0


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
