"""What a search aims at under a latency budget: a little less than the budget itself.

A winner is held to its worst round in any of three processes, and to a slow day
(``latency/meter.py``); a candidate's cost is a median, or predicted from medians that are minutes
old. Candidates just below the budget would therefore be scored and then fail one after the other,
at several seconds each. So one surveyed network near the budget is measured with care first, and
candidates are held to as much more than their cost as that one took; and to what care adds to
that network's own median at least, since its cost may be one that was predicted too long. (Where
that was so by 6 %, 26 candidates were measured with care in vain.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fbn_deploy.pipeline.latency import Latency
from fbn_deploy.progress import Reporter
from fbn_deploy.search.budgets import Budget
from fbn_deploy.search.candidates import Costs
from fbn_deploy.space import Architecture

if TYPE_CHECKING:
    from fbn_deploy.latency.counting import Deployed

MOST = 1.25  # more would be a moment of the machine, not a margin


def aimed(budgets: Sequence[Budget], stretch: Mapping[str, float]) -> tuple[Budget, ...]:
    """What candidates' costs are held against: each budget over its stretch, to four digits."""
    return tuple(
        replace(budget, limit=float(f"{budget.limit / stretch[budget.cost]:.4g}"))
        if stretch.get(budget.cost, 1.0) > 1.0
        else budget
        for budget in budgets
    )


def stretches(
    budgets: Sequence[Budget],
    surveyed: Sequence[tuple[Architecture, Costs]],
    latencies: Mapping[str, Latency],
    deployed: Deployed,
    reporter: Reporter,
) -> dict[str, float]:
    """Cost name → what a careful measurement gives for one surveyed network, as a multiple of its
    cost: from 1 to 1.25. For latencies on targets that are here; 1 where somebody else computed on
    the core all the while."""
    here = [each for each in budgets if each.target and latencies[each.target].meter]
    found: dict[str, float] = {}
    if not here:
        return found
    with reporter.task("What can be promised here", len(here), "networks") as task:
        for number, budget in enumerate(here, 1):
            found[budget.cost] = _stretch(budget, surveyed, latencies, deployed)
            task.update(number)
    for budget in here:
        (aim,) = aimed([budget], found)
        if aim != budget:
            reporter.say(
                f"Measured with care, a network takes {found[budget.cost]:.3f} times as long here: "
                f"candidates of up to {aim.text} are looked for."
            )
    return found


def _stretch(
    budget: Budget,
    surveyed: Sequence[tuple[Architecture, Costs]],
    latencies: Mapping[str, Latency],
    deployed: Deployed,
) -> float:
    assert budget.target is not None, "A latency budget without a target."
    meter = latencies[budget.target].meter
    assert meter is not None, "Only a target that is here is measured on."
    architecture, costs = min(
        surveyed, key=lambda each: abs(math.log(each[1][budget.cost] / budget.limit))
    )
    # Taken as it is stored, a crowd too: a search that was killed finds the same again.
    model = deployed(architecture)
    confirmation = meter.confirm_in_fresh_process(model, processes=1, renewed=False)
    if confirmation.crowded_out:
        return 1.0
    careful_ms = confirmation.upper_ms
    if confirmation.disturbed:  # its worst round is the disturbance's
        careful_ms = confirmation.value_ms * confirmation.slowdown
    added = careful_ms / confirmation.value_ms
    return min(MOST, max(1.0, added, careful_ms / costs[budget.cost]))
