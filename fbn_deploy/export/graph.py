"""ONNX graphs out of PyTorch: a trained network, or a whole supernet with its choices open.

A search looks at hundreds of architectures, and exporting each takes seconds. So the supernet is
exported once, by PyTorch's own exporter, with a node ``fbn::Choice`` that reads the outputs of all
candidates of a choice; ``closed`` gives the graph of one architecture in milliseconds by wiring
each such node to the chosen input and dropping what nothing reads any more.

Nodes are named by the path of their module (``stage1_0.mb6_k3.depthwise.conv/Conv``), so that
profiles speak of choices; file names and stack traces of the exporting machine are taken out.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.export.shapes import infer_shapes
from fbn_deploy.export.subgraph import model_from_nodes
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.aging import as_if_trained
from fbn_deploy.supernet.choice import ONNX_DOMAIN, opened
from fbn_deploy.supernet.supernet import Supernet

INPUT, OUTPUT = "images", "logits"
SCOPES = "pkg.torch.onnx.name_scopes"


def onnx_from_module(module: nn.Module, resolution: int) -> ir.Model:
    """The graph of an ordinary network: ``images`` (batch, 3, R, R) → ``logits`` (batch, classes).

    Raises ``FBNError`` when PyTorch cannot export the module.
    """
    example = torch.zeros(2, 3, resolution, resolution)
    return _exported(module, example, {0: torch.export.Dim("batch")})


def onnx_from_supernet(supernet: Supernet, batch: int) -> ir.Model:
    """The graph of all architectures of ``supernet`` at once, its choices open, for that batch."""
    with opened(supernet.network):
        return _exported(supernet.network, supernet.definition.example(batch), None)


def candidate_graphs(supernet: Supernet, batch: int) -> Callable[[Architecture], ir.Model]:
    """Architecture → the graph of the network that it stands for, with BatchNorms as a training
    leaves them (``as_if_trained``), whether ``supernet`` was trained or not.

    Exports the supernet now and cuts each graph out of it; where the space builds its subnets
    itself, each of those is exported when it is asked for, which takes seconds.
    """
    definition = supernet.definition
    if definition.builds_subnets:
        return lambda architecture: onnx_from_module(
            as_if_trained(definition.subnet(architecture, supernet.num_classes, seed=0)),
            definition.resolution,
        )
    aged = replace(supernet, network=as_if_trained(supernet.network))
    model = onnx_from_supernet(aged, batch)
    return lambda architecture: closed(model, architecture)


def closed(model: ir.Model, architecture: Mapping[str, str]) -> ir.Model:
    """The graph of one architecture out of ``onnx_from_supernet``; ``model`` is not changed.

    Only what the architecture reads is copied: most of a supernet is what was not chosen.
    """
    instead = {
        node.outputs[0]: _chosen(node, architecture) for node in model.graph if _is_choice(node)
    }

    def meant(value: ir.Value) -> ir.Value:
        while value in instead:
            value = instead[value]
        return value

    needed = {meant(value) for value in model.graph.outputs}
    kept = []
    for node in reversed(model.graph):
        if not _is_choice(node) and not needed.isdisjoint(node.outputs):
            kept.append(node)
            needed.update(meant(value) for value in node.inputs if value is not None)
    inputs, outputs = model.graph.inputs, model.graph.outputs
    return model_from_nodes(kept[::-1], inputs, outputs, instead)


def _is_choice(node: ir.Node) -> bool:
    return node.domain == ONNX_DOMAIN and node.op_type == "Choice"


def _chosen(node: ir.Node, architecture: Mapping[str, str]) -> ir.Value:
    options = node.attributes["options"].as_strings()
    decision = node.attributes["decision"].as_string()
    chosen = node.inputs[options.index(architecture[decision])]
    assert chosen is not None, "A candidate without an output."
    return chosen


def _exported(
    module: nn.Module, example: torch.Tensor, dynamic: dict[int, torch.export.Dim] | None
) -> ir.Model:
    from onnxscript import optimizer

    # Channels-last weights would leave their strides in the graph as gathers and reshapes.
    plain = copy.deepcopy(module).to(memory_format=torch.contiguous_format).eval()
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(
                plain, (example,), dynamic_shapes=None if dynamic is None else (dynamic,)
            )
            exported = torch.onnx.export(program, (), dynamo=True, optimize=False, verbose=False)
    except Exception as error:
        raise FBNError(
            f"PyTorch cannot export this network to ONNX ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}). "
            "Its forward must be traceable by torch.export."
        ) from error
    assert exported is not None, "torch.onnx.export gave no program."
    model = exported.model
    optimizer.fold_constants(model)  # no rewriting: BatchNorms are left to the folding pass
    _flatten(model.graph)
    RemoveUnusedNodesPass()(model)
    infer_shapes(model)  # once here, not in every graph that is cut out of this one
    model.graph.inputs[0].name, model.graph.outputs[0].name = INPUT, OUTPUT
    _name_by_module(model.graph)
    model.producer_name = "fbn_deploy"
    return model


def _flatten(graph: ir.Graph) -> None:
    """Replaces each Reshape of (batch, …) to (batch, all the rest), which the exporter writes with
    half a dozen nodes that compute the shape, by a Flatten."""
    for node in list(graph):
        if node.op_type != "Reshape" or node.inputs[0] is None:
            continue
        source, target = node.inputs[0].shape, node.outputs[0].shape
        if source is None or target is None or len(target) != 2 or len(source) < 2:
            continue
        if str(source[0]) == str(target[0]) and isinstance(target[1], int):
            node.op_type = "Flatten"
            node.resize_inputs(1)
            node.attributes.clear()
            node.attributes["axis"] = ir.AttrInt64("axis", 1)


def _name_by_module(graph: ir.Graph) -> None:
    seen: Counter[str] = Counter()
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
        path = scopes[-2].replace("candidates.", "") if len(scopes) > 1 else ""
        name = f"{path}/{node.op_type}" if path else node.op_type
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporters' advice to developers off the user's screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
