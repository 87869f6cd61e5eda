"""What PyTorch does on an NVIDIA GPU: scores, trials and training (``make test-gpu``)."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from test_pipeline import QUICK, TINY, fbn

from fbn_deploy.data import load_data
from fbn_deploy.indicators import Scoring, indicators_of, probe_batches
from fbn_deploy.retrain.trial import LOSS, Trial, TrialSettings
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import build_supernet
from fbn_deploy.targets import targets

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU"),
]


@pytest.mark.parametrize("space", ["nasbench201", "mobilenet", "nasbench_macro"])
def test_scores_are_those_of_the_processor(space: str) -> None:
    chosen = definition(space, 16 if space == "nasbench201" else 32).proxy
    supernet = build_supernet(chosen, 10, seed=0)
    probe = probe_batches(
        load_data(resolution=chosen.resolution, seed=0), batches=2, batch_size=32, seed=0
    )
    names = list(dict.fromkeys([*indicators_of("cpi"), *indicators_of("cpi-paper")]))
    rng = random.Random(0)
    architectures = [supernet.space.sample(rng) for _ in range(4)]
    on_cpu = [Scoring(supernet, probe, names)(each) for each in architectures]
    supernet.network.to("cuda")
    on_gpu = [Scoring(supernet, probe, names)(each) for each in architectures]
    for found, expected in zip(on_gpu, on_cpu, strict=True):
        assert found == pytest.approx(expected, rel=0.02, abs=1e-4)
    assert on_gpu == [Scoring(supernet, probe, names)(each) for each in architectures]


def test_a_trial_repeats_to_the_bit() -> None:
    chosen = definition("nasbench201", 32, {"channels": 8})
    trial = Trial(chosen, load_data(resolution=32, seed=0), TrialSettings(steps=20))
    space = chosen.search_space(chosen.network(10, 0))
    architecture = space.sample(random.Random(0))
    first = trial(architecture)[LOSS]
    assert 0 < first < 3
    assert trial(architecture)[LOSS] == first


def test_deploy_ends_with_a_verified_model(tmp_path: Path) -> None:
    known = {each.name: each for each in targets()}
    if problem := known["onnxruntime-cuda"].missing():
        pytest.skip(f"onnxruntime-cuda: {problem}")
    done = fbn("deploy", *TINY, *QUICK, "--target", "onnxruntime-cuda", "--latency-budget", "50ms",
               "--retrain-epochs", "1", "--run", str(tmp_path), "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert all(each["passed"] for each in summary["verification"]["results"])
    profile = json.loads((tmp_path / "profile.json").read_text())
    assert profile["latency"]["value_ms"] < 50
