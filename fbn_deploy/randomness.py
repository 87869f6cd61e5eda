"""Random numbers that are a function of the seed and the step, so that no state is stored."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def start_step(*key: int) -> None:
    """Starts the random numbers of PyTorch, NumPy and Python anew from ``key``: (seed, stream,
    step, process)."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextlib.contextmanager
def states_kept() -> Iterator[None]:
    """Gives the caller's random states back at the end of the block."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if started else ()):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


@contextlib.contextmanager
def reproducible(device: torch.device, seed: int) -> Iterator[None]:
    """Gradients allowed, PyTorch's random numbers anew from ``seed``, deterministic kernels in
    full single precision (no TF32) where ``device`` has them; the caller's random state and
    settings are given back."""
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.inference_mode(False),
        torch.enable_grad(),
        deterministic_kernels(tf32=False),
    ):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


@contextlib.contextmanager
def deterministic_kernels(*, tf32: bool) -> Iterator[None]:
    """Within the block a GPU's convolutions give the same numbers each time; in full single
    precision unless ``tf32``. Settings are given back."""
    cudnn = torch.backends.cudnn
    was = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = True, False, tf32
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = was
