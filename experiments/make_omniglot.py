"""Make omniglot.npz, a data set for face_verification.py, from the two archives of Omniglot.

    python experiments/make_omniglot.py images_background.zip images_evaluation.zip omniglot.npz

The archives are those of https://github.com/brendenlake/omniglot (Lake, Salakhutdinov, Tenenbaum,
Science 2015). Each has folders `alphabet/characterNN/` with images NNNN_MM.png of 105 x 105 pixels,
black ink on white. The characters of the first archive become the training classes, those of the
second the test classes. Images are inverted, so that ink is bright, and scaled to 28 x 28 pixels:
each pixel is the mean of the 3 or 4 rows and columns that it covers.
"""
import argparse
import io
import re
import zipfile

import checkpoint
import faces
import numpy as np
import run
from data import DataError
from PIL import Image, ImageOps

SIZE = 28, 28
_PATH = re.compile(r'(?:.*/)?([^/]+/character\d+)/[^/]+\.png')


def read_archive(path):
    """Images, (N, 28, 28), and labels, (N,), of an archive.

    Labels count the characters in the order of their alphabets and numbers.

    Raises
    ------
    DataError
        Names the archive, and the file in it that is wrong.
    """
    images, labels, classes = [], [], {}
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(filter(_PATH.fullmatch, archive.namelist()))
            contents = [(name, archive.read(name)) for name in names]
    except OSError as error:
        raise DataError('cannot read %s: %s' % (path, error.strerror or error)) from None
    # A damaged archive makes zipfile raise nearly anything.
    except Exception as error:
        raise DataError('cannot read %s: %s' % (path, str(error) or type(error).__name__)) from None
    for name, content in contents:
        try:
            image = faces.grey(io.BytesIO(content))
        except faces.Unreadable as error:
            raise DataError('cannot read %s in %s: %s' % (name, path, error)) from None
        images.append(np.asarray(ImageOps.invert(image).resize(SIZE, Image.BOX)))
        labels.append(classes.setdefault(_PATH.fullmatch(name).group(1), len(classes)))
    if not images:
        raise DataError('%s has no files alphabet/characterNN/NAME.png' % path)
    return np.stack(images), np.array(labels, np.int16)


def main(arguments=None):
    """Read both archives and write the .npz file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('background', help='images_background.zip, the training classes')
    parser.add_argument('evaluation', help='images_evaluation.zip, the test classes')
    parser.add_argument('output', help='the .npz file to write')
    options = parser.parse_args(arguments)
    arrays = {}
    for part, path in ('train', options.background), ('test', options.evaluation):
        images, labels = read_archive(path)
        arrays.update({part + '_images': images, part + '_labels': labels})
        run.say('%s: %d images of %d characters' % (path, len(labels), labels[-1] + 1))
    checkpoint.write_file(options.output, checkpoint.npz(**arrays))


if __name__ == '__main__':
    run.script(main)
