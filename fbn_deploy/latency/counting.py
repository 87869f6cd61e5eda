"""What a network consists of: cut out of its graph, or summed up over its options.

In a chain of layers an option brings the same blocks whatever stands beside it. Where all networks
cut so far bear that out, the blocks of further ones are looked up, at a thousandth of the time;
in a cell space, where ops are fused across edges or fall away, every graph is cut. Whatever is cut
has its seams as well (``composition.py``). An exception that 24 networks did not show would make a
prediction wrong, and no promise: whatever is to win is measured whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fbn_deploy.latency.blocks import Cut, Cutter
from fbn_deploy.latency.composition import Composition, blocks_of, seams_of
from fbn_deploy.space import Architecture

if TYPE_CHECKING:
    import onnx_ir

    Deployed = Callable[[Architecture], onnx_ir.Model]

LEAST_NETWORKS = 24
LEAST_SEEN = 2  # networks with an option before its blocks are looked up
_OUTSIDE = ("", "")  # what stands outside of all choices


class Counting:
    """``decisions``: module path of each choice → the decision that it follows. ``deployed`` gives
    the folded graph of an architecture."""

    def __init__(self, decisions: Mapping[str, str], deployed: Deployed) -> None:
        self._decisions, self._deployed = decisions, deployed
        self.cutter = Cutter(decisions)
        self._brings: dict[tuple[str, str], Counter[str]] = {}
        self._seen: Counter[tuple[str, str]] = Counter()
        self.adds_up = True
        """Whether every option brought the same blocks in all networks so far."""
        self.num_cut = 0

    def cut(self, architecture: Architecture, model: onnx_ir.Model) -> list[Cut]:
        """The blocks of ``architecture``, whose graph is ``model``; noted for later."""
        cuts = self.cutter(model)
        self.num_cut += 1
        found = {place: Counter[str]() for place in self._places(architecture)}
        for cut in cuts:
            option = architecture[self._decisions[cut.path]] if cut.path else ""
            found[cut.path, option][cut.block.key] += 1
        for place, blocks in found.items():
            self.adds_up &= self._brings.setdefault(place, blocks) == blocks
            self._seen[place] += 1
        return cuts

    def __call__(self, architecture: Architecture) -> Composition:
        """The composition of a network, without seams where its blocks were looked up."""
        places = self._places(architecture)
        known = self.adds_up and self.num_cut >= LEAST_NETWORKS
        if known and all(self._seen[place] >= LEAST_SEEN for place in places):
            brought = sum((self._brings[place] for place in places), Counter[str]())
            return Composition(dict(brought))
        model = self._deployed(architecture)
        return Composition(blocks_of(self.cut(architecture, model)), seams_of(model))

    def _places(self, architecture: Architecture) -> list[tuple[str, str]]:
        chosen = [(path, architecture[name]) for path, name in self._decisions.items()]
        return [_OUTSIDE, *chosen]
