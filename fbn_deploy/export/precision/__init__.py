"""Precision lives in the graph: typed fp16 and bf16 networks, and INT8 by Q/DQ pairs.

Fold BatchNorms in fp32 first: a BatchNorm's own numbers do not survive fp16.
"""

from fbn_deploy.export.precision.placement import activations, one_sided, quantizable
from fbn_deploy.export.precision.quantized import quantized_int8
from fbn_deploy.export.precision.typed import LARGEST_FLOAT16, typed_bf16, typed_fp16

__all__ = [
    "LARGEST_FLOAT16",
    "activations",
    "one_sided",
    "quantizable",
    "quantized_int8",
    "typed_bf16",
    "typed_fp16",
]
