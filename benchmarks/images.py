"""images: images per second of examples/train_images.py, JPEG files of 250 x 250 pixels"""
import os
import tempfile
import time

import numpy as np

from .timing import table

try:
    import train_images
    from PIL import Image
except ImportError as error:
    MISSING = error.name
else:
    MISSING = None

SIDE, CLASSES, EACH = 250, 10, 40


def _photographs(folder, channels):
    random = np.random.RandomState(0)
    for label in range(CLASSES):
        os.makedirs(os.path.join(folder, str(label)))
        for number in range(EACH):
            pixels = random.randint(0, 256, (SIDE // 10, SIDE // 10, channels), 'uint8')
            Image.fromarray(pixels.squeeze()).resize((SIDE, SIDE), Image.BICUBIC).save(
                os.path.join(folder, str(label), f'{number}.jpg'))


def run(quick):
    """Print the table; return its figures, a dict per row."""
    if MISSING:
        print(f"{MISSING} is missing: pip install '.[examples]'")
        return []
    rows = []
    for name, channels in ('grey', 1), ('colour', 3):
        with tempfile.TemporaryDirectory() as folder:
            data = os.path.join(folder, 'data')
            _photographs(data, channels)
            setup = train_images.Run(train_images.parse([
                data, '--output-dir', os.path.join(folder, 'out'), '--held-out', '0', '--epochs',
                '2' if quick else '4']))
            list(setup.training)    # the processes that read start working
            start = time.perf_counter()
            images = sum(len(labels) for _, labels, _ in setup.training)
            reading = images / (time.perf_counter() - start)
            last = train_images.train(setup, 0.1)[-1]
        rows.append({'images': name, 'reading': reading, 'training': last['images_per_second'],
                     'waiting': last['share_waiting_for_images']})
    table(['', 'reading and varying alone', 'training', 'reading/training', 'waiting for images'],
          [[f'{row["images"]}, 48 x 48', f'{row["reading"]:.0f}', f'{row["training"]:.0f}',
            f'{row["reading"] / row["training"]:.1f}', f'{row["waiting"]:.0%}'] for row in rows])
    return rows
