"""Operators that let no gauge pass, each for its reason; what is not listed has no rule."""

from __future__ import annotations

_SATURATES = "it saturates at fixed values, so f(D·x) ≠ D·f(x)"
_CURVED = "it is curved, so f(D·x) ≠ D·f(x) and f(x + t) ≠ f(x) + t"
_RESCALES = "it divides by statistics of its input"
WALLS: dict[str, str] = {
    "Celu": _CURVED,
    "Elu": _CURVED,
    "Erf": _CURVED,
    "Exp": _CURVED,
    "Gelu": _CURVED,
    "GroupNormalization": _RESCALES,
    "HardSigmoid": _SATURATES,
    "HardSwish": _CURVED,
    "InstanceNormalization": _RESCALES,
    "LRN": _RESCALES,
    "LayerNormalization": _RESCALES,
    "LogSoftmax": _CURVED,
    "Mish": _CURVED,
    "Selu": _CURVED,
    "Sigmoid": _SATURATES,
    "Softmax": _CURVED,
    "Softplus": _CURVED,
    "Swish": _CURVED,
    "Tanh": _SATURATES,
    "ThresholdedRelu": "its threshold is fixed, a scale would move it",
}
