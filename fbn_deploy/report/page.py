"""The page: the verdict, then the sections in the order in which a run is done."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from types import ModuleType

from fbn_deploy import __version__
from fbn_deploy.files import write_bytes
from fbn_deploy.latency.record import utc_now
from fbn_deploy.report.markup import Markup, document, escaped, styles, tag
from fbn_deploy.report.run import Run, read_run
from fbn_deploy.report.sections import (
    architecture,
    budget,
    candidates,
    engines,
    precision,
    profile,
    records,
    reproduce,
    summary,
    training,
    verification,
)
from fbn_deploy.report.verdict import Verdict, judged
from fbn_deploy.rundir import RunDir

SECTIONS: tuple[ModuleType, ...] = (
    budget, candidates, architecture, training, verification, precision, engines, profile, records,
    reproduce,
)  # fmt: skip
# The page asks nobody for anything: no script, no font, no picture from elsewhere.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write_report(path: Path) -> tuple[Path, Run, Verdict]:
    """Writes ``report.html`` of the run in ``path``, whole or not at all; the file, what was read,
    and the verdict.

    Raises one ``FBNError`` for everything that cannot be read; then nothing is written.
    """
    run = read_run(path)
    verdict = judged(run)
    destination = RunDir(path).report
    write_bytes(destination, page(run, verdict).encode())
    return destination, run, verdict


def page(run: Run, verdict: Verdict) -> str:
    """The whole page as HTML."""
    parts = [(section.__name__.rpartition(".")[2], section) for section in SECTIONS]
    links = [tag("a", part.TITLE, href=f"#{name}") for name, part in parts]
    return document(
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("title", f"{run.name}: {verdict.headline}"),
            styles(_css()),
        ),
        tag(
            "body",
            tag("header", tag("p", "fbn report", class_="note"), tag("h1", run.name)),
            tag("main", summary.section(run, verdict), tag("nav", links), _sections(run, parts)),
            tag("footer", f"Written {utc_now()} by fbn_deploy {__version__} from {run.path}."),
        ),
    )


def _sections(run: Run, parts: list[tuple[str, ModuleType]]) -> Markup:
    return escaped(
        tag("section", tag("h2", part.TITLE), part.section(run), id=name) for name, part in parts
    )


def _css() -> str:
    return resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
