"""What the stages of a run found, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def winner(found: dict[str, Any], run: Path) -> str:
    """The chosen architecture of a ``search.json``, its costs, and how they were confirmed."""
    best = found["best"]
    costs = best["costs"]
    lines = [f"Best of {len(found['candidates'])} candidates: {best['text']}"]
    for target, confirmed in best["confirmed"].items():
        limit = next(b["limit"] for b in found["budgets"] if b["target"] == target)
        lines.append(
            f"Confirmed on {target}: {confirmed['value_ms']:.3f} ms, at most "
            f"{confirmed['upper_ms']:.3f} ms, budget {limit:g} ms"
            + (" (the machine was disturbed)" if confirmed["disturbed"] else "")
        )
    lines.append(
        f"{costs['flops'] / 1e6:.1f} M multiply-adds, {costs['params'] / 1e6:.2f} M parameters"
    )
    return "\n".join([*lines, f"Run directory: {run}"])


def accuracy(results: dict[str, Any]) -> str:
    """What a retrained subnet reached, beside the trivial classifier."""
    return (
        f"Top-1 accuracy {100 * results['accuracy']:.2f} % on {results['images']} test images "
        f"(always the most frequent class: {100 * results['trivial']:.2f} %)"
    )


def verified(result: dict[str, Any]) -> str:
    """One comparison of ``verify.json``."""
    return (
        f"Verified on {result['target']}: {100 * result['accuracy_exported']:.2f} % top-1, "
        f"agreement {100 * result['top1_agreement']:.2f} % on {result['images']} images, largest "
        f"relative error {result['max_relative_error']:.1e}"
    )


def engine(story: dict[str, Any], path: Path) -> str:
    """An engine, and whether it was run."""
    if story["verification"] is not None:
        return f"{verified(story['verification'])}: {path}"
    why = "no GPU here" if story["device"] is None else "as asked"
    return f"{path}: built, not run: {why}"
