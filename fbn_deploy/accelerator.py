"""Where PyTorch computes: the GPU of this process, if it sees one."""

from __future__ import annotations

import torch


def compute_device() -> torch.device:
    """Where networks are trained and scored. Of several GPUs the one that is set for this process
    (``distributed.py``)."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
