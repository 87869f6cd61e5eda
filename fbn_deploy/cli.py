"""The command line: every file in ``commands/`` is a command; mistakes become one message."""

from __future__ import annotations

import io
import os
import sys
import time
from typing import Annotated

import typer

from fbn_deploy import __version__, plugins
from fbn_deploy.commands._shared import with_run
from fbn_deploy.distributed import JobEndedError, this_rank
from fbn_deploy.errors import FBNError
from fbn_deploy.stopping import Stopped, listen

PACKAGE = "fbn_deploy.commands"
# What fbn-deploy[search] brings and a device does without.
WORKSTATION = frozenset(
    ("torch", "torchvision", "onnx", "onnx_ir", "onnxscript", "fvcore", "safetensors", "sklearn",
     "scipy", "PIL", "timm", "ml_dtypes", "google")
)  # fmt: skip
# The order in which people use them; a command that is not named here follows, by name.
ORDER = (
    "train", "search", "retrain", "export", "profile", "deploy", "report", "bench", "fold",
    "bundle", "measure", "latency",
)  # fmt: skip

ENDING_S = 8.0  # torchrun stops the processes of a job a second or two after one has failed


def _app() -> typer.Typer:
    app = typer.Typer(
        name="fbn",
        help="Finds, trains and exports the best network that meets a latency budget on your "
        "device.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback(invoke_without_command=True)(_version)
    found = plugins.names(PACKAGE)
    first = [name for name in ORDER if name in found]
    for name in first + [name for name in found if name not in first]:
        module = plugins.load(PACKAGE, name, "command")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(module.command)
    return app


def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Runs a command; a person's mistake is one message on stderr and its exit code."""
    listen()
    # Spinning OpenMP barriers slow everything down when another job has the core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):  # a γ or an arrow ends no command in another encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _app()()
    except FBNError as error:
        _say(error, f"fbn: {error}")
        raise SystemExit(error.exit_code) from None
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in WORKSTATION:
            raise
        print(
            f"fbn: this command needs {error.name}, which is not installed here. Install it with "
            'pip install "fbn-deploy[search]", or run the command on a machine that has it.',
            file=sys.stderr,
        )
        raise SystemExit(FBNError.exit_code) from None
    except OSError as error:  # a disk or directory that fails where nobody expects it
        _say(error, f"fbn: {error}. Mend it and start the same command again.")
        raise SystemExit(FBNError.exit_code) from None
    except MemoryError as error:
        _say(error, f"fbn: out of memory ({error or 'no details'}). Ask for less at once.")
        raise SystemExit(FBNError.exit_code) from None
    except (Stopped, KeyboardInterrupt):  # the latter where Ctrl-C came before we listened
        print(with_run("fbn: stopped; the same command goes on from here."), file=sys.stderr)
        raise SystemExit(130) from None


def _say(error: Exception, message: str) -> None:
    """``message`` on stderr, ``with_run``. A mistake that all processes of a job make is said by
    the first, and that another process ended, by that one: torchrun stops the others while they
    wait here."""
    if (rank := this_rank()) > 0 or isinstance(error, JobEndedError):
        time.sleep(ENDING_S if isinstance(error, JobEndedError) else ENDING_S / 4)
        message = f"process {rank} of the job: {message}"
    print(with_run(message), file=sys.stderr, flush=True)
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)  # torchrun's summary quotes it
