"""Options that belong together, said once: a command takes them as one dataclass.

Typer knows flat parameters only. ``flat`` shows it the fields of every parameter whose type is a
dataclass, and hands the command the dataclass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, signature
from typing import Any, get_type_hints

Command = Callable[..., None]


def flat(command: Command) -> Command:
    """``command`` with its dataclass parameters replaced by their fields."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type] = {}
    shown: list[Parameter] = []
    for name, parameter in signature(command).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            shown += _fields(hints[name])
        else:
            shown.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name]))

    @functools.wraps(command)
    def run(**said: Any) -> None:
        given = {
            name: group(**{each.name: said.pop(each.name) for each in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **said)

    run.__signature__ = signature(command).replace(  # type: ignore[attr-defined]
        parameters=shown, return_annotation=None
    )
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run


def _fields(group: type) -> list[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        Parameter(
            each.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if each.default is MISSING else each.default,
            annotation=hints[each.name],
        )
        for each in fields(group)
    ]
