"""The pass itself, one step a line: read the graph, choose D, choose p, write, report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding.constants import follow_constants
from fbn_deploy.export.folding.equalize import equalized_scales
from fbn_deploy.export.folding.forest import Scales, spanning_scales
from fbn_deploy.export.folding.kinds import Affine, Linear, Wall
from fbn_deploy.export.folding.network import (
    Network,
    Step,
    merge_neighbours,
    network_from_graph,
    subgraphs_of,
)
from fbn_deploy.export.folding.operator import size_of
from fbn_deploy.export.folding.report import Absorbed, FoldReport, LeftAlone, Stayed
from fbn_deploy.export.folding.rewrite import Rewriter, Rewritten
from fbn_deploy.export.folding.shifts import Shifts, merged_shifts
from fbn_deploy.export.shapes import infer_shapes

FLOAT32_LIMIT = 64.0
"""log2 of the spread of D within one tree: half of what float32's exponent spans."""

FLOAT16_LIMIT = 12.0
"""The same for float16 (2^-14 to 2^16): weights keep room for their own range."""

ELEMENTWISE = frozenset({"Add", "BatchNormalization", "Div", "Mul", "Sub"})


def fold_affine(
    model: ir.Model,
    *,
    equalize: bool = False,
    gauge_limit: float | None = None,
    as_convolution: bool = True,
    copy: bool = True,
) -> tuple[ir.Model, FoldReport]:
    """A model that computes the same without its BatchNormalizations, and the report.

    ``model`` is not modified, unless ``copy=False`` gives it away, which saves a third of the
    time; weights that do not change are shared with it. The mathematics stands in ``kinds``. The
    result agrees with the model to the rounding of its precision; it is not run here (see
    ``check.relative_error``).

    ``equalize`` spends the freedom that is left on equal channel ranges, for INT8 with one
    scale a tensor (Nagel et al. 2019, equation 11). ``gauge_limit`` is log2 of the largest
    spread of D that may be chained through one tree: by default what float32 carries, or
    float16 if the model holds such weights; pass ``FLOAT16_LIMIT`` when the model is to be
    converted later. ``as_convolution`` writes a shift that stays, with its scale, as a
    depthwise 1×1 convolution, which ONNX Runtime fuses best on CPUs; False writes Mul and Add,
    which OpenVINO fuses best (``shifts_as_convolution`` of ``fbn_deploy.targets``).

    Raises ``FBNError`` when the model has no graph of standard operators to fold.
    """
    start = time.perf_counter()
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    if opset < 7:
        raise FBNError(
            f"Opset {opset} cannot be folded; opset 7 and newer can. Convert the model first, "
            "for example with onnx.version_converter."
        )
    folded = model.clone() if copy else model
    infer_shapes(folded)
    graph = folded.graph
    before = _counts(graph)
    network = network_from_graph(graph, opset)
    walls = _walls(network)
    follow_constants(network)
    merged = merge_neighbours(network)
    limit = gauge_limit if gauge_limit is not None else _limit(graph)
    scales = spanning_scales(network, limit)
    if equalize:
        scales = equalized_scales(network, scales, limit)
    shifts = merged_shifts(network, scales)
    done = Rewriter(graph, network, scales, shifts, as_convolution).run()
    RemoveUnusedNodesPass()(folded)
    after = _counts(graph)
    kept_as_convolution = sum(item.node.op_type == "Conv" for item in done.left)
    report = FoldReport(
        batchnorm_before=before["BatchNormalization"],
        batchnorm_after=after["BatchNormalization"],
        nodes_before=before.total(),
        nodes_after=after.total(),
        elementwise_before=sum(before[kind] for kind in ELEMENTWISE),
        elementwise_after=sum(after[kind] for kind in ELEMENTWISE) + kept_as_convolution,
        absorbed=tuple(_absorbed(merged, done, network, scales, shifts)),
        stayed=tuple(_stayed(done, scales, shifts)),
        walls=walls,
        subgraphs=tuple(_subgraphs(graph)),
        gauge=(float(np.min(np.abs(scales.d))), float(np.max(np.abs(scales.d)))),
        equalized=equalize,
        warnings=tuple(_warnings(graph, opset)),
        seconds=time.perf_counter() - start,
    )
    return folded, report


def _counts(graph: ir.Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph)


def _limit(graph: ir.Graph) -> float:
    half = any(value.dtype == ir.DataType.FLOAT16 for value in graph.initializers.values())
    return FLOAT16_LIMIT if half else FLOAT32_LIMIT


def _walls(network: Network) -> tuple[LeftAlone, ...]:
    found = Counter(
        (step.nodes[0].op_type, step.kind.reason)
        for step in network.steps
        if isinstance(step.kind, Wall)
    )
    return tuple(LeftAlone(kind, count, reason) for (kind, reason), count in sorted(found.items()))


def _subgraphs(graph: ir.Graph) -> Iterator[LeftAlone]:
    for node in graph:
        inner = [item for sub in subgraphs_of(node) for item in sub.all_nodes()]
        if inner:
            norms = sum(item.op_type == "BatchNormalization" for item in inner)
            name = node.name or node.outputs[0].name
            yield LeftAlone(
                node.op_type,
                1,
                f"{name} holds {len(inner)} nodes in subgraphs, {norms} of them "
                "BatchNormalization; subgraphs are left alone",
            )


def _absorbed(
    merged: list[tuple[Step, Step]],
    done: Rewritten,
    network: Network,
    scales: Scales,
    shifts: Shifts,
) -> Iterator[Absorbed]:
    for step, host in merged:
        yield Absorbed(step.name, step.nodes[-1].op_type, host.name, (host.name,))
    carriers = _carriers(network, scales)
    for step in done.removed:
        unit = int(scales.component[scales.units[step.outputs[0]].reshape(-1)[0]])
        into = "nothing to scale" if _is_unit(step) else carriers.get(unit, "the graph's input")
        where = shifts.absorbed.get(step, [])
        yield Absorbed(step.name, step.nodes[-1].op_type, into, tuple(where))


def _is_unit(step: Step) -> bool:
    return isinstance(step.kind, Affine) and bool(np.all(step.kind.s == 1.0))


def _carriers(network: Network, scales: Scales) -> dict[int, str]:
    """For each tree the linear nodes whose weights carry its scales (by their first channel)."""
    names: dict[int, list[str]] = {}
    for step in network.steps:
        if isinstance(step.kind, Linear):
            for value in (step.inputs[0], step.outputs[0]):
                tree = int(scales.component[scales.units[value].reshape(-1)[0]])
                names.setdefault(tree, []).append(step.name)
    return {
        tree: f"weights of {', '.join(found[:4])}"
        + ("" if len(found) < 5 else f" and {len(found) - 4} more")
        for tree, found in names.items()
    }


def _stayed(done: Rewritten, scales: Scales, shifts: Shifts) -> Iterator[Stayed]:
    for item in done.left:
        yield Stayed(
            node=item.node.name or "",
            from_node=item.step.name,
            scale=item.scales,
            shift=item.shifts,
            channels=int(item.s.size),
            elements=size_of(item.step.outputs[0]),
            scale_reason=scales.refused.get(item.step) if item.scales else None,
            shift_reason=shifts.reasons.get(item.step, "merged here from another node")
            if item.shifts
            else None,
        )


def _warnings(graph: ir.Graph, opset: int) -> Iterator[str]:
    if opset < 13:
        yield f"opset {opset} is older than 13, the oldest that is tested"
    for node in graph:
        if node.op_type == "BatchNormalization":
            yield f"{node.name or node.outputs[0].name} stays a BatchNormalization (see walls)"
