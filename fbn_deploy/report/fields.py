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
        """A finite number that has to be there."""
        found = _number(self.content.get(key))
        if found is None or not math.isfinite(found):
            raise self._wrong(key, "a number")
        return found

    def share(self, key: str) -> float:
        """A number from 0 to 1 that has to be there."""
        found = self.number(key)
        if not 0 <= found <= 1:
            raise self._wrong(key, "a number from 0 to 1")
        return found

    def number_or_none(self, key: str) -> float | None:
        """None where nothing is said, or what is said stands for a value that is not known."""
        if key not in self:
            return None
        found = _number(self.content[key])
        if found is None:
            raise self._wrong(key, "a number")
        return found if math.isfinite(found) else None

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
        """A list of numbers; infinite where one stands for what is not known."""
        found = [_number(each) for each in self._list(key)]
        known = tuple(each for each in found if each is not None)
        if len(known) < len(found):
            raise self._wrong(key, "a list of numbers")
        return known

    def length(self, key: str) -> int:
        """How many things a list holds."""
        return len(self._list(key))

    def pairs(self, key: str) -> tuple[tuple[int, float], ...]:
        """A list of pairs of a whole number and a finite number."""
        found = []
        for each in self._list(key):
            first, second = each if isinstance(each, list) and len(each) == 2 else (None, None)
            value = _number(second)
            if type(first) is not int or value is None or not math.isfinite(value):
                raise self._wrong(key, "a list of pairs of numbers")
            found.append((first, value))
        return tuple(found)

    def named_numbers(self, key: str) -> dict[str, float]:
        """An object of numbers, those left out that are not known."""
        part = self.part(key)
        found = {name: part.number_or_none(name) for name in part.content}
        return {name: value for name, value in found.items() if value is not None}

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
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, list):
        return ", ".join(shown(each) for each in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(each)}" for name, each in value.items()) or "none"
    return str(value)


def _number(value: Any) -> float | None:
    """None where ``value`` is no number; infinite where it stands for what is not known."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < UNKNOWN else math.inf  # False for NaN as well
