"""Arrays of gauges: one entry for each channel, shaped so that it broadcasts to its tensor.

A tensor (N, C, H, W) has a layout (1, C, 1, 1): its gauge varies along the channels. What a
node does to the axes of a tensor it does to the layout, so a channel shuffle (reshape,
transpose, reshape) or a flatten needs no special case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fbn_deploy.export.folding.kinds import AnyArray, Array, Blocked, Shape, View

T = TypeVar("T", bound=np.generic)

LARGEST = 1 << 18
"""Gauges of one tensor that are followed one by one; a flattened 512×7×7 map has 25,088."""


def reshaped(array: AnyArray, source: Shape, target: Shape) -> AnyArray:
    """The layout of a tensor of shape ``source`` after it is reshaped to ``target``.

    Raises ``Blocked`` where a dimension that matters is not known.
    """
    source, target = _paired_unknowns(source, target)
    full: list[int] = []
    result: list[int] = []
    for one, other in _groups(source, target):
        entries = array.shape[one.start : one.stop]
        if all(entry == 1 for entry in entries):
            full += [1] * len(entries)
            result += [1] * (other.stop - other.start)
            continue
        sizes = [*source[one.start : one.stop], *target[other.start : other.stop]]
        known = [size for size in sizes if isinstance(size, int)]
        if len(known) != len(sizes):
            raise Blocked("reshapes channels by a size that is not known")
        full += known[: len(entries)]
        result += known[len(entries) :]
    if math.prod(full) > LARGEST:
        raise Blocked("reshapes more channels than are followed one by one")
    return np.broadcast_to(array, full).reshape(result)


def _paired_unknowns(source: Shape, target: Shape) -> tuple[Shape, Shape]:
    """Gives the one unknown size on each side the same name when the known sizes agree."""
    both = (source, target)
    unknown = [[i for i, size in enumerate(s) if not isinstance(size, int)] for s in both]
    known = [math.prod(size for size in s if isinstance(size, int)) for s in both]
    if len(unknown[0]) == len(unknown[1]) == 1 and known[0] == known[1] != 0:
        a, b = unknown[0][0], unknown[1][0]
        return (
            (*source[:a], "batch", *source[a + 1 :]),
            (*target[:b], "batch", *target[b + 1 :]),
        )
    return source, target


def _groups(source: Shape, target: Shape) -> list[tuple[range, range]]:
    """The smallest runs of axes of both shapes that hold equally many elements."""
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        a, b = i, j
        left = right = 1
        names: tuple[list[str], list[str]] = ([], [])
        while (i, j) == (a, b) or left != right or names[0] != names[1]:
            behind = len(names[0]) - len(names[1]) or left - right
            if i < len(source) and (behind <= 0 or j == len(target)):
                left, i = _count(left, source[i], names[0]), i + 1
            elif j < len(target):
                right, j = _count(right, target[j], names[1]), j + 1
            else:
                raise Blocked("reshapes a tensor whose size is not known")
        groups.append((range(a, i), range(b, j)))
    return groups


def _count(product: int, size: int | str | None, names: list[str]) -> int:
    """``product`` times ``size``; a size that has only a name goes to ``names``."""
    if isinstance(size, int) and size > 0:
        return product * size
    if not isinstance(size, str):
        raise Blocked("reshapes a tensor whose size is not known")
    names.append(size)
    return product


def reduced(array: npt.NDArray[T], axes: Sequence[int]) -> npt.NDArray[T]:
    """``array`` with one entry along ``axes``: the first, all being equal there."""
    index = tuple(
        slice(0, 1) if axis in axes or axis - array.ndim in axes else slice(None)
        for axis in range(array.ndim)
    )
    return array[index]


def varies(array: Array, axes: Sequence[int]) -> bool:
    """Whether ``array`` has different entries along ``axes``."""
    return bool(np.any(array != reduced(array, axes)))


def pulled_back(
    view: View, shapes: Sequence[tuple[int, ...]], outputs: Sequence[Array | None]
) -> list[Array] | None:
    """Shifts of the inputs of ``view`` that give these shifts of its outputs.

    ``shapes`` are the layouts of the inputs, None an output that is to stay. The result is None
    when one input would need two shifts at once.
    """
    offsets = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
    places: list[AnyArray] = [
        np.arange(offset, offset + math.prod(shape), dtype=np.int64).reshape(shape)
        for offset, shape in zip(offsets, shapes, strict=False)
    ]
    taken = view.take([reduced(place, view.uniform) for place in places])
    flat = np.zeros(int(offsets[-1]))
    indices = [index.astype(np.int64) for index in taken]
    wanted = [
        np.broadcast_to(0.0 if shift is None else shift, index.shape)
        for index, shift in zip(indices, outputs, strict=True)
    ]
    for index, shift in zip(indices, wanted, strict=True):
        flat[index] = shift
    if not all(np.array_equal(flat[i], shift) for i, shift in zip(indices, wanted, strict=True)):
        return None
    back = []
    for place in places:
        first = reduced(place, view.uniform)
        back.append(np.broadcast_to(flat[first.astype(np.int64)], place.shape).copy())
    return back
