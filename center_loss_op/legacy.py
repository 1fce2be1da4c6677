"""Symbols and checkpoints of the ported implementation, GitHub pangyupo/mxnet_center_loss.

Its operator has three auxiliary states: `<name>_center_bias`, the centers, and two for its working
memory. Its graphs list all three as inputs of the node.
"""
import json
from typing import Dict, Tuple

import mxnet as mx

from ._mxnet.graph import OP_TYPE, symbol_of

__all__ = ['load_checkpoint', 'load_symbol']

NDArrays = Dict[str, mx.nd.NDArray]

_PORTED_INPUTS = ('data', 'label', 'diff_bias', 'center_bias', 'sum_bias')
# The key of a node's attributes, in different releases of MXNet.
_ATTRIBUTES = ('param', 'attr', 'attrs')


def load_symbol(fname: str) -> mx.sym.Symbol:
    """Load a symbol of the ported implementation, or any other that `mx.sym.load` takes.

    `fname` is the name of the JSON file, ``'<prefix>-symbol.json'``. In the symbol, center loss
    nodes have the centers as their one auxiliary state. Raises OSError or MXNetError if the file
    cannot be read, or holds no symbol.
    """
    with open(fname, encoding='utf-8') as file:
        try:
            graph = json.load(file, strict=False)   # MXNet does not escape control characters
            ported = [node for node in graph['nodes']
                      if any(node.get(key, {}).get('op_type') == OP_TYPE for key in _ATTRIBUTES)
                      and len(node['inputs']) == len(_PORTED_INPUTS)]
        except (AttributeError, KeyError, TypeError, ValueError):   # the file holds no graph
            ported = []
    if not ported:
        return mx.sym.load(fname)
    for node in ported:
        inputs = dict(zip(_PORTED_INPUTS, node['inputs']))
        node['inputs'] = [inputs[role] for role in ('data', 'label', 'center_bias')]
    return symbol_of(graph)


def load_checkpoint(prefix: str, epoch: int) -> Tuple[mx.sym.Symbol, NDArrays, NDArrays]:
    """Load a checkpoint of the ported implementation, or any other, to train on and to save.

    It reads ``<prefix>-symbol.json`` and ``<prefix>-<epoch>.params``, as `mx.model.load_checkpoint`
    does, and returns the symbol and two dicts of name to NDArray, without the working memory of
    the ported operator. Raises OSError or MXNetError if MXNet cannot load a file.

    Examples
    --------
    >>> from center_loss_op import legacy
    >>> symbol, arg_params, aux_params = legacy.load_checkpoint('center_loss', 20)
    """
    symbol = load_symbol(f'{prefix}-symbol.json')
    arg_params, aux_params = mx.model.load_params(prefix, epoch)
    states = symbol.list_auxiliary_states()
    return symbol, arg_params, {name: aux_params[name] for name in states if name in aux_params}
