"""images: pictures per second of examples/recognizer, JPEG files of 250 x 250 pixels"""
import os
import tempfile
import time

import numpy as np

from .timing import table

try:
    import data
    import networks
    import train
    from PIL import Image
except ImportError as error:
    MISSING = error.name
else:
    MISSING = None

SIDE, CLASSES, EACH = 250, 10, 40


def _photographs(folder, channels):
    random = np.random.RandomState(0)
    for number in range(CLASSES * EACH):
        of_class = os.path.join(folder, str(number % CLASSES))
        os.makedirs(of_class, exist_ok=True)
        pixels = random.randint(0, 256, (SIDE // 10, SIDE // 10, channels), 'uint8')
        Image.fromarray(pixels.squeeze()).resize((SIDE, SIDE), Image.BICUBIC).save(
            os.path.join(of_class, f'{number}.jpg'))


def run(quick):
    """Print the table; return its figures, a dict per row."""
    if MISSING:
        print(f"{MISSING} is missing: pip install '.[examples]'")
        return []
    rows = []
    for name, channels in ('grey', 1), ('colour', 3):
        with tempfile.TemporaryDirectory() as folder:
            _photographs(folder, channels)
            start = time.perf_counter()
            pictures = data.load(
                folder, lambda *found: networks.input_shape(networks.SMALL, *found), quiet=True)
            reading = len(pictures.labels) / (time.perf_counter() - start)
            last = train.train(pictures.images, pictures.labels, center_weight=0.1,
                               decorrelation=0.1, epochs=2 if quick else 4).history[-1]
        rows.append({'images': name, 'reading': reading, 'training': last['images_per_second'],
                     'waiting': last['share_waiting_for_images']})
    table(['', 'reading, once', 'training', 'waiting for pictures'],
          [[f'{row["images"]}, 48 x 48', f'{row["reading"]:.0f}', f'{row["training"]:.0f}',
            f'{row["waiting"]:.0%}'] for row in rows])
    return rows
