"""What the stages of a run found, in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fbn_deploy.latency.record import LatencyRecord


def winner(found: dict[str, Any], run: Path) -> str:
    """The chosen architecture of a ``search.json``, its costs, and how they were confirmed."""
    best = found["best"]
    costs = best["costs"]
    lines = [f"Best of {len(found['candidates'])} candidates: {best['text']}"]
    for target, confirmed in best["confirmed"].items():
        limit = next(b["limit"] for b in found["budgets"] if b["target"] == target)
        lines.append(
            f"Confirmed on {target}{_in(found)}: {confirmed['value_ms']:.3f} ms, at most "
            f"{confirmed['upper_ms']:.3f} ms, budget {limit:g} ms"
            + (" (the machine was disturbed)" if confirmed["disturbed"] else "")
        )
    for target, known in costs.get("latency_ms_by_target", {}).items():
        if target not in best["confirmed"]:
            low, high = known["interval"]
            lines.append(
                f"Predicted for {target}: {known['predicted']:.3f} ms ({low:.3f} to {high:.3f}). "
                "It was not measured there; after fbn retrain and fbn export, fbn report says the "
                "command that measures the file on the device."
            )
    lines.append(
        f"{costs['flops'] / 1e6:.1f} M multiply-adds, {costs['params'] / 1e6:.2f} M parameters"
    )
    return "\n".join([*lines, f"Run directory: {run}"])


def _in(found: dict[str, Any]) -> str:
    precision = found["settings"].get("precision", "fp32")  # older files do not say
    return "" if precision == "fp32" else f" in {precision}"


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


def latency(record: LatencyRecord, model: Path, found: dict[str, Any]) -> str:
    """The latency of a file, the budget of ``search.json`` that it breaks, and what disturbed its
    measurement."""
    text = f"Latency of {model}: {record.value_ms:.3f} ms"
    limit_ms = _limit_ms(record, found)
    if limit_ms is not None and record.value_ms > limit_ms:
        text += f", over the budget of {limit_ms:g} ms"
    if not record.disturbed:
        return text
    return (
        f"{text}, disturbed: {'; '.join(record.timing.disturbed)}. fbn profile {model} measures it "
        "again."
    )


def _limit_ms(record: LatencyRecord, found: dict[str, Any]) -> float | None:
    """The budget that ``record`` can be held against (``Conditions.are_of``)."""
    at = record.conditions
    lacking = {"precision": "fp32", "threads": 1, "batch": 1}  # of older files
    asked = {name: found["settings"].get(name, value) for name, value in lacking.items()}
    if not at.are_of(**asked, device=_device(at.target, found)):
        return None
    limits = [b["limit"] for b in found["budgets"] if b["target"] == at.target]
    return min(limits, default=None)


def _device(target: str, found: dict[str, Any]) -> str:
    """Where the latencies on ``target`` were measured; empty where nothing says."""
    confirmed = found["best"]["confirmed"].get(target)
    about = confirmed["records"][0] if confirmed else found.get("latency", {}).get(target, {})
    device: str = about.get("conditions", {}).get("device", "")
    return device


def engine(story: dict[str, Any], path: Path) -> str:
    """An engine, and whether it was run."""
    if story["verification"] is not None:
        return f"{verified(story['verification'])}: {path}"
    why = "no GPU here" if story["device"] is None else "as asked"
    return f"{path}: built, not run: {why}"


def precision(content: dict[str, Any], run: Path) -> str:
    """A ``verify.<precision>.json``: the file, what it kept of the accuracy, and its speed."""
    lines = [f"Verified model in {run / content['model']}"]
    timed = {
        speed["target"]: f", {speed['latency_ms']:.3f} ms (fp32 {speed['fp32_latency_ms']:.3f} ms)"
        + (", disturbed" if speed.get("disturbed") else "")
        for speed in content["speed"]
    }
    lines += [
        f"{result['target']}: top-1 {100 * result['accuracy_exported']:.2f} % "
        f"(trained network {100 * result['accuracy_trained']:.2f} %), agreement "
        f"{100 * result['top1_agreement']:.2f} %{timed.get(result['target'], '')}"
        for result in content["results"]
    ]
    if kept := content.get("kept_fp32"):
        lines.append(f"In fp32: {', '.join(kept)}")
    if content.get("activations") == "uint8":
        lines.append(
            "Activations are uint8, which ONNX Runtime runs fastest; TensorRT takes int8, which "
            "--target tensorrt writes beside this file."
        )
    if errors := content.get("sensitivity"):
        lines.append("Relative squared error of the outputs with one layer alone in int8:")
        lines += [f"  {error:.2e}  {name}" for name, error in errors.items()]
    return "\n".join(lines)
