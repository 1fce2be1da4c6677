"""Files of mx.sym.save, checked before MXNet reads them.

MXNet crashes on a node that has too few inputs, or that reads an output that does not exist.
"""
import ctypes
import json
import re
from typing import Any, Dict, List, Optional

import mxnet as mx
from mxnet.base import _LIB, c_str, check_call
from mxnet.symbol._internal import _symbol_creator

__all__ = ['attributes_of', 'check_graph', 'read_graph', 'written']

Graph = Dict[str, Any]

# The key of a node's attributes, in different releases of MXNet.
_ATTRIBUTES = ('param', 'attr', 'attrs')
# From this version on, MXNet writes every input of a node. It adds what older files leave out.
_ALL_INPUTS = 900


def read_graph(path: str) -> Graph:
    """The graph in a file, with nodes, inputs, attributes and heads of the right types."""
    with open(path, encoding='utf-8') as file:
        try:
            graph = json.load(file, strict=False)   # MXNet does not escape control characters
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{path} is not JSON that can be read: {error}') from None
    if not _is_graph(graph):
        raise ValueError(f'{path} is JSON, but no symbol: its nodes, their inputs and attributes, '
                         'its arg_nodes or its heads are missing or of another type')
    return graph


def written(graph: Graph) -> str:
    """The graph as JSON with the escapes that MXNet reads: n, r, t, quote and backslash."""
    def plain(escape):
        return escape[0] if escape[1] in 'nrt"\\' else json.loads(f'"{escape[0]}"')
    return re.sub(r'\\(u....|.)', plain, json.dumps(graph, ensure_ascii=False))


def attributes_of(node: Graph) -> Dict[str, str]:
    """The attributes of a node, whichever release of MXNet wrote it."""
    return {name: value for key in _ATTRIBUTES for name, value in node.get(key, {}).items()}


def check_graph(path: str, graph: Graph) -> None:
    """Check that every node has its inputs, and reads only outputs of nodes before it.

    Raises
    ------
    ValueError
        Names the file, the node and what is wrong with it.
    """
    nodes = graph['nodes']
    version = graph.get('attrs', {}).get('mxnet_version', (None, 0))[-1]
    outputs: List[Optional[int]] = []

    def check_entries(reader, entries):
        for index, output, *_ in entries:
            if not 0 <= index < len(outputs):
                raise ValueError(f'{path} is damaged: {reader} reads node {index}, but only nodes '
                                 f'0 to {len(outputs) - 1} come before it')
            if not 0 <= output < outputs[index]:
                raise ValueError(f'{path} is damaged: {reader} reads output {output} of '
                                 f'{nodes[index].get("name")!r}, which has {outputs[index]}')

    for node in nodes:
        name = f'node {node.get("name")!r}'
        check_entries(name, node['inputs'])
        least, count = _arity(node)
        if version >= _ALL_INPUTS and len(node['inputs']) < least:
            raise ValueError(f'{path} is damaged: {name} has {len(node["inputs"])} inputs, but '
                             f'{node.get("op")} needs {least}')
        outputs.append(count)
    check_entries('a head', graph['heads'])


def _arity(node):
    """How many inputs and outputs a node has; (0, infinity) if MXNet cannot tell."""
    if node.get('op') == 'null':    # a variable
        return 0, 1
    attributes = attributes_of(node)
    handle = ctypes.c_void_p()
    try:
        check_call(_LIB.NNGetOpHandle(c_str(node['op']), ctypes.byref(handle)))
        # Without inputs, MXNet makes a variable for each.
        symbol = _symbol_creator(handle.value, [], None, list(attributes), attributes.values(),
                                 'node', False)
        return len(symbol.list_inputs()), len(symbol.list_outputs())
    except mx.MXNetError:
        return 0, float('inf')


def _list_of(kind, value):
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _entries(value):
    """Whether `value` is a list of [node, output] or [node, output, version]."""
    return _list_of(list, value) and all(len(entry) > 1 and _list_of(int, entry)
                                         for entry in value)


def _is_graph(graph):
    """Whether everything that is read or changed here has the type that MXNet writes."""
    return (isinstance(graph, dict) and _list_of(int, graph.get('arg_nodes'))
            and _entries(graph.get('heads')) and _list_of(dict, graph.get('nodes'))
            and all(_entries(node.get('inputs'))
                    and all(isinstance(node.get(key, {}), dict) for key in _ATTRIBUTES)
                    for node in graph['nodes']))
