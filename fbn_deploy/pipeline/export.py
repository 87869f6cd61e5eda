"""The stage that ends with a folded ONNX file that was held against the trained network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import onnx_from_module
from fbn_deploy.export.metadata import described, feeding
from fbn_deploy.export.verification import Verification, verify
from fbn_deploy.files import replacing, sha256_of, write_json
from fbn_deploy.pipeline.context import Context
from fbn_deploy.rundir import RunDir
from fbn_deploy.targets import Target

SCHEMA = 1


def export_subnet(
    context: Context,
    network: nn.Module,
    targets: Sequence[Target],
    *,
    as_convolution: bool = True,
) -> dict[str, Any]:
    """Writes ``model.onnx``, ``fold.json`` and ``verify.json``; the content of the last.

    ``as_convolution`` is the form of what folding leaves (``fold_affine``).

    The file is verified under a temporary name on every target in ``targets`` and takes its own
    name only then. Raises ``FBNError`` when a verification fails; then no file is left.
    """
    run, reporter = context.run, context.reporter
    subnet_sha256 = sha256_of(run.subnet)
    reporter.say("Exporting to ONNX and folding BatchNorms away")
    exported = onnx_from_module(network, context.definition.resolution)
    folded, report = fold_affine(exported, as_convolution=as_convolution)
    with replacing(run.model) as temporary:
        ir.save(described(folded, context.data), temporary)
        results = [verify(temporary, network, context.data, context.data.test, t) for t in targets]
        for result in results:
            reporter.say(("Verified on " if result.passed else "FAILED on ") + result.text())
        if failed := [result for result in results if not result.passed]:
            raise FBNError(_failure(run, failed))
    write_json(run.fold_report, report.as_json())
    content = {
        "schema": SCHEMA,
        "model": run.model.name,
        "onnx_sha256": sha256_of(run.model),
        "subnet_sha256": subnet_sha256,
        **feeding(context.data),
        "batchnorms": {"before": report.batchnorm_before, "after": report.batchnorm_after},
        "results": [result.as_json() for result in results],
    }
    write_json(run.verify, content)
    return content


def _failure(run: RunDir, failed: Sequence[Verification]) -> str:
    return (
        f"The exported network differs from the trained one, so {run.model} was not written: "
        + "; ".join(result.text() for result in failed)
    )
