"""Whole networks with random BatchNorm parameters: folded agrees with unfolded.

The reference is PyTorch in double precision. A network whose own rounding in float32 is larger
than the tolerance is held to that rounding instead. The exhaustive runs (200 architectures a
space, the zoo) are in ``benchmarks/folding_exactness.py``, which shares these functions.
"""

from __future__ import annotations

import random

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torchvision
from torch import nn

from fbn_deploy.export.folding import FoldReport, fold_affine
from fbn_deploy.export.folding.check import session
from fbn_deploy.export.graph import closed, onnx_from_module, onnx_from_supernet
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import select_path
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import Supernet, build_supernet

TOLERANCE = 1e-5
torch.set_num_threads(1)


def randomize_batchnorms(module: nn.Module, seed: int, kind: str = "wild") -> nn.Module:
    """``wild``: γ of both signs and zero, σ over four orders of magnitude, γ / σ with a mean square
    of 1 so that deep networks do not overflow; ``trained``: all γ positive, σ near 1."""
    draw = torch.Generator().manual_seed(seed)
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            n = m.num_features
            normal = [torch.randn(n, generator=draw) for _ in range(3)]
            uniform = [torch.rand(n, generator=draw) for _ in range(2)]
            with torch.no_grad():
                m.bias.copy_(0.5 * normal[0])
                m.running_mean.copy_(0.5 * normal[1])
                if kind == "wild":
                    m.weight.copy_(normal[2] * (uniform[0] > 0.1))
                    m.running_var.copy_(10 ** (8 * uniform[1] - 4))  # σ from 1e-2 to 1e2
                    s = m.weight / (m.running_var + m.eps).sqrt()
                    m.weight /= s.square().mean().sqrt()
                else:
                    m.weight.copy_(0.5 + uniform[0])
                    m.running_var.copy_(0.5 + uniform[1])
    return module.eval()


def errors(
    module: nn.Module, unfolded: ir.Model, resolution: int, **options
) -> tuple[float, float, FoldReport]:
    """Relative errors of the folded and of the unfolded graph against double precision."""
    folded, report = fold_affine(unfolded, **options)
    x = torch.randn(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        exact = module.double()(x.double()).numpy()
    module.float()
    found = []
    for model in (folded, unfolded):
        run = session(ir.to_proto(model).SerializeToString(), optimized=model is folded)
        (y,) = run.run(None, {"images": x.numpy()})
        found.append(float(np.max(np.abs(y - exact)) / np.max(np.abs(exact))))
    return found[0], found[1], report


def is_exact(folded: float, unfolded: float) -> bool:
    """Two float32 runs that round differently differ by their rounding, a few times over."""
    return folded <= max(TOLERANCE, 4 * unfolded)


class Candidates:
    """A fair supernet with random BatchNorms, exported once; its architectures are closed."""

    def __init__(self, space: str, resolution: int, kind: str, **options) -> None:
        self.resolution = resolution
        self.supernet: Supernet = build_supernet(definition(space, resolution, options), 10)
        randomize_batchnorms(self.supernet.network, 0, kind)
        self.graph = onnx_from_supernet(self.supernet, 2)

    def architecture(self, seed: int) -> Architecture:
        return self.supernet.space.sample(random.Random(seed))

    def errors(self, seed: int, **options) -> tuple[float, float, FoldReport]:
        architecture = self.architecture(seed)
        select_path(self.supernet.network, architecture)
        graph = closed(self.graph, architecture)
        return errors(self.supernet.network, graph, self.resolution, **options)


@pytest.fixture(scope="module", params=["wild", "trained"])
def cells(request) -> Candidates:
    return Candidates("nasbench201", 16, request.param, channels=8, cells=1)


@pytest.fixture(scope="module")
def mobilenets() -> Candidates:
    return Candidates("mobilenet", 32, "wild", width=0.25, depth=2, squeeze_excite=True)


@pytest.mark.parametrize("seed", range(8))
def test_nasbench201_networks_compute_the_same(cells, seed):
    folded, unfolded, report = cells.errors(seed)
    assert is_exact(folded, unfolded)
    assert report.batchnorm_after == 0


def test_a_graph_that_is_given_away_folds_to_the_same_and_leaves_the_supernet_as_it_was(cells):
    graphs = []
    for copy in (True, False, True):
        graph = closed(cells.graph, cells.architecture(0))
        folded, _ = fold_affine(graph, copy=copy)
        graphs.append(ir.to_proto(folded).SerializeToString(deterministic=True))
    assert graphs[0] == graphs[1] == graphs[2]


@pytest.mark.parametrize("seed", range(8))
def test_mobilenets_compute_the_same_and_keep_only_channels_that_s_stops(mobilenets, seed):
    folded, unfolded, report = mobilenets.errors(seed)
    assert is_exact(folded, unfolded)
    assert report.batchnorm_after == 0
    assert report.shifts_stayed == 0
    assert all("s = 0" in item.scale_reason for item in report.stayed)


def test_equalised_networks_compute_the_same(cells):
    folded, unfolded, report = cells.errors(5, equalize=True)
    assert is_exact(folded, unfolded)
    assert report.equalized


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5"])
def test_the_zoo_computes_the_same_and_keeps_nothing(name):
    torch.manual_seed(0)
    module = randomize_batchnorms(getattr(torchvision.models, name)(weights=None), 0)
    folded, unfolded, report = errors(module, onnx_from_module(module, 64), 64)
    assert is_exact(folded, unfolded)
    assert not report.stayed


class RepVGG(nn.Module):
    """A training-form block: 3×3, 1×1 and identity, each with a BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.three = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.one = nn.Conv2d(channels, channels, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, c = self.norms
        return torch.relu(a(self.three(x)) + b(self.one(x)) + c(x))


class Preactivation(nn.Module):
    """BatchNorm and Relu before each convolution, a plain identity beside them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


@pytest.mark.parametrize("block", [RepVGG, Preactivation])
def test_blocks_with_their_batchnorm_elsewhere_keep_nothing_after_training(block):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), *(block(8) for _ in range(3))]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    module = randomize_batchnorms(nn.Sequential(*layers, *end), 0, "trained")
    folded, unfolded, report = errors(module, onnx_from_module(module, 16), 16)
    assert is_exact(folded, unfolded)
    assert not report.stayed


@pytest.mark.parametrize("name", ["resnetv2_50", "repvgg_a0"])
def test_timm_models_with_their_batchnorm_elsewhere_compute_the_same(name):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    options = {"norm_layer": nn.BatchNorm2d} if name == "resnetv2_50" else {}
    module = randomize_batchnorms(timm.create_model(name, **options), 0, "trained")
    folded, unfolded, _ = errors(module, onnx_from_module(module, 64), 64)
    assert is_exact(folded, unfolded)
