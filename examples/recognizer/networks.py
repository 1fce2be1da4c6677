"""Networks from pictures to embeddings: small, of MXNet's model zoo, or your own; and what comes
between the bytes of a picture and a network: its variation."""
import fnmatch
import functools
import json
import os
import re
from typing import NamedTuple, Optional

import center_loss_op  # noqa: F401 - before mxnet, for newer NumPys

import checkpoint
import mxnet as mx
import numpy as np
from data import DataError, printable
from mxnet import gluon
from mxnet.gluon import nn
from mxnet.gluon.model_zoo import vision

# What the networks of the model zoo expect: pixels of ImageNet with mean 0 and deviation 1.
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# What is new learns so much faster than what is fine-tuned.
NEW_LR = 10
# A step changes a plain embedding the more, the more inputs it has: with 5,376 the softmax loss
# rose to 8 in the first epoch, and then all embeddings were the same. With more inputs than this,
# the weights learn more slowly.
MOST_INPUTS = 768


class Spec(NamedTuple):
    """Which network: the options of train.py with these names."""
    network: str = 'small'
    params: Optional[str] = None
    layer: Optional[str] = None
    freeze: tuple = ()
    mean: Optional[tuple] = None
    std: Optional[tuple] = None
    size: Optional[tuple] = None
    embedding_size: Optional[int] = None
    plain: bool = False     # whether the embedding is not batch-normalized

    @property
    def own(self):
        """Whether it is a network of the user's."""
        return self.network.endswith('.json')


SMALL = Spec()


def input_shape(spec, channels, height, width):
    """(channels, height, width) of the input for pictures of which these are the medians."""
    if spec.own:
        symbol, _, params = read_network(spec.network, spec.params, spec.layer)
        # The first convolution says how many channels there are.
        channels = next((params[name].shape[1] for name in symbol.list_arguments()
                         if name in params and params[name].ndim == 4), 3)
        height, width = 112, 112
    elif spec.network != 'small':
        channels, height, width = 3, 224, 224
    else:
        scale = min(1, 48 / min(height, width))
        height, width = (max(8, 8 * round(side * scale / 8)) for side in (height, width))
        height, width = min(height, 2 * width), min(width, 2 * height)  # a panorama is cropped
    return (channels, *(spec.size or (height, width)))


class Normalize(nn.HybridBlock):
    """(pixels − mean) / std, by channel."""

    def __init__(self, mean, std):
        super().__init__()
        with self.name_scope():
            self.mean = self.params.get_constant('mean', np.reshape(mean, (1, -1, 1, 1)))
            self.std = self.params.get_constant('std', np.reshape(std, (1, -1, 1, 1)))

    def hybrid_forward(self, F, x, mean, std):
        return F.broadcast_div(F.broadcast_sub(x, mean), std)


def build(spec, shape, classes, contexts):
    """(embedding network, classifier, network before the training or None), initialized.

    The last one is what is fine-tuned, without new layers; it shares the parameters.
    """
    body, mean, std, taken = _body(spec, shape, contexts)
    prefix = 'embedding_'
    while any(name.startswith(prefix) for name in taken):   # it was made by this program
        prefix = f'new_{prefix}'
    embed, before = nn.HybridSequential(prefix=prefix), nn.HybridSequential(prefix='before_')
    size = spec.embedding_size or (None if spec.own else 128)
    with embed.name_scope():
        normalize = [Normalize(mean or [0], std or [1])] if mean or std else []
        embed.add(*normalize, body,
                  nn.Dense(size, use_bias=spec.plain) if size else nn.Flatten())
        if not spec.plain:
            # Without scale and shift, center loss cannot shrink the embedding instead of gathering
            # it.
            embed.add(nn.BatchNorm(scale=False, center=False))
    before.add(*normalize, body, nn.Flatten())
    classifier = nn.Dense(classes, use_bias=False, prefix='classifier_')
    new = [*embed[len(normalize) + 1:], classifier]
    for block in [*normalize, *new] if spec.params else [embed, classifier]:
        block.initialize(mx.init.Xavier(), ctx=contexts)
    if spec.params:
        for block in new:
            block.collect_params().setattr('lr_mult', NEW_LR)
    try:
        _check_maps(embed(mx.sym.var('data')), shape)
        for context in contexts:
            classifier(embed(mx.nd.zeros((1, *shape), ctx=context))).wait_to_read()
    except (mx.MXNetError, ValueError, AssertionError) as error:
        raise DataError(f'{spec.network} does not take images of {shape[1]} x {shape[2]}: give '
                        f'its --size ({first_line(error)})') from None
    if spec.plain and size:
        weight = embed[-1].weight
        weight.lr_mult *= min(1, MOST_INPUTS / weight.shape[1])
    return embed, classifier, before if spec.params else None


def _check_maps(symbol, shape):
    """Refuse what crashes MXNet: its BatchNorm of the embedding, (N, d), reads beyond its memory if
    a convolution has d channels, too, and maps of one pixel."""
    layers = symbol.get_internals()
    *_, embedding = sizes = layers.infer_shape(data=(1, *shape))[1]
    for name, size in zip(layers.list_outputs(), sizes):
        if size == (*embedding, 1, 1) and 'conv' in name:
            raise ValueError(f'{name} has maps of one pixel, which MXNet cannot train with an '
                             f'embedding of {embedding[1]}: another --embedding-size would do, too')


def _body(spec, shape, contexts):
    """(images to features, mean and deviation of its pixels, names of its parameters)."""
    if spec.network == 'small':
        body = nn.HybridSequential(prefix='small_')
        with body.name_scope():
            # Each image gets mean 0 and deviation 1: brightness and contrast depend on the light.
            body.add(nn.InstanceNorm(epsilon=1, center=False, scale=False))
            for number, channels in enumerate((32, 64, 128)):
                if min(shape[1:]) >> number >= 4:
                    # Normalizing after the pooling is a quarter of the work.
                    body.add(nn.Conv2D(channels, kernel_size=3, padding=1, use_bias=False),
                             nn.MaxPool2D(pool_size=2), nn.BatchNorm(), nn.Activation('relu'))
        return body, spec.mean, spec.std, ()
    if spec.own:
        found = read_network(spec.network, spec.params, spec.layer)
        return _block(*found, spec, contexts), spec.mean, spec.std, found[-1]
    mean, std = spec.mean or IMAGENET_MEAN, spec.std or IMAGENET_STD
    try:
        net = vision.get_model(spec.network, prefix='')
    except ValueError as error:     # its message has a line per network
        raise DataError('--network must be "small", the -symbol.json file of a network, or in the '
                        f'model zoo: {" ".join(str(error).split())}') from None
    if not spec.params:
        return net.features, mean, std, ()
    try:
        net.load_parameters(spec.params, ctx=contexts, ignore_extra=True)
        net(mx.nd.zeros((1, *shape), ctx=contexts[0])).wait_to_read()
    except (OSError, AssertionError, ValueError, mx.MXNetError) as error:
        raise DataError(f'cannot read {spec.params} into {spec.network}: '
                        f'{first_line(error)}') from None
    params = {name: value.data(contexts[0]) for name, value in net.collect_params().items()}
    body = _block(net.features(mx.sym.var('data')), 'data', params, spec, contexts)
    return body, mean, std, params


def _block(symbol, name, params, spec, contexts):
    """A symbol with its parameters; a frozen BatchNorm computes with its moving means."""
    frozen = set()
    for pattern in spec.freeze:
        frozen.update(found := fnmatch.filter(symbol.list_inputs(), pattern))
        if not found:
            raise DataError(f'no parameter is called as --freeze {pattern}; there are '
                            + ', '.join(map(printable, symbol.list_inputs()))[:400])
    graph = json.loads(symbol.tojson())
    nodes = graph['nodes']
    for node in nodes:
        if node['op'] == 'BatchNorm' and nodes[node['inputs'][1][0]]['name'] in frozen:
            node.setdefault('attrs', {})['use_global_stats'] = 'True'
    # MXNet's reader does not know JSON's escapes of letters that are not ASCII.
    symbol = mx.sym.load_json(json.dumps(graph, ensure_ascii=False))
    body = gluon.SymbolBlock(symbol, mx.sym.var(name))
    for key, parameter in body.collect_params().items():
        parameter.shape = params[key].shape
        parameter.initialize(ctx=contexts)
        parameter.set_data(params[key].astype('float32'))
        if key in frozen:
            parameter.grad_req = 'null'
    return body


@functools.lru_cache(maxsize=None)
def read_network(network, params_file, layer):
    """(symbol up to the layer, name of its input, {name: array}) of the user's network."""
    try:
        graph = json.loads(mx.sym.load(network).tojson())
        for node in graph['nodes']:
            if node['op'] == 'FullyConnected':      # MXNet's default, which its ONNX exporter needs
                node.setdefault('attrs', {}).setdefault('flatten', 'True')
        symbol = mx.sym.load_json(json.dumps(graph, ensure_ascii=False))
        params = {name.split(':', 1)[-1]: array
                  for name, array in mx.nd.load(params_file).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, mx.MXNetError) as error:
        raise DataError(f'cannot read {network} with {params_file}: '
                        f'{first_line(error)}') from None
    internals = symbol.get_internals()
    outputs = internals.list_outputs()
    wanted = layer or symbol.list_outputs()[0]
    wanted = wanted if wanted in outputs else f'{wanted}_output'
    if wanted not in outputs:
        raise DataError(f'{network} has no --layer {layer}; its last ones are '
                        + ', '.join(name for name in outputs if name.endswith('_output'))[-200:])
    cut = internals[wanted]
    inputs = [name for name in cut.list_inputs() if name not in params]
    if len(inputs) != 1:
        raise DataError(f'{network} up to {wanted} needs one input beside {params_file}, '
                        f'but these are not in it: {", ".join(inputs) or "none"}')
    return cut, inputs[0], params


def trained_classes(spec):
    """The classes that a network of this tool was trained on, by the recognizer.json next to it."""
    folder = os.path.dirname(spec.network) or '.'
    if not spec.own or not os.path.exists(os.path.join(folder, checkpoint.DESCRIPTION)):
        return set()
    return set(checkpoint.load_recognizer(folder, ())['classes'])


def embed_all(block, images, rows, context, batch=256):
    """What a block makes of some rows of images, (n, height, width, channels) uint8: (rows, d)."""
    return np.concatenate([block(
        mx.nd.array(images[rows[start:start + batch]], context, 'uint8')
        .transpose((0, 3, 1, 2)).astype('float32')).asnumpy()
        for start in range(0, len(rows), batch)])


def first_line(error):
    """The first line of an exception's text that says something."""
    lines = [line for line in str(error).splitlines() if line.strip() and 'Stack trace' not in line
             and 'Traceback' not in line]
    line = (lines or [type(error).__name__])[-1 if isinstance(error, mx.MXNetError) else 0]
    return printable(line.strip())


def digest(spec):
    """The SHA-256 of the parameters to start from, or None."""
    return spec.params and checkpoint.digest(os.path.realpath(spec.params))


# -- devices and workers


def devices(names):
    """The contexts with names such as gpu(0)."""
    gpus = mx.context.num_gpus()
    for name in names:
        found = re.fullmatch(r'(cpu|gpu)\(([0-9]{1,4})\)', name)
        if not found or (found[1] == 'gpu' and int(found[2]) >= gpus):
            raise DataError(f'--ctx must be devices such as cpu(0), or of the {gpus} GPUs that '
                            f'MXNet finds here; got {name}')
    return [getattr(mx, name[:3])(int(name[4:-1])) for name in names]


def open_store(name):
    """What adds up the gradients of devices and workers: for `train`."""
    if name == 'device':
        return name
    if name == 'horovod':
        try:
            from center_loss_op.horovod import Horovod
        except ImportError as error:
            raise DataError(f'--kv-store horovod: {error}') from None
        return Horovod()
    if name == 'dist_sync' and 'DMLC_ROLE' in os.environ:
        return mx.kv.create(name)
    raise DataError('--kv-store must be device, horovod, or dist_sync under a launcher that starts '
                    f'a scheduler and servers; got {name}')


# -- variation

# The limits of each change, as shares of height or width; light is in pixel values.
SHIFT, ZOOM, SQUEEZE, SHEAR, ANGLE, LIGHT, COVER = 0.05, 0.1, 0.1, 0.06, np.deg2rad(8), 15, 0.3
_GREY = np.array([0.299, 0.587, 0.114], 'float32').reshape(1, 3, 1, 1)


def vary(x, random, drawings):
    """Each image turned, sheared, zoomed, shifted, mirrored, lit and covered in another way.

    Parameters
    ----------
    x : NDArray (N, channels, height, width), from 0 to 255
    random : numpy.random.RandomState
    drawings : bool
        Whether the images are drawings, such as letters: then they are moved and turned, but
        neither mirrored, nor lit in another way, nor covered.
    """
    count, channels, height, width = x.shape

    def within(limit):
        return random.uniform(-limit, limit, count)

    def array(values):
        return mx.nd.array(np.asarray(values, 'float32'), ctx=x.ctx)

    def factor(limit):
        return array(1 + within(limit)).reshape((-1, 1, 1, 1))

    angle, zoom = within(ANGLE), 1 + within(ZOOM)
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    aspect = (height - 1) / (width - 1)
    mirror = 1 if drawings else random.choice([-1, 1], count)
    # From the output's coordinates, −1 to 1, to those of the image; outside, its edge is repeated.
    matrices = np.stack([
        cos * mirror, within(SHEAR) - sin * aspect, within(2 * SHIFT),
        (within(SHEAR) + sin / aspect) * mirror, cos * (1 + within(SQUEEZE)), within(2 * SHIFT)], 1)
    grid = mx.nd.GridGenerator(array(matrices), 'affine', target_shape=(height, width))
    x = mx.nd.BilinearSampler(x, grid.clip(-1, 1))
    if drawings:
        return x
    if channels == 3:       # brightness, contrast and saturation
        x = x * factor(0.2)
        mean = x.mean(axis=(1, 2, 3), keepdims=True)
        x = mean + factor(0.2) * (x - mean)
        grey = (x * array(_GREY)).sum(axis=1, keepdims=True)
        x = grey + factor(0.2) * (x - grey)
    down, right = (within(LIGHT)[:, None, None, None] for _ in range(2))
    x = x + array(down * np.linspace(-1, 1, height)[:, None] + right * np.linspace(-1, 1, width))
    covered = np.zeros((count, 1, height, width), 'float32')
    for number in np.flatnonzero(random.uniform(size=count) < 0.3):
        high, wide = (max(1, int(side * random.uniform(0.1, COVER))) for side in (height, width))
        top, left = random.randint(height - high + 1), random.randint(width - wide + 1)
        covered[number, :, top:top + high, left:left + wide] = 1
    covered = array(covered)
    return (x + covered * (x.mean(axis=(1, 2, 3), keepdims=True) - x)).clip(0, 255)
