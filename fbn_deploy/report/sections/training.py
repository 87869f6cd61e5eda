"""How the chosen network was trained, and what it reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fbn_deploy.report.amounts import percent, plural, seconds
from fbn_deploy.report.confidence import interval
from fbn_deploy.report.curve import curve
from fbn_deploy.report.fields import shown
from fbn_deploy.report.markup import Child, Markup, escaped, tag
from fbn_deploy.report.pieces import folded, not_done, note, pairs, text
from fbn_deploy.report.run import Run
from fbn_deploy.report.stages import missing
from fbn_deploy.report.trained import Training

TITLE = "Training"
NAMED = 12  # classes


def section(run: Run) -> Markup:
    if run.training is None:
        return escaped([*_unfinished(run), not_done(missing(run)["retrain"]), *_unreadable(run)])
    return escaped([*_trained(run.training), *_images(run), *_unreadable(run)])


def _trained(found: Training) -> Iterator[Child]:
    low, high = interval(found.accuracy, found.images)
    yield text(
        tag("b", f"{percent(found.accuracy)} top-1"),
        f" on {found.images:,} test images: with 95 % confidence between {percent(low, 1)} and "
        f"{percent(high, 1)}. Always naming the most frequent class reaches "
        f"{percent(found.trivial)}. Trained in {seconds(found.seconds)}.",
    )
    if len(found.validation) > 1:
        best = found.best_epoch
        yield curve(
            found.validation,
            title="Validation accuracy after each epoch",
            is_share=True,
            marked=best,
        )
        yield note(
            f"Validation accuracy after each epoch; the weights of epoch {best} were kept."
            if best is not None
            else "Validation accuracy after each epoch."
        )
    else:
        yield note(
            "No curve of accuracy: this recipe keeps the last weights and looks at no epoch in "
            "between (--set keep=best does).",
        )
    yield from _losses(found.losses)
    rows: list[tuple[Child, Child]] = [
        (name, shown(value)) for name, value in sorted(found.settings.items())
    ]
    yield folded("The recipe, number by number", pairs(rows))


def _unfinished(run: Run) -> Iterator[Child]:
    found = run.unfinished
    if found is None:
        return
    yield text(
        f"A training was begun and stands at step {found.step:,} after {seconds(found.seconds)}."
    )
    if len(found.validation) > 1:
        yield curve(found.validation, title="Validation accuracy so far", is_share=True)
    yield from _losses(found.losses)


def _losses(found: Sequence[tuple[int, float]]) -> Iterator[Child]:
    if len(found) > 1:
        yield curve(found, title="Training loss of each epoch")
        yield note(
            "Mean training loss of each epoch, in nats, of the images as the recipe changes them."
        )


def _images(run: Run) -> Iterator[Child]:
    name = run.search.data if run.search else run.configuration.data
    if run.images:
        counts = ", ".join(f"{number:,} {split}" for split, number in run.images.items())
        yield text(f"Images: {name}; {counts}.")
    if run.space and (classes := run.space.classes):
        more = f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
        yield text(f"{plural(len(classes), 'class', 'classes')}: ",
                   ", ".join(classes[:NAMED]), more, ".")  # fmt: skip


def _unreadable(run: Run) -> Iterator[Child]:
    if count := len(run.unreadable):
        yield folded(
            f"{plural(count, 'image')} that cannot be read, in no split",
            tag("ul", [tag("li", each) for each in run.unreadable]),
            printed=False,
        )
