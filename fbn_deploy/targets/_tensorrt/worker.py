"""The process that builds: ``main([MODULE])``.

It reads requests from stdin and answers on stdout, one after the other, and ends when stdin does:
also in the middle of a build, when the program that started it was killed.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

from fbn_deploy import processes
from fbn_deploy.errors import FBNError
from fbn_deploy.targets._engines import EngineOptions
from fbn_deploy.targets._tensorrt import building, frames
from fbn_deploy.targets._tensorrt.package import PACKAGES, TensorRt
from fbn_deploy.targets._tensorrt.timing_cache import TimingCache

Requests = queue.SimpleQueue[tuple[dict[str, Any], bytes]]


def main(arguments: list[str]) -> int:
    """Answers requests for the package ``arguments[0]``."""
    package = PACKAGES[arguments[0]]
    answers = processes.answers()
    requests: Requests = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, requests), daemon=True).start()
    while True:
        request, content = requests.get()
        _answer(answers, package.load(), request, content)


def _read(stream: BinaryIO, requests: Requests) -> None:
    while (frame := frames.receive(stream)) is not None:
        requests.put(frame)
    os._exit(0)  # nobody waits for an answer any more


def _answer(answers: BinaryIO, trt: TensorRt, request: dict[str, Any], content: bytes) -> None:
    model = Path(request["model"]) if request["model"] else content
    cache = TimingCache(Path(request["timing_cache"])) if request["timing_cache"] else None
    try:
        built = building.built(
            trt,
            model,
            EngineOptions(**request["options"]),
            timing_cache=cache.read() if cache else None,
            progress=lambda text: frames.send(answers, {"progress": text}),
        )
        if cache:
            cache.add(trt, built.timing_cache)
    except building.CannotParseError as error:
        frames.send(answers, {"error": str(error), "kind": "parse"})
    except FBNError as error:
        frames.send(answers, {"error": str(error), "kind": "build"})
    else:
        story = {
            "seconds": built.seconds,
            "warnings": built.warnings,
            "memory_bytes": built.memory_bytes,
            "layers": [dataclasses.asdict(layer) for layer in built.layers],
        }
        frames.send(answers, story, built.plan)
