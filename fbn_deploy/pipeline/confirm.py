"""The winner of a search: the best candidate whose budgets hold when its whole network is measured.

A prediction only puts a candidate in the queue. On a target that is elsewhere nothing can be
measured; there a candidate whose interval touches the budget cannot win, and the one that wins is
not called confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fbn_deploy.errors import NothingFitsError
from fbn_deploy.latency.meter import Confirmation, LatencyMeter
from fbn_deploy.pipeline.latency import UNKNOWN_MS, Latency
from fbn_deploy.progress import Reporter
from fbn_deploy.search.budgets import Budget
from fbn_deploy.search.candidates import Candidate, Population

if TYPE_CHECKING:
    import onnx_ir

    from fbn_deploy.latency.counting import Deployed

CONFIRMED_AT_MOST = 30  # candidates measured with care before the search gives up
CROWDED_OUT_AT_MOST = 5  # of them in a crowd that did not end


def confirmed_winner(
    population: Population,
    budgets: Sequence[Budget],
    latencies: Mapping[str, Latency],
    deployed: Deployed,
    reporter: Reporter,
) -> tuple[Candidate, dict[str, Confirmation]]:
    """The best candidate that meets every latency budget, and target → its confirmation there.

    Costs are of moments without a crowd (``latency/crowding.py``). Once a candidate fails in one
    that does not end, those are passed over that would exceed the budget if they took as much
    longer than their cost as it did; so the winner's budget holds in the crowd. What failed in a
    crowd is not remembered for it: another search measures it again.

    Raises ``NothingFitsError`` when none of the best candidates meets the budgets.
    """
    limited = [budget for budget in budgets if budget.target]
    nearest: list[tuple[float, str]] = []
    crowd = _Crowd()
    careful = passed = 0
    with reporter.task("Confirming on the target", CONFIRMED_AT_MOST, "networks") as task:
        for candidate in population.best(len(population)):
            if crowd.breaks(candidate, limited):
                passed += 1
                continue
            confirmations: dict[str, Confirmation] = {}
            for budget in limited:
                over_ms = _over(candidate, budget, latencies, deployed, confirmations)
                if over_ms is not None:
                    nearest.append((over_ms / budget.limit, budget.text_of(over_ms)))
                    if failed := _crowded_out(budget, latencies, confirmations):
                        crowd.add(*failed, over_ms / candidate.costs[budget.cost], budget)
                    break
            else:
                crowd.forget()
                if passed:
                    reporter.say(_passed_text(passed, max(crowd.longer.values())))
                return candidate, confirmations
            careful += bool(confirmations)
            task.update(careful)
            if careful == CONFIRMED_AT_MOST or len(crowd.failed) == CROWDED_OUT_AT_MOST:
                break
    crowd.forget()
    if not any(latencies[budget.target].meter for budget in limited if budget.target):
        raise NothingFitsError(
            f"None of {len(nearest)} candidates is predicted to meet the budget with its whole "
            f"interval, which ends at {min(nearest)[1]} for the nearest. Allow more."
        )
    raise NothingFitsError(
        f"None of the {len(nearest)} candidates that were measured met the budget; the nearest "
        f"took {min(nearest)[1]}. "
        + (
            _crowded_text(len(crowd.failed), passed)
            if crowd.failed
            else "Allow more, or measure on a quieter machine."
        )
    )


@dataclass
class _Crowd:
    """What somebody else on the same core did to candidates that failed."""

    failed: list[tuple[LatencyMeter, Confirmation]] = field(default_factory=list)
    longer: dict[str, float] = field(default_factory=dict)
    """Cost → how many times its cost the last one of them took."""

    def add(
        self, meter: LatencyMeter, confirmation: Confirmation, longer: float, budget: Budget
    ) -> None:
        self.failed.append((meter, confirmation))
        self.longer[budget.cost] = longer

    def breaks(self, candidate: Candidate, budgets: Sequence[Budget]) -> bool:
        """Whether ``candidate`` would exceed a budget if it took as much longer."""
        return any(
            budget.limit < candidate.costs[budget.cost] * self.longer[budget.cost]
            for budget in budgets
            if budget.cost in self.longer
        )

    def forget(self) -> None:
        """Takes the failed confirmations out of the caches."""
        for meter, confirmation in self.failed:
            meter.forget(confirmation)


def _crowded_text(crowded: int, passed: int) -> str:
    others = f", and {passed} more would have taken too long like that" if passed else ""
    return (
        f"During {crowded} of these measurements somebody else computed on the same core to the "
        f"end{others}. Run the same command again on a quieter machine, or allow more."
    )


def _passed_text(passed: int, longer: float) -> str:
    return (
        f"Somebody else computed on the same core all the while: a network took {longer:.2f} times "
        f"as long as it takes alone, and {passed} better candidates were passed over. The one that "
        "was chosen meets the budget all the same; for a better one, search again on a quieter "
        "machine, with another --run."
    )


def _crowded_out(
    budget: Budget, latencies: Mapping[str, Latency], confirmations: Mapping[str, Confirmation]
) -> tuple[LatencyMeter, Confirmation] | None:
    """The confirmation that broke ``budget``, where a crowd may be to blame."""
    assert budget.target is not None, "A latency budget without a target."
    meter, confirmation = latencies[budget.target].meter, confirmations.get(budget.target)
    if meter is None or confirmation is None or not confirmation.crowded_out:
        return None
    return meter, confirmation


def _over(
    candidate: Candidate,
    budget: Budget,
    latencies: Mapping[str, Latency],
    deployed: Deployed,
    confirmations: dict[str, Confirmation],
) -> float | None:
    """The latency that breaks ``budget``; None when it holds. A confirmation is noted.

    A quick measurement in a crowd tells nothing: the careful one waits for the crowd to end.
    """
    assert budget.target is not None, "A latency budget without a target."
    latency, architecture = latencies[budget.target], candidate.architecture
    prediction = latency.prediction(architecture)
    if latency.meter is None:
        high_ms = UNKNOWN_MS if prediction is None else prediction.high_ms
        return None if budget.is_met_by(high_ms) else high_ms
    measured = latency.measured(architecture)  # known already where none is predicted
    if not (budget.is_met_by(measured.value_ms) or measured.timing.crowded_out):
        return measured.value_ms
    confirmation = _measured_with_care(latency.meter, deployed(architecture), budget.limit)
    confirmations[budget.target] = confirmation
    return None if confirmation.meets(budget.limit) else confirmation.upper_ms


def _measured_with_care(meter: LatencyMeter, model: onnx_ir.Model, limit_ms: float) -> Confirmation:
    """By three fresh processes; by one only when that one is over the limit already."""
    first = meter.confirm_in_fresh_process(model, processes=1)
    return meter.confirm_in_fresh_process(model) if first.meets(limit_ms) else first
