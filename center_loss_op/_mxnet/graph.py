"""Center losses in a symbol graph: which nodes they are, and graphs that are changed as JSON."""
import json
import re
from typing import Dict, NamedTuple

import mxnet as mx

OP_TYPE = 'centerloss'


class Node(NamedTuple):
    """A center loss node: its name, the name of its centers, its arguments as text."""
    name: str
    centers: str
    attributes: Dict[str, str]


def is_center_loss(node):
    return node['op'] == 'Custom' and node['attrs']['op_type'] == OP_TYPE


def center_losses(symbol):
    """The nodes of center loss in a graph: a list of Node."""
    if not symbol.list_auxiliary_states():  # spares a large graph its JSON
        return []
    nodes = content_of(symbol)['nodes']
    return [Node(node['name'], nodes[node['inputs'][-1][0]]['name'],
                 {name: text for name, text in node['attrs'].items() if name != 'op_type'})
            for node in nodes if is_center_loss(node)]


def without_keys(symbol, names):
    """The graph, in which no CenterTrainer moves these centers: their losses have no `key`."""
    keyed = {loss.name for loss in center_losses(symbol)
             if loss.attributes.get('key') and loss.centers in names}
    if not keyed:
        return symbol
    graph = content_of(symbol)
    for node in graph['nodes']:
        if is_center_loss(node) and node['name'] in keyed:
            del node['attrs']['key']
    return symbol_of(graph)


def content_of(symbol):
    """The graph of a symbol, the content of its JSON: a dict."""
    # MXNet does not escape control characters.
    return json.loads(symbol.tojson(remove_amp_cast=False), strict=False)


def symbol_of(graph):
    def plain(escape):  # MXNet reads n, r, t, quote and backslash
        return escape[0] if escape[1] in 'nrt"\\' else json.loads(f'"{escape[0]}"')
    return mx.sym.load_json(re.sub(r'\\(u....|.)', plain, json.dumps(graph, ensure_ascii=False)))
