"""An exported graph in three parts: preprocessing, network, and what becomes of the logits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

LOGITS = "logits"
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_OWN = ".network"
_OWNER = "classifier."


@dataclass(frozen=True)
class Parts:
    """A model, and the network in it.

    Attributes:
        model: the whole; every node has a name.
        network: from what the first layers take to the logits, as a model of its own.
        before: the nodes of the preprocessing, and whatever else no layer comes before.
        after: the nodes that the logits go into.
    """

    model: ModelProto
    network: ModelProto
    before: list[NodeProto]
    after: list[NodeProto]

    @property
    def entries(self) -> list[str]:
        """The tensors that the network takes."""
        return [value.name for value in self.network.graph.input]

    def preprocessing(self) -> ModelProto:
        """`images` -> `entries`, as a model of its own."""
        made = {name for node in self.before for name in node.output}
        outputs = [value for value in self.network.graph.input if value.name in made]
        return _model(self.model, self.before, self.model.graph.initializer, self.model.graph.input, outputs)

    def joined(self, network: ModelProto) -> ModelProto:
        """The whole model, with another network that has the ends of this one."""
        kept = {name for node in (*self.before, *self.after) for name in node.input}
        own = [tensor for tensor in self.model.graph.initializer if tensor.name in kept]
        nodes = [*self.before, *network.graph.node, *self.after]
        whole = _model(
            self.model,
            _sorted(nodes),
            [*own, *network.graph.initializer],
            self.model.graph.input,
            self.model.graph.output,
        )
        del whole.metadata_props[:]
        whole.metadata_props.extend(self.model.metadata_props)
        return whole


def parts(model: ModelProto) -> Parts:
    """Cut a model that export wrote.

    The network begins with the first layers that have weights: the resize multiplies matrices too, but those it makes
    of the image's size.
    """
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{index}"
    before, inside, after = _assigned(model.graph)
    assert inside, "a classifier has layers"
    shared = {name for node in (*before, *after) for name in node.input}
    types = {value.name: value for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    made = {name for node in inside for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    taken = list(dict.fromkeys(name for node in inside for name in node.input if name))
    initializers = []
    for tensor in (constants[name] for name in taken if name in constants):
        own = TensorProto()
        own.CopyFrom(tensor)
        own.name += _OWN if tensor.name in shared else ""
        initializers.append(own)
    for node in inside:
        node.input[:] = [name + _OWN if name in constants and name in shared else name for name in node.input]
    entries = [types[name] for name in taken if name not in made and name not in constants]
    network = _model(model, inside, initializers, entries, [types[LOGITS]])
    return Parts(model, network, before, after)


def weighted(graph: GraphProto) -> list[NodeProto]:
    """The layers: what multiplies float32 weights that the graph has."""
    weights = {
        tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1
    }
    return [node for node in graph.node if node.op_type in WEIGHTED and not weights.isdisjoint(node.input)]


def titles(graph: GraphProto) -> dict[str, str]:
    """Of each layer, by its node's name, what a person knows it by: its module's path in the classifier.

    A linear layer's weights have lost their name where it became a product and a sum, the biases have not. The node's
    own name is left where nothing else is.
    """
    constants = {tensor.name for tensor in graph.initializer}
    found: dict[str, str] = {}
    for node in weighted(graph):
        sums = [other for other in graph.node if other.op_type == "Add" and node.output[0] in other.input]
        names = [name for part in (node, *sums) for name in part.input if name in constants]
        module = next((name.removeprefix(_OWNER).rpartition(".")[0] for name in names if name.startswith(_OWNER)), "")
        found[node.name] = module if module and module not in found.values() else node.name
    return found


def _assigned(graph: GraphProto) -> tuple[list[NodeProto], list[NodeProto], list[NodeProto]]:
    """Copies of the nodes before the network, in it and after it."""
    begun = {node.output[0] for node in weighted(graph)}
    done = {LOGITS}
    sides: tuple[list[NodeProto], list[NodeProto], list[NodeProto]] = ([], [], [])
    for node in graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        if not done.isdisjoint(node.input):
            done.update(node.output)
            sides[2].append(copy)
        elif not begun.isdisjoint((*node.input, *node.output)):
            begun.update(node.output)
            sides[1].append(copy)
        else:
            sides[0].append(copy)
    return sides


def _model(
    source: ModelProto,
    nodes: Iterable[NodeProto],
    initializers: Iterable[TensorProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
) -> ModelProto:
    """Of the same IR version and operator set as `source`; initializers that no node takes are left out."""
    nodes = list(nodes)
    used = {name for node in nodes for name in node.input}
    graph = onnx.helper.make_graph(
        nodes, source.graph.name, inputs, outputs, [tensor for tensor in initializers if tensor.name in used]
    )
    model = onnx.helper.make_model(graph, opset_imports=source.opset_import, producer_name=source.producer_name)
    model.ir_version = source.ir_version
    return model


def _sorted(nodes: list[NodeProto]) -> list[NodeProto]:
    """Each node after those whose outputs it takes, otherwise in the order given."""
    maker = {name: node for node in nodes for name in node.output if name}
    placed, result = set[int](), list[NodeProto]()
    stack = nodes[::-1]
    while stack:
        node = stack.pop()
        if id(node) in placed:
            continue
        missing = [maker[name] for name in node.input if name in maker and id(maker[name]) not in placed]
        if missing:
            stack += [node, *missing[::-1]]
        else:
            placed.add(id(node))
            result.append(node)
    return result
