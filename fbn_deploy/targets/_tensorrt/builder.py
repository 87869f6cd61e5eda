"""The other end of ``worker.py``: starts it, asks it, and says what became of it."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fbn_deploy import processes
from fbn_deploy.errors import FBNError
from fbn_deploy.targets._engines import EngineOptions, Progress
from fbn_deploy.targets._tensorrt import frames
from fbn_deploy.targets._tensorrt.building import CannotParseError
from fbn_deploy.targets._tensorrt.package import Package

_WORKER = "fbn_deploy.targets._tensorrt.worker"
_END_S = 5.0


@dataclass(frozen=True)
class BuiltEngine:
    """A serialised engine (``plan``) and what the worker says of it (see ``worker.py``)."""

    plan: bytes
    story: dict[str, Any]


class BuilderProcess:
    """Builds engines with ``package``, one at a time, in a process that is started when it is
    first needed and again after it died."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None

    def build(
        self,
        model: bytes | Path,
        options: EngineOptions,
        *,
        timing_cache: Path | None = None,
        progress: Progress | None = None,
    ) -> BuiltEngine:
        """Builds ``model``. Raises ``CannotParseError`` with the parser's reason, and
        ``FBNError`` with the builder's, or with what killed it."""
        request = {
            "model": str(model) if isinstance(model, Path) else None,
            "options": dataclasses.asdict(options),
            "timing_cache": str(timing_cache) if timing_cache else None,
        }
        content = b"" if isinstance(model, Path) else model
        with self._lock:
            try:
                return self._answered(request, content, progress)
            except FBNError:
                raise
            except BaseException:  # interrupted: the next answer would be to this request
                self.stop()
                raise

    def _answered(
        self, request: dict[str, Any], content: bytes, progress: Progress | None
    ) -> BuiltEngine:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            frames.send(process.stdin, request, content)  # type: ignore[arg-type]
        while True:
            frame = frames.receive(process.stdout)  # type: ignore[arg-type]
            if frame is None:
                raise FBNError(self._death(request["timing_cache"]))
            story, plan = frame
            if "progress" in story:
                if progress is not None:
                    progress(story["progress"])
            elif "error" in story:
                kind = CannotParseError if story["kind"] == "parse" else FBNError
                raise kind(story["error"])
            else:
                return BuiltEngine(plan, story)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.stop()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            processes.command(_WORKER, self._package.module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=processes.environment(),
            start_new_session=True,  # Ctrl-C is for this program; the worker ends with it
        )
        atexit.register(self.stop)
        return self._process

    def _death(self, timing_cache: str | None) -> str:
        """What became of the worker, which ended without an answer."""
        assert self._process is not None
        assert self._stderr is not None
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        self.stop()
        said = f": {lines[-1]}" if lines else ""
        if code == -signal.SIGKILL:
            return (
                f"The {self._package.label} builder was killed, most likely because memory ran "
                f"out{said}. Free some, or build with a smaller --workspace or batch."
            )
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        cache = f" If it happens again, delete {timing_cache}." if timing_cache else ""
        return f"The {self._package.label} builder died ({how}){said}.{cache}"

    def stop(self) -> None:
        """Ends the process if there is one; the next build starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(_END_S)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            atexit.unregister(self.stop)
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None
