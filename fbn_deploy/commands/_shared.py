"""What commands have in common: the run directory opened, the result printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbn_deploy.distributed import Job, join, num_processes, this_rank
from fbn_deploy.errors import FBNError
from fbn_deploy.rundir import RunDir

if TYPE_CHECKING:
    from fbn_deploy.pipeline.context import Check, Context, Given
    from fbn_deploy.space import SearchSpace

_unnamed: list[str] = []  # how to name the run that this command began under a name of ours


def opened(
    run: Path | None,
    given: Given,
    *,
    quiet: bool,
    together: bool = False,
    check: Check | None = None,
) -> Context:
    """The run directory of a command that may begin one, if ``check`` agrees; it is the command's
    alone until that ends. ``together``: several processes may run the command as one job."""
    from fbn_deploy.pipeline.context import default_run, open_run
    from fbn_deploy.progress import reporter

    job = _job(together)
    path = Path(job.share(str(run or default_run())))
    _claim_begun(path, job)

    def check_and_claim(context: Context, space: SearchSpace) -> None:
        if check is not None:
            check(context, space)
        context.run.claim()  # of a run that begins: nothing was written before

    context = open_run(
        path, given, reporter(quiet or not job.is_first), job=job, check=check_and_claim
    )
    if run is None:
        _unnamed.append(f"--run {path}" if job.size == 1 else f"--run-dir {path}")
        if job.is_first:
            print(f"Run directory: {path}", file=sys.stderr, flush=True)
    return context


def with_run(message: str) -> str:
    """``message`` with the run to name where it advises the same command and that named none: given
    again as it was, it would begin another run."""
    if not _unnamed:
        return message
    return message.replace("same command", f"same command with {_unnamed[-1]}")


def existing(run: Path, data: str | None, *, quiet: bool, together: bool = False) -> Context:
    """The run directory of a command that goes on from what is in it, which is the command's alone
    until that ends. ``data``: where its images are now, if that was said."""
    from fbn_deploy.pipeline.context import Given, open_run
    from fbn_deploy.progress import reporter

    job = _job(together)
    _claim_begun(run, job)
    shown = reporter(quiet or not job.is_first)
    return open_run(run, Given(data=data), shown, create=False, job=job)


def _claim_begun(path: Path, job: Job) -> None:
    """Claims the run in ``path``, if there is one; of a job the first process, which writes."""
    run = RunDir(path)
    if job.is_first and run.run.exists():
        run.claim()


def _job(together: bool) -> Job:
    if not together and num_processes() > 1:
        raise FBNError(
            f"torchrun started {num_processes()} processes, but this command runs in one; "
            "train, search and retrain can share their work."
        )
    return join()


def show(json_output: bool, value: Any, shown: Any) -> None:
    """``value`` as the one JSON object on stdout, or ``shown`` (text, or a table) for people. Of
    several processes the first one prints."""
    if this_rank() > 0:
        return
    if json_output:
        print(json.dumps(value, indent=1, ensure_ascii=False))
        return
    if isinstance(shown, str):
        print(shown)
        return
    from rich.console import Console

    Console().print(shown, highlight=False)
