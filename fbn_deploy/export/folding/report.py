"""What folding did, in words and numbers: nothing is absorbed, kept or skipped in silence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Absorbed:
    """An affine node that is gone: where its scale and its shift went."""

    node: str
    op_type: str
    scale_into: str
    shift_into: tuple[str, ...]


@dataclass(frozen=True)
class Stayed:
    """A scale or a shift that could not be removed; ``node`` does it now."""

    node: str
    from_node: str
    scale: bool
    shift: bool
    channels: int
    elements: int
    """Numbers of one image's tensor that it touches."""
    scale_reason: str | None
    shift_reason: str | None


@dataclass(frozen=True)
class LeftAlone:
    """Nodes that let no gauge pass, or that were not looked into, and why."""

    op_type: str
    count: int
    reason: str


@dataclass(frozen=True)
class FoldReport:
    """The result of one folding.

    ``elementwise_*`` count BatchNormalization, Add, Sub, Mul and Div nodes and the depthwise
    1×1 convolutions that hold what stayed. ``gauge`` are the smallest and largest |D|.
    ``max_error`` is the largest relative error (maximum norm of the difference over maximum norm
    of the output) that the check in ONNX Runtime found, None where it did not run;
    ``check`` says how it was run, or why not.
    """

    batchnorm_before: int
    batchnorm_after: int
    nodes_before: int
    nodes_after: int
    elementwise_before: int
    elementwise_after: int
    absorbed: tuple[Absorbed, ...] = ()
    stayed: tuple[Stayed, ...] = ()
    walls: tuple[LeftAlone, ...] = ()
    subgraphs: tuple[LeftAlone, ...] = ()
    gauge: tuple[float, float] = (1.0, 1.0)
    equalized: bool = False
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    max_error: float | None = None
    check: str = "not run"

    @property
    def elementwise_added(self) -> int:
        """Nodes that scale or shift in the folded graph to hold what stayed."""
        return len(self.stayed)

    @property
    def scales_stayed(self) -> int:
        return sum(item.scale for item in self.stayed)

    @property
    def shifts_stayed(self) -> int:
        return sum(item.shift for item in self.stayed)

    def as_json(self) -> dict[str, Any]:
        """The report as ``--report`` writes it."""
        return {
            "schema": SCHEMA,
            "batchnorm": {"before": self.batchnorm_before, "after": self.batchnorm_after},
            "nodes": {"before": self.nodes_before, "after": self.nodes_after},
            "elementwise": {
                "before": self.elementwise_before,
                "after": self.elementwise_after,
                "added": self.elementwise_added,
            },
            "scales_stayed": self.scales_stayed,
            "shifts_stayed": self.shifts_stayed,
            "absorbed": [vars(item) for item in self.absorbed],
            "stayed": [vars(item) for item in self.stayed],
            "walls": [vars(item) for item in self.walls],
            "subgraphs": [vars(item) for item in self.subgraphs],
            "gauge": {"min": self.gauge[0], "max": self.gauge[1]},
            "equalized": self.equalized,
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 4),
            "check": {"max_relative_error": self.max_error, "how": self.check},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FoldReport:
        """The report that ``as_json`` wrote."""
        return cls(
            batchnorm_before=value["batchnorm"]["before"],
            batchnorm_after=value["batchnorm"]["after"],
            nodes_before=value["nodes"]["before"],
            nodes_after=value["nodes"]["after"],
            elementwise_before=value["elementwise"]["before"],
            elementwise_after=value["elementwise"]["after"],
            absorbed=tuple(
                Absorbed(**{**item, "shift_into": tuple(item["shift_into"])})
                for item in value["absorbed"]
            ),
            stayed=tuple(Stayed(**item) for item in value["stayed"]),
            walls=tuple(LeftAlone(**item) for item in value["walls"]),
            subgraphs=tuple(LeftAlone(**item) for item in value["subgraphs"]),
            gauge=(value["gauge"]["min"], value["gauge"]["max"]),
            equalized=value["equalized"],
            warnings=tuple(value["warnings"]),
            seconds=value["seconds"],
            max_error=value["check"]["max_relative_error"],
            check=value["check"]["how"],
        )

    def summary(self) -> str:
        """The report in a few lines for the terminal."""
        lines = [
            f"BatchNormalization {self.batchnorm_before} → {self.batchnorm_after}, "
            f"nodes {self.nodes_before} → {self.nodes_after}",
            f"{len(self.absorbed)} scale-and-shift nodes absorbed, {len(self.stayed)} stayed "
            f"({self.scales_stayed} with a scale, {self.shifts_stayed} with a shift)",
        ]
        reasons: Counter[str] = Counter()
        for item in self.stayed:
            reasons.update(r for r in (item.scale_reason, item.shift_reason) if r)
        lines += [f"  {count} × {reason}" for reason, count in reasons.most_common(8)]
        lines += [f"  left alone: {w.count} × {w.op_type}: {w.reason}" for w in self.subgraphs]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        error = "not checked" if self.max_error is None else f"{self.max_error:.1e}"
        lines.append(f"largest relative error {error} ({self.check}), {self.seconds:.2f} s")
        return "\n".join(lines)
