"""Symbols and checkpoints of the ported implementation, GitHub pangyupo/mxnet_center_loss.

Its operator has three auxiliary states: `<name>_center_bias`, the centers, and `<name>_diff_bias`
and `<name>_sum_bias`, which are working memory. Its graphs list all three as inputs of the node,
but the operator of this package has only the centers.
"""
import json
from typing import Any, Dict, Tuple

import mxnet as mx

from ._mxnet.graph import OP_TYPE, symbol_of

__all__ = ['load_checkpoint', 'load_symbol']

NDArrays = Dict[str, mx.nd.NDArray]

_PORTED_INPUTS = ('data', 'label', 'diff_bias', 'center_bias', 'sum_bias')
# The key of a node's attributes, in different releases of MXNet.
_ATTRIBUTES = ('param', 'attr', 'attrs')


def load_symbol(fname: str) -> mx.sym.Symbol:
    """Load a symbol of the ported implementation, or any other that `mx.sym.load` takes.

    Parameters
    ----------
    fname : str
        The JSON file, ``'<prefix>-symbol.json'``.

    Returns
    -------
    Symbol
        Its center loss nodes have the centers as their one auxiliary state.

    Raises
    ------
    OSError, MXNetError
        The file cannot be read, or holds no symbol.
    """
    with open(fname, encoding='utf-8') as file:
        try:
            graph = json.load(file, strict=False)   # MXNet does not escape control characters
            ported = [node for node in graph['nodes'] if _is_ported(node)]
        except (AttributeError, KeyError, TypeError, ValueError):   # the file holds no graph
            ported = []
    if not ported:
        return mx.sym.load(fname)
    for node in ported:
        inputs = dict(zip(_PORTED_INPUTS, node['inputs']))
        node['inputs'] = [inputs[role] for role in ('data', 'label', 'center_bias')]
    return symbol_of(graph)


def _is_ported(node: Dict[str, Any]) -> bool:
    return (any(node.get(key, {}).get('op_type') == OP_TYPE for key in _ATTRIBUTES)
            and len(node['inputs']) == len(_PORTED_INPUTS))


def load_checkpoint(prefix: str, epoch: int) -> Tuple[mx.sym.Symbol, NDArrays, NDArrays]:
    """Load a checkpoint of the ported implementation, or any other, to train on and to save.

    Parameters
    ----------
    prefix : str
    epoch : int
        Of the files ``<prefix>-symbol.json`` and ``<prefix>-<epoch>.params``.

    Returns
    -------
    symbol : Symbol
    arg_params, aux_params : dict of str to NDArray
        Without the working memory of the ported operator.

    Raises
    ------
    OSError, MXNetError
        A file cannot be read, or MXNet cannot load it.

    Examples
    --------
    >>> from center_loss_op import legacy
    >>> symbol, arg_params, aux_params = legacy.load_checkpoint('center_loss', 20)
    """
    symbol = load_symbol(f'{prefix}-symbol.json')
    arg_params, aux_params = mx.model.load_params(prefix, epoch)
    states = symbol.list_auxiliary_states()
    return symbol, arg_params, {name: aux_params[name] for name in states if name in aux_params}
