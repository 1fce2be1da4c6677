"""Center loss gets plain arrays, whatever layout MXNet keeps them in.

On the CPU, oneDNN leaves results of convolutions and more, and the weights of an inference, in a
layout of its own; `reshape`, a slice or an index of such an array is a view of it. For an operator
that is not oneDNN's, MXNet makes plain copies, calls the operator and frees the copies. A custom
operator has only queued its work by then: it would read freed memory, and move the centers there.
An executor keeps the copies; `mx.nd.Custom` and `CachedOp`, which runs hybridized and imported
blocks, do not. So the arrays are made plain in front of center loss, and copied behind it, for the
gradient that comes back. An identity would not do: it keeps the layout.
"""
import threading
from functools import wraps

import mxnet as mx
from mxnet.ndarray import op

from .centers import fence
from .graph import OP_TYPE, center_losses, content_of, is_center_loss, symbol_of

FEATURES, LABEL = 0, 1      # their places among the inputs
# Operators that copy, and their attributes in a graph: the fast one does not take labels of bool.
_FAST = {'op': 'slice_axis', 'attrs': {'axis': '0', 'begin': '0', 'end': 'None'}}
_OF_ANY_TYPE = {'op': 'tile', 'attrs': {'reps': '(1,)'}}


def _plain_custom(custom):
    @wraps(custom)
    def plain_custom(*given, **kwargs):
        if kwargs.get('op_type') != OP_TYPE:
            return custom(*given, **kwargs)
        data = list(given)
        for place, array in enumerate(data):
            if not isinstance(array, mx.nd.NDArray):
                continue
            # A fence counts as a write: among passes of several threads that share labels or
            # features it can close a circle of waits. But a copy of the features costs another one
            # of their gradient.
            is_copied = array.stype == 'default' and array.size
            if place == LABEL and is_copied:
                data[place] = mx.nd.tile(array, reps=(1,))
            elif place == FEATURES and is_copied and threading.active_count() > 1:
                data[place] = mx.nd.slice_axis(array, axis=0, begin=0, end=None)
            else:
                fence(array)
        output = custom(*data, **kwargs)
        if mx.autograd.is_recording() and str(kwargs.get('need_top_grad')) in ('True', 'true', '1'):
            output = mx.nd.slice_axis(output, axis=0, begin=0, end=None)
        return output
    return plain_custom


def _plain_graph(symbol):
    """A graph with copies in front of each center loss, and behind it."""
    graph = content_of(symbol)
    nodes = graph['nodes']
    losses = {number: node for number, node in enumerate(nodes) if is_center_loss(node)}

    def copied(name, entry, operator):
        nodes.append({'name': f'{name}_copy', 'inputs': [entry], **operator})
        return [len(nodes) - 1, 0, 0]

    behind = {number: copied(node['name'], [number, 0, 0], _FAST)
              for number, node in losses.items()}
    for node in nodes[:-len(behind)]:
        node['inputs'] = [behind.get(entry[0], entry) for entry in node['inputs']]
    for node in losses.values():
        name, (data, label, centers) = node['name'], node['inputs']
        node['inputs'] = [copied(f'{name}_data', data, _FAST),
                          copied(f'{name}_label', label, _OF_ANY_TYPE), centers]
    plain = symbol_of({
        'nodes': nodes, 'arg_nodes': graph['arg_nodes'], 'attrs': graph['attrs'],
        'heads': [behind.get(entry[0], entry) for entry in graph['heads']]})
    return plain.as_np_ndarray() if isinstance(symbol, mx.sym.numpy._Symbol) else plain


def _plain_cached_op(init):
    @wraps(init)
    def plain_init(self, sym, *args, **kwargs):
        init(self, _plain_graph(sym) if center_losses(sym) else sym, *args, **kwargs)
    return plain_init


def install():
    """Replace `mx.nd.Custom` and `CachedOp.__init__`."""
    mx.nd.Custom = op.Custom = _plain_custom(mx.nd.Custom)
    mx.nd.CachedOp.__init__ = _plain_cached_op(mx.nd.CachedOp.__init__)
    return 'replaced'
