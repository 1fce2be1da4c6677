"""Make lfw.npz, a data set for face_verification.py, from the folder of Labeled Faces in the Wild.

    python experiments/make_lfw.py lfw-deepfunneled --test-people test_people.txt lfw.npz

The folder has a sub-folder `Name/` for each person, with images Name_0001.jpg, … of 250 x 250
pixels (Huang, Ramesh, Berg, Learned-Miller, technical report 07-49, 2007). The list has the names
of the test people, one per line; all other people become training classes. People with one image
are left out, of the others at most 20 images are taken. Images are made grey, cut to a rectangle
around their middle, and scaled.
"""
import argparse
import os

import checkpoint
import faces
import numpy as np
import run
from data import DataError
from options import whole
from PIL import Image


def read_list(path):
    """The names of people in a text file, one per line, as a set."""
    try:
        with open(path, encoding='utf-8') as file:
            names = {line.strip() for line in file if line.strip()}
    except OSError as error:
        raise DataError('cannot read %s: %s' % (path, error.strerror)) from None
    except ValueError:
        raise DataError('cannot read %s: no text in UTF-8' % path) from None
    if not names:
        raise DataError('%s has no names' % path)
    return names


def read_person(folder, options):
    """The images of a person, (height, width) each, at most `options.most`."""
    images = []
    for file in faces.listing(folder)[:options.most]:
        path = os.path.join(folder, file)
        try:
            image = faces.grey(path)
        except faces.Unreadable as error:
            run.say('left out %s: %s' % (path, error))
            continue
        (height, width), crop = image.size[::-1], options.crop
        if height < crop[0] or width < crop[1]:
            raise DataError('%s has %d x %d pixels, fewer than --crop %d %d'
                            % (path, height, width, *crop))
        top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
        images.append(np.asarray(image.resize(
            options.size[::-1], Image.BOX, (left, top, left + crop[1], top + crop[0]))))
    return images


def main(arguments=None):
    """Read the folder and write the .npz file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add('folder', help='one sub-folder of images per person')
    add('output', help='the .npz file to write')
    add('--test-people', metavar='FILE', required=True, default=argparse.SUPPRESS,
        help='the names of the test people, one per line')
    add('--crop', type=whole(1), nargs=2, metavar=('H', 'W'), default=[120, 100],
        help='height and width of the rectangle to keep')
    add('--size', type=whole(1), nargs=2, metavar=('H', 'W'), default=[48, 40],
        help='height and width to scale it to')
    add('--most', type=whole(2), metavar='N', default=20, help='images of a person, at most')
    options = parser.parse_args(arguments)
    test_people = read_list(options.test_people)
    people = [name for name in faces.listing(options.folder)
              if os.path.isdir(os.path.join(options.folder, name))]
    missing = sorted(test_people.difference(people))
    if missing:
        raise DataError('%s has no folder for %d names of %s, the first is %s'
                        % (options.folder, len(missing), options.test_people, missing[0]))
    images, labels = {'train': [], 'test': []}, {'train': [], 'test': []}
    alone = 0
    for name in people:
        mine = read_person(os.path.join(options.folder, name), options)
        if len(mine) < 2:
            alone += 1
            continue
        part = 'test' if name in test_people else 'train'
        labels[part] += [labels[part][-1] + 1 if labels[part] else 0] * len(mine)
        images[part] += mine
    run.say('left out %d people with fewer than 2 images' % alone)
    arrays = {}
    for part in images:
        if not images[part]:
            raise DataError('%s has no people for the %sing classes with 2 images or more'
                            % (options.folder, part))
        run.say('%s: %d images of %d people' % (part, len(labels[part]), labels[part][-1] + 1))
        arrays.update({part + '_images': np.stack(images[part]),
                       part + '_labels': np.array(labels[part], np.int16)})
    checkpoint.write_file(options.output, checkpoint.npz(**arrays))


if __name__ == '__main__':
    run.script(main)
