"""recognize: photographs per second of examples/recognize.py identify, 1,000 classes enrolled"""
import contextlib
import io
import json
import os
import tempfile
import time

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

from .timing import table

try:
    import export_onnx
    import recognize
    from PIL import Image
except ImportError as error:
    MISSING = error.name
else:
    MISSING = None

# Of the files of photographs, as a telephone sends them: they are decoded at a part of that.
WIDTH, HEIGHT = 1024, 768
CLASSES, EMBEDDING = 1000, 128


def _small():
    net = nn.HybridSequential()
    for channels in 32, 64, 128:
        net.add(nn.Conv2D(channels, 3, padding=1, use_bias=False), nn.MaxPool2D(2),
                nn.BatchNorm(), nn.Activation('relu'))
    return net


# A network by name, and the height and width of its images.
NETWORKS = {'three convolutions': (_small, 64),
            'resnet18_v2': (lambda: mx.gluon.model_zoo.vision.resnet18_v2().features, 112)}


def _write(out, body, side):
    """The files that identify reads, of a network as it is initialized."""
    net = nn.HybridSequential()
    net.add(body, nn.Dense(EMBEDDING))
    net.initialize(mx.init.Xavier())
    net.hybridize()
    net(mx.nd.zeros((1, 3, side, side))).wait_to_read()
    net.export(os.path.join(out, 'embedding'))
    symbol, arguments, states = mx.model.load_checkpoint(os.path.join(out, 'embedding'), 0)
    export_onnx.export(symbol, {**arguments, **states}, [(3, side, side)],
                       os.path.join(out, 'embedding.onnx'))
    with open(os.path.join(out, 'recognizer.json'), 'w', encoding='utf-8') as file:
        json.dump({'input': [3, side, side], 'resize': recognize.RESIZE, 'thresholds': {'0.01': 1},
                   'distance': 'euclidean', 'network': ''}, file)
    network = recognize.Network(out, 'mxnet')
    means = np.random.RandomState(0).randn(CLASSES, EMBEDDING)
    recognize.write_gallery(network, {str(i): (mean, 5) for i, mean in enumerate(means)})


def _photographs(folder, number):
    os.makedirs(folder)
    random = np.random.RandomState(0)
    for i in range(number):
        small = Image.fromarray(random.randint(0, 256, (HEIGHT // 16, WIDTH // 16, 3), 'uint8'))
        small.resize((WIDTH, HEIGHT), Image.BICUBIC).save(os.path.join(folder, f'{i}.jpg'))
    return folder


def _time(out, backend, photographs):
    """(seconds of identify, seconds of those in the network)."""
    options = recognize.parse(['identify', out, photographs, '--backend', backend])
    network = recognize.Network(out, backend)
    run, inside = network.run, []

    def timed(images):
        begin = time.perf_counter()
        embeddings = run(images)
        inside.append(time.perf_counter() - begin)
        return embeddings

    network.run = timed
    with contextlib.redirect_stdout(io.StringIO()):
        for _ in range(2):  # the first time, the network is made ready
            inside.clear()
            begin = time.perf_counter()
            recognize.identify(options, network)
            end = time.perf_counter()
    return end - begin, sum(inside)


def run(quick):
    """Print the table; return its figures, a dict a row."""
    if MISSING:
        print(f"{MISSING} is missing: pip install '.[examples,onnx]'")
        return []
    number = 128 if quick else 512
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        photographs = _photographs(os.path.join(folder, 'photographs'), number)
        for name, (body, side) in NETWORKS.items():
            out = os.path.join(folder, name)
            os.makedirs(out)
            _write(out, body(), side)
            for backend in 'onnx', 'mxnet':
                total, inside = _time(out, backend, photographs)
                rows.append({'network': name, 'side': side, 'backend': backend,
                             'per second': number / total, 'outside': 1 - inside / total})
    table(['network', 'pixels', 'backend', 'photographs/s', 'outside the network'],
          [[row['network'], f"{row['side']} x {row['side']}", row['backend'],
            f"{row['per second']:.0f}", f"{row['outside']:.0%}"] for row in rows])
    return rows
