"""Engines, by the stories beside them."""

from __future__ import annotations

from fbn_deploy.report.amounts import NONE, seconds, size
from fbn_deploy.report.exported import Engine
from fbn_deploy.report.markup import Child, Markup, escaped
from fbn_deploy.report.pieces import absent, badge, doubtful, heading, listed, not_done, note, pairs
from fbn_deploy.report.run import Run
from fbn_deploy.report.sections.verification import checks_table
from fbn_deploy.report.stages import missing

TITLE = "Engines"


def section(run: Run) -> Markup:
    if not run.engines:
        return not_done(missing(run)["engine"])
    return escaped([_engine(run, engine) for engine in run.engines])


def _engine(run: Run, engine: Engine) -> Child:
    file = run.file(engine.name)
    rows: list[tuple[Child, Child]] = [
        ("size", size(file.bytes) if file else "the file is not here"),
        ("runtime", f"{engine.target} {engine.version}".strip()),
        ("built on", listed(engine.device) or "a machine without a GPU"),
        ("from", f"{engine.model}, {engine.precision}"),
        ("options", listed(engine.options) or NONE),
        ("built in", seconds(engine.seconds)),
        ("layers", f"{engine.layers:,}" if engine.layers else "not listed by the builder"),
    ]
    doubt = run.damage(engine) or run.other_source(engine)
    return [
        heading(engine.name),
        doubtful(engine.name, doubt) if doubt else None,
        pairs(rows),
        checks_table([(engine.name, engine.check)])
        if engine.check
        else absent(badge("never run", "look"), " It was built and not verified on a device."),
        [note(f"The builder warned: {warning}") for warning in engine.warnings],
    ]
