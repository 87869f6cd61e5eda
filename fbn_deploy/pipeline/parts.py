"""The inventory of a space: its graphs cut into blocks, the probes chosen, all of it hashed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fbn_deploy.export.precision.form import Form
from fbn_deploy.latency.blocks import Block, block_model
from fbn_deploy.latency.composition import Composition, blocks_of, seams_of
from fbn_deploy.latency.counting import Counting
from fbn_deploy.latency.inventory import Graph, Inventory, Probe, probe_name
from fbn_deploy.latency.network import Network, network_from
from fbn_deploy.latency.probes import covering_architectures, probe_architectures
from fbn_deploy.progress import Reporter
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import decisions_of_choices
from fbn_deploy.supernet.costs import cost_table
from fbn_deploy.supernet.supernet import Supernet

if TYPE_CHECKING:
    import onnx_ir

    from fbn_deploy.latency.counting import Deployed

PROBES = 60
FP32 = Form()


@dataclass(frozen=True)
class Parts:
    """An inventory with what its graphs are made from."""

    inventory: Inventory
    composition: Counting
    _blocks: dict[str, onnx_ir.Model]
    _probes: dict[str, Architecture]
    _folded: Deployed
    _form: Form

    def folded(self, name: str) -> onnx_ir.Model:
        """The fp32 graph of that name (see ``Inventory``)."""
        known = self._blocks.get(name)
        return known if known is not None else self._folded(self._probes[name])

    def model(self, name: str) -> onnx_ir.Model:
        """The graph of that name, as it will be deployed."""
        return self._form.of(self.folded(name))

    def network(self, name: str) -> Network:
        """The same for a meter."""
        return network_from(self.model(name))


def parts_of(
    supernet: Supernet,
    folded: Deployed,
    batch: int,
    reporter: Reporter,
    *,
    form: Form = FP32,
    probes: int = PROBES,
) -> Parts:
    """Cuts ``probes`` networks, and some in which every option stands, into their blocks.

    ``folded`` gives the folded fp32 graph of an architecture at that batch. Graphs are cut in
    fp32; then blocks and networks take their ``form`` one by one.
    """
    space, costs = supernet.space, cost_table(supernet)
    counting = Counting(decisions_of_choices(supernet.network), folded)
    chosen = probe_architectures(space, probes)
    covering = [each for each in covering_architectures(space) if each not in chosen]
    blocks: dict[str, Block] = {}
    models: dict[str, onnx_ir.Model] = {}
    graphs: dict[str, Graph] = {}
    found: list[Probe] = []
    title = "Cutting the space into blocks"
    with reporter.task(title, len(chosen) + len(covering), "networks") as task:
        for number, architecture in enumerate([*chosen, *covering]):
            model = folded(architecture)
            cuts = counting.cut(architecture, model)
            for cut in cuts:
                key = cut.block.key
                if key not in blocks:
                    blocks[key], models[key] = cut.block, block_model(cut)
                    graphs[key] = _graph(form.of(models[key]))
            if number < len(chosen):
                graphs[probe_name(number)] = _graph(form.of(model))
                text, flops = space.text(architecture), costs.flops(architecture)
                found.append(Probe(text, flops, Composition(blocks_of(cuts), seams_of(model))))
            task.update(number + 1, f"{len(blocks)} blocks")
    if counting.adds_up:
        found = [replace(each, composition=Composition(each.composition.blocks)) for each in found]
    inventory = Inventory(
        space=supernet.definition.as_json(),
        num_classes=supernet.num_classes,
        batch=batch,
        precision=form.precision,
        unsigned=form.unsigned,
        bn=supernet.bn,
        blocks=blocks,
        probes=tuple(found),
        graphs=graphs,
    )
    named = {probe_name(number): each for number, each in enumerate(chosen)}
    return Parts(inventory, counting, models, named, folded, form)


def _graph(model: onnx_ir.Model) -> Graph:
    network = network_from(model)
    return Graph(network.hash, network.input_shapes(1))
