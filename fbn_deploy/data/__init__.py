"""Images as batches: ``load_data`` reads them, ``train_batches`` and ``eval_batches`` serve."""

from fbn_deploy.data.batches import Batch, TrainBatches, Transform, eval_batches, train_batches
from fbn_deploy.data.dataset import ImageData, load_data
from fbn_deploy.data.splits import HeldOut, Split, sample_indices

__all__ = [
    "Batch",
    "HeldOut",
    "ImageData",
    "Split",
    "TrainBatches",
    "Transform",
    "eval_batches",
    "load_data",
    "sample_indices",
    "train_batches",
]
