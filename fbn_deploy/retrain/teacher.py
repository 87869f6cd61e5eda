"""A teacher whose answers the subnet learns beside the labels (Hinton et al. 2015).

``timm:NAME:FILE.safetensors`` is a network of timm's with local weights; ``FILE.pt2`` is a network
that ``torch.export.save`` wrote, which is handed images normalised as for the subnet. Neither runs
code of the file: ``torch.export.load`` unpickles what it finds in an archive (tensor subclasses,
custom objects, example inputs), so only archives without them are opened, and the example inputs
are left out.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import torch
from torch import nn

from fbn_deploy.data import ImageData
from fbn_deploy.errors import FBNError, unknown


class Teacher(nn.Module):
    """Normalised images of the subnet → logits, without gradients, always in evaluation mode.

    ``scale`` and ``shift``, (3, 1, 1), turn the subnet's normalisation into the teacher's.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, network: nn.Module, scale: torch.Tensor, shift: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images * self.scale + self.shift)
        return logits


def teacher(spec: str, data: ImageData, device: torch.device) -> Teacher:
    """The teacher that ``spec`` names, on ``device``, checked on two images of ``data``.

    Raises ``FBNError`` for what does not exist, is damaged, would be unpickled, or does not
    answer for the classes of ``data``.
    """
    if spec.startswith("timm:"):
        _, _, rest = spec.partition(":")
        name, colon, file = rest.partition(":")
        if not colon:
            raise FBNError(f"--teacher {spec} names no weights: timm:NAME:FILE.safetensors.")
        found = _timm_teacher(name, Path(file).expanduser(), data)
    elif spec.endswith(".pt2"):
        ones = torch.ones(3, 1, 1)
        found = Teacher(_exported(Path(spec).expanduser(), device), ones, 0 * ones)
    else:
        raise FBNError(f"--teacher is timm:NAME:FILE.safetensors or FILE.pt2, not {spec!r}.")
    found = found.to(device)
    _check(found, spec, data)
    return found


def _timm_teacher(name: str, file: Path, data: ImageData) -> Teacher:
    import timm

    from fbn_deploy.checkpoint import load_tensors

    if not timm.is_model(name):
        raise unknown("model of timm's called", name, timm.list_models())
    tensors, _ = load_tensors(file)
    with torch.random.fork_rng(devices=()):
        network = timm.create_model(name, num_classes=len(data.classes))
    own = network.state_dict()
    wrong = sorted(
        key
        for key in own.keys() | tensors.keys()
        if key not in own or key not in tensors or own[key].shape != tensors[key].shape
    )
    if wrong:
        first = wrong[0]
        there = tuple(tensors[first].shape) if first in tensors else "nothing"
        here = tuple(own[first].shape) if first in own else "nothing"
        raise FBNError(
            f"The teacher's weights in {file} do not fit {name} for {len(data.classes)} classes: "
            f"{len(wrong)} of {len(own)} tensors differ, the first is {first} ({there} there, "
            f"{here} here). A teacher has to be trained on the same classes."
        )
    network.load_state_dict(tensors)
    trained_on = network.pretrained_cfg
    mean, std = (torch.tensor(trained_on[key]).view(3, 1, 1) for key in ("mean", "std"))
    own_mean, own_std = (torch.tensor(each).view(3, 1, 1) for each in (data.mean, data.std))
    return Teacher(network.eval(), own_std / std, (own_mean - mean) / std)


def _exported(file: Path, device: torch.device) -> nn.Module:
    """The network in a ``.pt2`` archive."""
    from torch.export.passes import move_to_device_pass

    if not file.is_file():
        raise FBNError(f"There is no file {file} to read a teacher from.")
    try:
        with zipfile.ZipFile(file) as archive:
            harmless = _without_pickles(archive, file)
        program = move_to_device_pass(torch.export.load(harmless), device)
    except FBNError:
        raise
    except Exception as error:  # whatever a damaged archive makes the reader raise
        raise FBNError(
            f"{file} is damaged or no archive that torch.export.save of PyTorch 2.9 or newer "
            f"wrote ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})."
        ) from error
    network: nn.Module = program.module()
    return network


def _without_pickles(archive: zipfile.ZipFile, file: Path) -> io.BytesIO:
    """The archive with empty example inputs; refused where anything else would be unpickled."""
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as written:
        for name in archive.namelist():
            content = archive.read(name)
            inner = name.partition("/")[2]
            if inner.startswith("data/sample_inputs/"):
                content = b""
            elif inner.startswith(("data/weights/", "data/constants/")):
                if inner.endswith("_config.json"):
                    entries = json.loads(content)["config"].values()
                    if any(entry["use_pickle"] for entry in entries):
                        raise _pickled(file, inner)
                elif not inner.rpartition("/")[2].startswith(("weight_", "tensor_")):
                    raise _pickled(file, inner)
            elif not inner.startswith(
                ("models/", "archive_", "byteorder", "version", ".data/", "extra/")
            ):
                raise _pickled(file, inner)
            written.writestr(name, content)
    copy.seek(0)
    return copy


def _pickled(file: Path, name: str) -> FBNError:
    return FBNError(
        f"{file} holds {name}, which could run code when it is read; it was not opened. Export the "
        "teacher as a plain network of ordinary tensors."
    )


def _check(found: Teacher, spec: str, data: ImageData) -> None:
    images = data.normalize(data.train.batch([0, 1])).to(found.scale.device)
    try:
        logits = found(images)
    except Exception as error:
        raise FBNError(
            f"The teacher {spec} cannot answer two images of {data.resolution}×{data.resolution} "
            f"pixels ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}). "
            "A .pt2 file has to be exported with a free batch size."
        ) from error
    if logits.shape != (2, len(data.classes)):
        raise FBNError(
            f"The teacher {spec} answers {tuple(logits.shape[1:])} values an image, but "
            f"{data.name} has {len(data.classes)} classes. A teacher has to be trained on the "
            "same classes, in the same order."
        )
