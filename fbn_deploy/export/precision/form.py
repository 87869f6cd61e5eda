"""How a network is written for its targets, before anything is trained or calibrated.

A latency does not depend on the values of weights or ranges. So candidates of a search are measured
in the precision in which the winner will be deployed, with weights at random and every int8 range
ending at 6: there a ReLU6 cuts off as well, as with every range that calibration may find.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from fbn_deploy.export.folding import FLOAT16_LIMIT
from fbn_deploy.export.precision.placement import activations, matched
from fbn_deploy.export.precision.quantized import quantized_int8
from fbn_deploy.export.precision.typed import typed_bf16, typed_fp16
from fbn_deploy.export.ranges import Ranges

_AMAX = 6.0


@dataclass(frozen=True)
class Form:
    """``precision``; whether a shift that folding leaves is a convolution (``fold_affine``);
    whether int8 activations are unsigned, and which layers stay fp32 (``quantized_int8``)."""

    precision: str = "fp32"
    as_convolution: bool = True
    unsigned: bool = False
    keep_fp32: tuple[str, ...] = ()

    @property
    def gauge_limit(self) -> float | None:
        """What folding may stretch a channel by."""
        return FLOAT16_LIMIT if self.precision == "fp16" else None

    def of(self, folded: ir.Model) -> ir.Model:
        """A folded fp32 graph as it will be deployed, but for its values. A part of a network in
        which int8 has nothing to do stays as it is."""
        if self.precision == "fp16":
            return typed_fp16(folded)
        if self.precision == "bf16":
            return typed_bf16(folded)
        if self.precision != "int8":
            return folded
        kept = matched(folded.graph, self.keep_fp32)
        tensors = activations(folded, kept, self.unsigned)
        if not tensors:
            return folded
        ranges = Ranges(dict.fromkeys(tensors, _AMAX), {}, "none", "", "", 0)
        return quantized_int8(
            folded, ranges, keep_fp32=kept, correct_bias=False, unsigned=self.unsigned
        )
