"""A file computed as it is written, whatever kernels would make of it."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import nn

from fbn_deploy.export.graph import onnx_from_module
from fbn_deploy.export.precision import typed_bf16, typed_fp16
from fbn_deploy.export.precision.as_written import AsWritten


def test_as_written_every_tensor_is_rounded_to_its_16_bits() -> None:
    """To the last bits what PyTorch computes in these types, where ONNX Runtime stays in 32."""
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten())
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = onnx_from_module(network.eval(), 8)
    with torch.no_grad():
        exact = network(images)
        for precision, typed, dtype, bits in (
            ("fp16", typed_fp16, torch.float16, 11),
            ("bf16", typed_bf16, torch.bfloat16, 8),
        ):
            model = ir.to_proto(typed(graph)).SerializeToString()
            with AsWritten().open(model, batch=2, threads=1, precision=precision) as session:
                found = torch.from_numpy(session.run({"images": images.numpy()})["logits"])
            scale = float(exact.abs().max())
            half = network.to(dtype)(images.to(dtype)).float()
            network.float()
            assert torch.equal(found, found.to(dtype).float())
            assert float((found - half).abs().max()) <= 2 * scale * 2.0**-bits
            assert 0 < float((found - exact).abs().max()) <= 8 * scale * 2.0**-bits
