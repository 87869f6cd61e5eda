"""What can be chosen, and what was chosen: decisions, architectures, and the search space.

Pure Python. A *decision* is a name with its options; an *architecture* assigns one option to
every decision; a *search space* knows which architectures are valid and which are the same
network under two names (the canonical form).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from fbn_deploy.errors import FBNError, unknown

MAX_TRIES = 10_000  # draws before a validity rule is reported as impossible to meet


@dataclass(frozen=True)
class Decision:
    """A name and the options that it can take, in the order of the space's author."""

    name: str
    options: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise FBNError(f"Decision {self.name!r} has no options.")
        if len(set(self.options)) != len(self.options):
            raise FBNError(f"Decision {self.name!r} names an option twice: {self.options}.")


@dataclass(frozen=True)
class Architecture(Mapping[str, str]):
    """Decision → option. Hashable; equal when all options are equal, in any order."""

    choices: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, choices: Mapping[str, str]) -> Architecture:
        return cls(tuple(sorted(choices.items())))

    def __getitem__(self, decision: str) -> str:
        for name, option in self.choices:
            if name == decision:
                return option
        raise KeyError(decision)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.choices)

    def __len__(self) -> int:
        return len(self.choices)

    def replaced(self, **options: str) -> Architecture:
        """This architecture with some options replaced."""
        return Architecture.of({**dict(self), **options})


def choices_from(text: str) -> dict[str, str]:
    """Decision → option out of ``decision=option,…``."""
    try:
        return dict(part.split("=", 1) for part in text.strip().split(","))
    except ValueError:
        raise FBNError(
            f"Cannot read the architecture {text!r}; write it as decision=option,decision=option."
        ) from None


def _always(architecture: Architecture) -> bool:
    return True


@dataclass(frozen=True)
class SearchSpace:
    """The decisions of a space with its validity rule and canonical form.

    ``canonical`` maps architectures that are the same network to the same text; the search
    evaluates each text once. By default every architecture stands for itself. ``pruned`` gives
    the one of them in which nothing stands that the output does not depend on: it is what is drawn
    and scored, so that no value hangs on such ops. ``text`` and ``parse`` convert to and from the
    notation of the space's own literature.
    """

    name: str
    decisions: tuple[Decision, ...]
    is_valid: Callable[[Architecture], bool] = _always
    canonical_form: Callable[[Architecture], str] | None = None
    text_form: Callable[[Architecture], str] | None = None
    text_parser: Callable[[str], Mapping[str, str]] | None = None
    pruned_form: Callable[[Architecture], Mapping[str, str]] | None = None
    _options: dict[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.decisions:
            raise FBNError(
                f"Search space {self.name!r} has nothing to choose: place at least one "
                "Choice block."
            )
        options = {decision.name: decision.options for decision in self.decisions}
        if len(options) != len(self.decisions):
            raise FBNError(f"Search space {self.name!r} names a decision twice.")
        object.__setattr__(self, "_options", options)

    @property
    def size(self) -> int:
        """Number of assignments, valid or not, duplicates included."""
        return math.prod(len(decision.options) for decision in self.decisions)

    def architecture(self, choices: Mapping[str, str]) -> Architecture:
        """The architecture with these choices; all mistakes are reported at once."""
        mistakes = [f"decision {name!r} has no option" for name in self._options.keys() - choices]
        mistakes += [f"there is no decision {name!r}" for name in choices.keys() - self._options]
        mistakes += [
            str(unknown(f"option of {name!r}", choices[name], options))
            for name, options in self._options.items()
            if name in choices and choices[name] not in options
        ]
        if mistakes:
            raise FBNError(
                f"This is no architecture of the space {self.name!r}: "
                f"{'; '.join(sorted(mistakes))}."
            )
        return Architecture.of(choices)

    def canonical(self, architecture: Architecture) -> str:
        """One text for all architectures that are the same network."""
        if self.canonical_form is not None:
            return self.canonical_form(architecture)
        return ",".join(f"{name}={option}" for name, option in architecture.choices)

    def pruned(self, architecture: Architecture) -> Architecture:
        """The same network without ops that its output does not depend on."""
        if self.pruned_form is not None:
            return Architecture.of(self.pruned_form(architecture))
        return architecture

    def text(self, architecture: Architecture) -> str:
        """The architecture in the notation of its literature, or as ``decision=option,…``."""
        if self.text_form is not None:
            return self.text_form(architecture)
        return ",".join(
            f"{decision.name}={architecture[decision.name]}" for decision in self.decisions
        )

    def parse(self, text: str) -> Architecture:
        """The inverse of ``text``."""
        if self.text_parser is not None:
            return self.architecture(self.text_parser(text))
        return self.architecture(choices_from(text))

    def sample(self, rng: random.Random) -> Architecture:
        """A valid architecture, each option drawn uniformly, then pruned."""
        return self._first_valid(
            lambda: Architecture.of({d.name: rng.choice(d.options) for d in self.decisions})
        )

    def mutate(self, parent: Architecture, rng: random.Random, probability: float) -> Architecture:
        """A valid copy in which each decision is drawn anew with ``probability``."""
        return self._first_valid(
            lambda: Architecture.of(
                {
                    d.name: rng.choice(d.options) if rng.random() < probability else parent[d.name]
                    for d in self.decisions
                }
            )
        )

    def crossover(self, a: Architecture, b: Architecture, rng: random.Random) -> Architecture:
        """A valid child that takes each decision from either parent with equal odds."""
        return self._first_valid(
            lambda: Architecture.of({d.name: rng.choice((a, b))[d.name] for d in self.decisions})
        )

    def _first_valid(self, draw: Callable[[], Architecture]) -> Architecture:
        for _ in range(MAX_TRIES):
            architecture = draw()
            if self.is_valid(architecture):
                return self.pruned(architecture)
        raise FBNError(
            f"No valid architecture of the space {self.name!r} in {MAX_TRIES} draws; "
            "its is_valid rule refuses nearly everything."
        )
