"""What targets do that build an *engine*: a file for one runtime, made ahead of time from ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fbn_deploy.errors import FBNError
from fbn_deploy.targets._protocol import Target

HARDWARE = ("this", "same-capability", "ampere-plus")
MAX_OPTIMIZATION_LEVEL = 5
Progress = Callable[[str], None]
"""Told what the builder is at, in its own words."""
Check = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built. Raises ``FBNError`` when two wishes exclude each other."""

    batch: int = 1
    """The batch that the engine is tuned for; the only one that it takes without ``max_batch``."""
    max_batch: int | None = None
    """With it, the engine takes every batch from 1 to this one."""
    optimization_level: int = 3
    """0: builds fastest; 5: looks longest for fast kernels. 3 is TensorRT's default."""
    workspace_mb: int | None = None
    """Device memory that a kernel may use for intermediate results; None: all there is."""
    version_compatible: bool = False
    """Runs on later versions of the same major version too; a little slower."""
    hardware: str = "this"
    """Where it runs: ``this`` kind of GPU, every GPU of the ``same-capability``, or
    ``ampere-plus``: Ampere and later; the more, the slower."""

    def __post_init__(self) -> None:
        wrong = []
        if self.batch < 1:
            wrong.append(f"a batch is at least 1, not {self.batch}")
        if self.max_batch is not None and self.max_batch < self.batch:
            wrong.append(f"the largest batch {self.max_batch} is below the batch {self.batch}")
        if not 0 <= self.optimization_level <= MAX_OPTIMIZATION_LEVEL:
            wrong.append(
                f"optimisation levels are 0 to {MAX_OPTIMIZATION_LEVEL}, "
                f"not {self.optimization_level}"
            )
        if self.workspace_mb is not None and self.workspace_mb < 1:
            wrong.append(f"a workspace is at least 1 MB, not {self.workspace_mb}")
        if self.hardware not in HARDWARE:
            wrong.append(f"hardware is one of {', '.join(HARDWARE)}, not {self.hardware!r}")
        if wrong:
            raise FBNError(f"The engine cannot be built like this: {'; '.join(wrong)}.")


DEFAULT_OPTIONS = EngineOptions()


@dataclass(frozen=True)
class EngineReport:
    """An engine that was built and lies under its name."""

    path: Path
    story: dict[str, Any]
    """What the JSON file beside it holds: versions, GPU, hashes, options, layers, warnings."""

    @property
    def seconds(self) -> float:
        """Building took so long."""
        seconds: float = self.story["build"]["seconds"]
        return seconds

    @property
    def memory_bytes(self) -> dict[str, int]:
        """Device memory for ``activation`` (intermediate results) and ``weights``, where the
        builder says it."""
        memory: dict[str, int] = self.story["build"].get("memory_bytes", {})
        return memory

    @property
    def warnings(self) -> list[str]:
        """What the builder warned of, each once."""
        warnings: list[str] = self.story["build"]["warnings"]
        return warnings


@runtime_checkable
class EngineBuilder(Target, Protocol):
    """A target that builds engines."""

    def cannot_build(self) -> str | None:
        """None when engines can be built here, be it without a GPU; else the reason and the
        command that mends it."""
        ...

    def check_options(self, options: EngineOptions) -> None:
        """Raises ``FBNError`` for options that this target has not."""
        ...

    def engine_path(self, model: Path) -> Path:
        """``model.<target>.engine`` beside ``model.onnx``."""
        ...

    def engine_from_onnx(
        self,
        model: Path,
        destination: Path,
        *,
        precision: str = "fp32",
        options: EngineOptions = DEFAULT_OPTIONS,
        progress: Progress | None = None,
        check: Check | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> EngineReport:
        """Builds ``destination`` and the JSON beside it, whole or not at all.

        ``check`` is handed the engine under a temporary name and may refuse it by raising; what
        it returns is written into the story as ``verification``. ``about`` is what else the
        story says: how the engine is fed. Raises ``FBNError`` for a model that the target cannot
        build, and when the builder fails or dies. Whatever is raised, nothing is changed.
        """
        ...
