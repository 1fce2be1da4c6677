"""Small data sets for the recognizer: noisy pictures of a pattern per class."""
import io

import numpy as np
from PIL import Image


def patterns(classes, each, side=8, seed=0):
    """(images (n, side, side) uint8, labels) of classes that a network tells apart quickly."""
    random = np.random.RandomState(seed)
    base = random.randint(0, 256, (classes, side, side))
    labels = np.repeat(np.arange(classes), each)
    noise = random.normal(0, 40, (len(labels), side, side))
    return np.clip(base[labels] + noise, 0, 255).astype('uint8'), labels


def encoded(pixels, kind='PNG', **options):
    """An image as the bytes of a file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def write_folder(folder, classes, each, **options):
    """A folder with a sub-folder of PNG files per class."""
    for number, (pixels, label) in enumerate(zip(*patterns(classes, each, **options))):
        (folder / f'class {label:02d}').mkdir(parents=True, exist_ok=True)
        (folder / f'class {label:02d}' / f'{number:04d}.png').write_bytes(encoded(pixels))
    return folder
