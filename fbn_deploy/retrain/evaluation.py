"""Accuracy of a network on a split, and of the classifier that knows nothing."""

from __future__ import annotations

import torch
from torch import nn

from fbn_deploy.data import ImageData, Split, eval_batches
from fbn_deploy.distributed import ALONE, Job


@torch.inference_mode()
def accuracy(
    network: nn.Module, data: ImageData, split: Split, batch_size: int = 256, job: Job = ALONE
) -> float:
    """Top-1 accuracy of ``network`` on ``split``, between 0 and 1; the processes of a job share
    the images."""
    training, device = network.training, next(network.parameters()).device
    own = torch.arange(job.rank, len(split), job.size)
    network.eval()
    try:
        correct = torch.zeros(1, dtype=torch.int64)
        for images, labels in eval_batches(data, split.only(own), batch_size):
            found = network(images.to(device)).argmax(1).cpu()
            correct += (found == labels).sum()
        return int(job.sum_(correct)) / len(split)
    finally:
        network.train(training)


def trivial_accuracy(data: ImageData, split: Split) -> float:
    """Accuracy on ``split`` of always answering the most frequent training class."""
    most_frequent = data.full_train.labels.bincount().argmax()
    return float((split.labels == most_frequent).double().mean())
