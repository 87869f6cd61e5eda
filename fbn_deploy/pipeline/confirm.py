"""The winner of a search: the best candidate whose budgets hold when its whole network is measured.

A prediction only puts a candidate in the queue. On a target that is elsewhere nothing can be
measured; there a candidate whose interval touches the budget cannot win, and the one that wins is
not called confirmed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fbn_deploy.errors import NothingFitsError
from fbn_deploy.latency.meter import Confirmation, LatencyMeter
from fbn_deploy.latency.record import utc_now
from fbn_deploy.pipeline.latency import UNKNOWN_MS, Latency
from fbn_deploy.progress import Reporter
from fbn_deploy.search.budgets import Budget
from fbn_deploy.search.candidates import Candidate, Population

if TYPE_CHECKING:
    import onnx_ir

    from fbn_deploy.latency.counting import Deployed

CONFIRMED_AT_MOST = 30  # candidates measured with care before the search gives up
TRIED_AT_MOST = 100  # candidates of which a whole network was measured at all
CROWDED_OUT_AT_MOST = 5  # candidates that failed in a crowd that did not end

Winner = tuple[Candidate, dict[str, Confirmation]]
"""And target → its confirmation there."""


def confirmed_winner(
    population: Population,
    budgets: Sequence[Budget],
    latencies: Mapping[str, Latency],
    deployed: Deployed,
    reporter: Reporter,
) -> Winner:
    """The best candidate that meets every latency budget.

    Costs are of moments without a crowd (``latency/crowding.py``). While one that does not end
    makes candidates fail, those are passed over that would exceed the budget if they took as much
    longer than their cost as the last one did; so the winner's budget holds in the crowd. Once it
    is over, all of these get their turn: before others, and before one that holds wins. What failed
    disturbed is not remembered for it: it is measured again, by another search as well.

    Raises ``NothingFitsError`` when none of the best candidates meets the budgets.
    """
    ranked = population.best(len(population))
    trials = _Trials([budget for budget in budgets if budget.target], latencies, deployed)
    waiting = deque(range(len(ranked)))  # places in the ranking; so are those that a crowd holds up
    passed: list[int] = []
    failed: list[int] = []
    won: tuple[int, Winner] | None = None
    with reporter.task("Confirming on the target", TRIED_AT_MOST, "networks") as task:
        while (waiting or (passed and won is None)) and not trials.are_enough:
            if waiting:
                place = waiting.popleft()
                if trials.would_break(ranked[place]):
                    passed.append(place)
                    continue
            else:  # all would break the budget in the crowd, if that goes on
                place = passed.pop(0)
            trial = trials.of(ranked[place])
            task.update(trials.tried)
            if trial.holds:
                won = place, (ranked[place], trial.confirmations)
                waiting.clear()
            elif trial.in_a_crowd:
                failed.append(place)
            if trial.is_calm:
                held_up = sorted(each for each in passed + failed if won is None or each < won[0])
                waiting.extendleft(reversed(held_up))
                passed, failed = [], []
    if won is None:
        raise NothingFitsError(trials.nothing_holds(len(passed)))
    if better := len(passed) + len(failed) + len(waiting):
        reporter.say(_held_up_text(better, trials.longest))
    return won[1]


@dataclass(frozen=True)
class _Trial:
    """What came of one candidate."""

    holds: bool
    """Whether it meets every budget."""
    in_a_crowd: bool
    """Whether it broke one in a crowd that did not end."""
    confirmations: dict[str, Confirmation]
    """By target, up to the budget that was broken; those of what was measured with care."""
    started: str
    """When it began."""

    @property
    def is_calm(self) -> bool:
        """Whether something was measured with care just now, and nothing in a crowd."""
        found = self.confirmations.values()
        now = any(record.date >= self.started for each in found for record in each.records)
        return now and not any(each.crowded_out for each in found)


class _Trials:
    """Candidates that were tried under ``budgets``, which limit latencies, and what came of it."""

    def __init__(
        self, budgets: Sequence[Budget], latencies: Mapping[str, Latency], deployed: Deployed
    ) -> None:
        self._latencies, self._deployed = latencies, deployed
        # Those on targets elsewhere first: what is predicted costs nothing.
        self._budgets = sorted(budgets, key=lambda budget: self._meter(budget) is not None)
        self._nearest: list[tuple[float, str]] = []  # of those measured: share of a budget, text
        self._predicted: list[tuple[float, str]] = []  # of those that are only predicted
        self._crowded_out = 0
        self._longer: dict[str, float] = {}
        """Cost → how many times its cost the last one that failed in a crowd took."""
        self.tried = self._careful = 0
        self.longest = 1.0
        """The largest of what ever was in ``_longer``."""

    @property
    def are_enough(self) -> bool:
        return (
            self._careful >= CONFIRMED_AT_MOST
            or self.tried >= TRIED_AT_MOST
            or self._crowded_out >= CROWDED_OUT_AT_MOST
        )

    def would_break(self, candidate: Candidate) -> bool:
        """Whether ``candidate`` would exceed a budget if a crowd made it as much slower."""
        return any(
            budget.limit < candidate.costs[budget.cost] * self._longer[budget.cost]
            for budget in self._budgets
            if budget.cost in self._longer
        )

    def of(self, candidate: Candidate) -> _Trial:
        """Holds ``candidate`` against one budget after the other, until one is broken."""
        found: dict[str, Confirmation] = {}
        started = utc_now()
        holds, in_a_crowd, measured = True, False, False
        for budget in self._budgets:
            measured |= self._meter(budget) is not None
            over_ms = _over(candidate, budget, self._latencies, self._deployed, found)
            if over_ms is not None:
                holds, in_a_crowd = False, self._failed(candidate, budget, over_ms, found)
                break
        self.tried += measured
        self._careful += bool(found)
        trial = _Trial(holds, in_a_crowd, found, started)
        if trial.is_calm:
            self._longer.clear()
        return trial

    def nothing_holds(self, passed: int) -> str:
        """Why no candidate won, of which ``passed`` were passed over."""
        if not self._nearest:
            return (
                f"None of {len(self._predicted)} candidates is predicted to meet the budget with "
                f"its whole interval, which ends at {min(self._predicted)[1]} for the nearest. "
                "Allow more."
            )
        elsewhere = (
            f"{len(self._predicted)} more are not predicted to meet it. " if self._predicted else ""
        )
        return (
            f"None of the {len(self._nearest)} candidates that were measured met the budget; the "
            f"nearest took {min(self._nearest)[1]}. {elsewhere}"
            + (
                _crowded_text(self._crowded_out, passed)
                if self._crowded_out
                else "Allow more, or measure on a quieter machine."
            )
        )

    def _failed(
        self,
        candidate: Candidate,
        budget: Budget,
        over_ms: float,
        found: Mapping[str, Confirmation],
    ) -> bool:
        """Notes what broke ``budget``; whether that was in a crowd that did not end."""
        meter = self._meter(budget)
        told = self._predicted if meter is None else self._nearest
        told.append((over_ms / budget.limit, budget.text_of(over_ms)))
        confirmation = found.get(budget.target or "")
        if meter is None or confirmation is None:
            return False
        if confirmation.disturbed or confirmation.crowded_out:
            meter.forget(confirmation)
        if confirmation.crowded_out:
            self._crowded_out += 1
            self._longer[budget.cost] = over_ms / candidate.costs[budget.cost]
            self.longest = max(self.longest, self._longer[budget.cost])
        return confirmation.crowded_out

    def _meter(self, budget: Budget) -> LatencyMeter | None:
        assert budget.target is not None, "A latency budget without a target."
        return self._latencies[budget.target].meter


def _crowded_text(crowded: int, passed: int) -> str:
    others = f", and {passed} more would have taken too long like that" if passed else ""
    return (
        f"During {crowded} of these measurements somebody else computed on the same core to the "
        f"end{others}. Run the same command again on a quieter machine, or allow more."
    )


def _held_up_text(held_up: int, longest: float) -> str:
    return (
        f"Somebody else computed on the same core: a network took {longest:.2f} times as long as "
        f"was reckoned, and {held_up} better candidates failed or were passed over for it. The one "
        "that was chosen meets the budget all the same; for a better one, search again on a "
        "quieter machine, with another --run."
    )


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
