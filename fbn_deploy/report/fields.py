"""JSON objects read key by key: what is wrong is said with the file and the place in it.

Keys that are missing may be those of a newer version than the one that wrote the file, so most
readers have a form that answers None for them. A key of the wrong type is never passed over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fbn_deploy.errors import FBNError
from fbn_deploy.files import read_json

UNKNOWN = 1e30
"""The size of what stands in JSON for a value that is not known or not finite."""


@dataclass(frozen=True)
class Fields:
    """The object at ``place`` (``best.costs``; empty for the outermost) of the JSON in ``path``."""

    path: Path
    place: str
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, schema: int) -> Fields:
        """The object in ``path``. Raises ``FBNError`` when it is damaged or of another schema."""
        content = read_json(path)
        if not isinstance(content, dict):
            raise FBNError(f"{path} holds no JSON object; it was not written by fbn_deploy.")
        if content.get("schema") != schema:
            raise FBNError(
                f"{path} has the schema {content.get('schema')}; this version of fbn_deploy reads "
                f"{schema}. Make the file again, or use the version that it is of."
            )
        return cls(path, "", content)

    def __contains__(self, key: str) -> bool:
        return self.content.get(key) is not None

    def number(self, key: str) -> float:
        """A number that has to be there; infinite where it stands for what is not known."""
        found = self.content.get(key)
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise self._wrong(key, "a number")
        return _known(found)

    def number_or_none(self, key: str) -> float | None:
        """None where nothing is said, or what is said stands for a value that is not known."""
        found = self.number(key) if key in self else None
        return found if found is not None and math.isfinite(found) else None

    def count(self, key: str) -> int:
        """A whole number that has to be there."""
        found = self.content.get(key)
        if isinstance(found, bool) or not isinstance(found, int):
            raise self._wrong(key, "a whole number")
        return found

    def count_or_none(self, key: str) -> int | None:
        return self.count(key) if key in self else None

    def text(self, key: str, default: str | None = None) -> str:
        """A text; ``default`` where nothing is said, if there is one."""
        found = self.content.get(key)
        if found is None and default is not None:
            return default
        if not isinstance(found, str):
            raise self._wrong(key, "a text")
        return found

    def flag(self, key: str) -> bool | None:
        """True, false, or None where nothing is said."""
        found = self.content.get(key)
        if found is not None and not isinstance(found, bool):
            raise self._wrong(key, "true or false")
        return found

    def part(self, key: str) -> Fields:
        """The object under ``key``; an empty one where nothing is said."""
        found = self.content.get(key)
        if found is not None and not isinstance(found, dict):
            raise self._wrong(key, "an object")
        return Fields(self.path, self._at(key), found or {})

    def items(self) -> Iterator[tuple[str, Fields]]:
        """Every key, and the object under it."""
        for key in self.content:
            yield key, self.part(key)

    def parts(self, key: str) -> list[Fields]:
        """The objects of a list; none where nothing is said."""
        found = self._list(key)
        if not all(isinstance(each, dict) for each in found):
            raise self._wrong(key, "a list of objects")
        return [
            Fields(self.path, f"{self._at(key)}[{number}]", each)
            for number, each in enumerate(found)
        ]

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        found = self._list(key)
        if not all(isinstance(each, str) for each in found):
            raise self._wrong(key, "a list of texts")
        return tuple(found)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers."""
        found = self._list(key)
        if not all(isinstance(e, int | float) and not isinstance(e, bool) for e in found):
            raise self._wrong(key, "a list of numbers")
        return tuple(_known(each) for each in found)

    def length(self, key: str) -> int:
        """How many things a list holds."""
        return len(self._list(key))

    def pairs(self, key: str) -> tuple[tuple[int, float], ...]:
        """A list of pairs of a whole number and a number."""
        found = self._list(key)
        for each in found:
            if not isinstance(each, list) or [type(n) for n in each[:1]] != [int] or len(each) != 2:
                raise self._wrong(key, "a list of pairs of numbers")
            if not isinstance(each[1], int | float):
                raise self._wrong(key, "a list of pairs of numbers")
        return tuple((number, _known(value)) for number, value in found)

    def named_numbers(self, key: str) -> dict[str, float]:
        """An object of numbers."""
        part = self.part(key)
        return {name: part.number(name) for name in part.content}

    def named_texts(self, key: str) -> dict[str, str]:
        """An object of values that are shown as they are."""
        return {name: shown(value) for name, value in self.part(key).content.items()}

    def choices(self, key: str) -> dict[str, str]:
        """An object of texts: decision → option."""
        part = self.part(key)
        return {name: part.text(name) for name in part.content}

    def _list(self, key: str) -> list[Any]:
        found = self.content.get(key)
        if found is not None and not isinstance(found, list):
            raise self._wrong(key, "a list")
        return found or []

    def _at(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def _wrong(self, key: str, kind: str) -> FBNError:
        there = "missing" if key not in self.content else f"{self.content[key]!r:.60}"
        return FBNError(
            f"{self.path} is not what fbn_deploy writes: {self._at(key)} should be {kind} and is "
            f"{there}. Make the file again."
        )


def shown(value: Any) -> str:
    """Any JSON value as a setting is written: ``true``, ``0.5``, ``none``, ``a, b``."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(shown(each) for each in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(each)}" for name, each in value.items()) or "none"
    return str(value)


def _known(value: float) -> float:
    if math.isnan(value):
        return math.inf
    return value if abs(value) < UNKNOWN else math.copysign(math.inf, value)
