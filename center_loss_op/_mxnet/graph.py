"""Center losses in a symbol graph: which nodes they are."""
import collections
import json

__all__ = ['OP_TYPE', 'center_losses']

OP_TYPE = 'centerloss'

# A center loss node: its name, the name of its centers, its arguments as text.
Node = collections.namedtuple('Node', 'name centers attributes')


def center_losses(symbol):
    """The nodes of center loss in a graph: a list of Node."""
    if not symbol.list_auxiliary_states():  # spares a large graph its JSON
        return []
    nodes = json.loads(symbol.tojson())['nodes']
    found = []
    for node in nodes:
        attributes = dict(node.get('attrs', {}))
        if node['op'] == 'Custom' and attributes.pop('op_type') == OP_TYPE:
            centers = nodes[node['inputs'][-1][0]]['name']
            found.append(Node(node['name'], centers, attributes))
    return found
