"""Several processes as one job: torchrun starts them, PyTorch's own engine carries what they say.

Control messages are JSON, never pickles. Whoever is not asked to work together gets ``ALONE``,
whose operations do nothing, so that no caller asks how many there are. Files are written by the
first process only.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fbn_deploy.errors import FBNError

if TYPE_CHECKING:
    import torch

# The others wait while the first process measures latencies; a process that died is noticed by
# torchrun within a second, not by this.
PATIENCE = datetime.timedelta(days=2)


class JobEndedError(FBNError):
    """Another process of the job ended; what it had to say is the reason."""


@dataclass(frozen=True)
class Job:
    """Process ``rank`` of ``size``. All processes call the same operations in the same order.

    An operation raises ``JobEndedError`` when another process of the job has ended.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files, measures latencies and prints."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """The first process's ``value``, which JSON can hold; the others' are ignored."""
        if self.size == 1:
            return value
        import torch

        content = json.dumps(value).encode() if self.is_first else b""
        length = torch.tensor([len(content)])
        self.share_([length])
        message = torch.empty(int(length), dtype=torch.uint8)
        if self.is_first:
            message = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self.share_([message])
        return json.loads(bytes(message.tolist()))

    def share_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copies the first process's ``tensors`` over those of the others, which have their
        shapes and types."""
        if self.size > 1:
            import torch.distributed as dist

            with _explained():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def share_state(
        self, state: tuple[Mapping[str, torch.Tensor], dict[str, Any]] | None
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Tensors and JSON of the first process (a checkpoint, or None), on the CPU, at all."""
        if self.size == 1:
            return None if state is None else (dict(state[0]), state[1])
        import torch

        tensors, notes = state or ({}, None)
        shapes = [[name, list(t.shape), str(t.dtype)] for name, t in tensors.items()]
        header = self.share([shapes, notes, state is not None])
        if not header[2]:
            return None
        own = {
            name: tensors[name].cpu().contiguous()
            if self.is_first
            else torch.empty(shape, dtype=getattr(torch, kind.removeprefix("torch.")))
            for name, shape, kind in header[0]
        }
        self.share_(list(own.values()))
        return own, header[1]

    def gather(self, value: Any) -> list[Any]:
        """Every process's ``value``, which JSON can hold, by rank, at all of them."""
        if self.size == 1:
            return [value]
        import torch
        import torch.distributed as dist

        content = json.dumps(value).encode()
        lengths = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
        with _explained():
            dist.all_gather(lengths, torch.tensor([len(content)]))
            longest = int(max(lengths))
            padded = torch.frombuffer(bytearray(content.ljust(longest)), dtype=torch.uint8)
            messages = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
            dist.all_gather(messages, padded)
        return [json.loads(bytes(message.tolist())) for message in messages]

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` becomes its sum over all processes: the same bits at every one of them."""
        if self.size > 1:
            import torch.distributed as dist

            with _explained():
                dist.all_reduce(tensor)
        return tensor

    def average_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> int:
        """Averages, in one flat buffer, the gradients that there are; returns the bytes that one
        process hands over. All processes have gradients of the same parameters."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1 or not gradients:
            return 0
        import torch

        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.sum_(flat).div_(self.size)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, part in zip(gradients, torch.split(flat, sizes), strict=True):
            gradient.copy_(part.view_as(gradient))
        return flat.numel() * flat.element_size()

    def part(self, count: int, what: str) -> slice:
        """Which of ``count`` images of a batch are this process's; ``FBNError`` if they cannot be
        divided evenly."""
        if count % self.size:
            raise FBNError(
                f"{what} of {count} images cannot be divided among {self.size} processes; choose "
                f"a multiple of {self.size}."
            )
        own = count // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    @contextlib.contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first process runs the block before the others do."""
        if not self.is_first:
            self.share(None)
        yield
        if self.is_first:
            self.share(None)


ALONE = Job()


def this_rank() -> int:
    """The number that torchrun gave this process; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def num_processes() -> int:
    """How many processes torchrun started, on all machines; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> Job:
    """This process's place in the job that torchrun started, until the process ends; ``ALONE``
    without torchrun. Tensors on GPUs travel by NCCL, those on the CPU by gloo."""
    if num_processes() == 1:
        return ALONE
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            gpu, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if gpu >= gpus:
                raise FBNError(
                    f"torchrun started more processes on this machine than it has GPUs ({gpus}); "
                    f"pass --nproc-per-node {gpus}."
                )
            torch.cuda.set_device(gpu)
            backend = "cpu:gloo,cuda:nccl"
        with _explained():
            dist.init_process_group(backend, timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
    return Job(dist.get_rank(), dist.get_world_size())


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        first_line = str(error).strip().splitlines()[0][:200] if str(error).strip() else "no reason"
        raise JobEndedError(
            "Another process of the job ended or cannot be reached; its own message, or that of "
            f"torchrun, says why ({first_line}). The same command goes on from the last checkpoint."
        ) from error
