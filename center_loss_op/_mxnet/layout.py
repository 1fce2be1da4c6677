"""Center loss gets plain arrays, whatever layout MXNet keeps them in.

On the CPU, MXNet computes convolutions and more with oneDNN, and leaves their results in a layout
of that library. `reshape`, a slice or an index of such an array is a view of it, and an inference
puts its weights into such a layout, too. For an operator that is not oneDNN's, MXNet makes copies
in the plain layout, calls the operator and frees the copies. A custom operator has only queued its
work by then: it would read freed memory, and move the centers there. An executor keeps the copies,
but `mx.nd.Custom` and `CachedOp`, which runs hybridized and imported blocks, do not.

:func:`install` changes both. `mx.nd.Custom` puts its arrays into the plain layout, but for the
labels, which it copies. A graph gets copies in front of center loss. Both get a copy behind it, for
the gradient that comes back. An identity would not do: it is done in place, and keeps the layout.
"""
from functools import wraps
from typing import List

import mxnet as mx
from mxnet.ndarray import op

from .centers import fence
from .graph import OP_TYPE, center_losses, content_of, symbol_of

__all__ = ['install']

LABEL = 1       # its place among the inputs
# Operators that copy, and their attributes in a graph: the fast one does not take labels of bool.
_FAST = {'op': 'slice_axis', 'attrs': {'axis': '0', 'begin': '0', 'end': 'None'}}
_OF_ANY_TYPE = {'op': 'tile', 'attrs': {'reps': '(1,)'}}


def _plain_custom(custom):
    """`mx.nd.Custom`, with plain arrays for center loss."""
    @wraps(custom)
    def plain_custom(*given, **kwargs):
        if kwargs.get('op_type') != OP_TYPE:
            return custom(*given, **kwargs)
        data = list(given)
        for place, array in enumerate(data):
            if not isinstance(array, mx.nd.NDArray):
                continue
            if place == LABEL and array.stype == 'default' and array.size:
                # Threads may share it. A fence counts as a write, and among the passes of several
                # threads, which read labels and write centers, it can close a circle of waits.
                data[place] = mx.nd.tile(array, reps=(1,))
            else:
                fence(array)
        output = custom(*data, **kwargs)
        if mx.autograd.is_recording() and str(kwargs.get('need_top_grad')) in ('True', 'true', '1'):
            output = mx.nd.slice_axis(output, axis=0, begin=0, end=None)
        return output
    plain_custom.is_plain = True  # type: ignore[attr-defined]
    return plain_custom


def _plain_graph(symbol):
    """A graph with copies in front of each center loss, and behind it."""
    graph = content_of(symbol)
    nodes: List[dict] = []      # of the new graph
    places: List[int] = []      # where each node of the old one is there

    def add(name, inputs, **node):
        nodes.append({'name': name, 'inputs': inputs, **node})
        return len(nodes) - 1

    def copied(name, entry, operator):
        return [add(f'{name}_copy', [entry], **operator), 0, 0]

    for node in graph['nodes']:
        name = node['name']
        inputs = [[places[index], *rest] for index, *rest in node['inputs']]
        is_center_loss = node['op'] == 'Custom' and node['attrs']['op_type'] == OP_TYPE
        if is_center_loss:
            inputs[:2] = [copied(f'{name}_data', inputs[0], _FAST),
                          copied(f'{name}_label', inputs[1], _OF_ANY_TYPE)]
        places.append(add(**{**node, 'inputs': inputs}))
        if is_center_loss:
            places[-1] = copied(name, [places[-1], 0, 0], _FAST)[0]
    plain = symbol_of({
        'nodes': nodes, 'arg_nodes': [i for i, node in enumerate(nodes) if node['op'] == 'null'],
        'heads': [[places[index], *rest] for index, *rest in graph['heads']],
        'attrs': graph['attrs']})
    return plain.as_np_ndarray() if isinstance(symbol, mx.sym.numpy._Symbol) else plain


def _plain_cached_op(init):
    """`CachedOp.__init__`, for a graph with copies around center loss."""
    @wraps(init)
    def plain_init(self, sym, *args, **kwargs):
        init(self, _plain_graph(sym) if center_losses(sym) else sym, *args, **kwargs)
    plain_init.is_plain = True  # type: ignore[attr-defined]
    return plain_init


def install():
    """Replace `mx.nd.Custom` and `CachedOp.__init__`."""
    if not hasattr(mx.nd.Custom, 'is_plain'):
        mx.nd.Custom = op.Custom = _plain_custom(mx.nd.Custom)
    if not hasattr(mx.nd.CachedOp.__init__, 'is_plain'):
        mx.nd.CachedOp.__init__ = _plain_cached_op(mx.nd.CachedOp.__init__)
    return 'replaced'
