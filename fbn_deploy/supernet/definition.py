"""A search space file and its options: from ``--space mobilenet --width 0.5`` to a network.

A space file defines ``network(num_classes, resolution, …options…) -> nn.Module`` with ``Choice``
blocks in it; every option has a default, of a kind that JSON holds (a tuple is a list there). It
may also define ``is_valid(architecture)``,
``canonical(architecture)``, ``pruned(architecture)``, ``text(architecture)`` and ``parse(text)``;
see ``fbn_deploy.space.SearchSpace``.

Where a path through the supernet is not the network that an architecture stands for (the widths of
NAS-Bench-101 depend on the topology), the file also defines
``subnet(architecture, num_classes, resolution, …options…) -> nn.Module``. That network is then
what is counted, measured, trained and exported; the supernet only ranks.

Two attributes map options to the values that make a small skeleton of the same decisions:
``PROXY`` the one in which indicators are read as long as nothing is trained, ``TRIAL`` the one in
which the best candidates of a search are trained briefly (``fbn_deploy.retrain.trial``).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from fbn_deploy import plugins
from fbn_deploy.errors import FBNError, unknown
from fbn_deploy.space import Architecture, SearchSpace
from fbn_deploy.supernet.choice import decisions
from fbn_deploy.supernet.fairbn import candidate_shapes

PACKAGE = "searchspaces"
LEAST_PIXELS = 16  # of a small skeleton
SMALL = {"TRIAL": "--finalists 0", "PROXY": "--no-proxy"}  # attribute → how to do without it
GIVEN = ("num_classes", "resolution")  # what every space is given; the rest are its own options


@dataclass(frozen=True)
class SpaceDefinition:
    """A space file with values for its options. ``resolution`` is in pixels a side."""

    spec: str
    resolution: int
    options: Mapping[str, Any]
    module: ModuleType = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """``mobilenet``, or the stem of a user's file."""
        return Path(self.spec).stem if self.spec.endswith(".py") else self.spec

    def network(self, num_classes: int, seed: int) -> nn.Module:
        """The space's network, weights drawn from ``seed``, channels-last.

        Raises ``FBNError`` when the file's ``network`` fails or gives no module.
        """
        return self._built("network", (num_classes, self.resolution), seed)

    @property
    def builds_subnets(self) -> bool:
        """Whether the file defines ``subnet``; else an architecture is a path of the supernet."""
        return callable(getattr(self.module, "subnet", None))

    def subnet(self, architecture: Architecture, num_classes: int, seed: int) -> nn.Module:
        """The network of ``architecture`` as the file's ``subnet`` builds it, weights drawn from
        ``seed``, channels-last. Only where ``builds_subnets``."""
        return self._built("subnet", (architecture, num_classes, self.resolution), seed)

    @property
    def trial(self) -> SpaceDefinition:
        """The same decisions in a network that is trained quickly: the file's ``TRIAL`` options,
        whatever was said for them, and half the resolution unless that is below 16 pixels."""
        return self._small(getattr(self.module, "TRIAL", {}))

    @property
    def proxy(self) -> SpaceDefinition:
        """The same decisions in the network in which untrained candidates are ranked: the file's
        ``PROXY`` options where nothing else was said for them, and half the resolution unless
        that is below 16 pixels. This definition itself where the file has no ``PROXY``."""
        if not hasattr(self.module, "PROXY"):
            return self
        parameters = inspect.signature(self.module.network).parameters
        return self._small(
            {
                name: value
                for name, value in self.module.PROXY.items()
                if name not in self.options or self.options[name] == parameters[name].default
            }
        )

    def _small(self, options: Mapping[str, Any]) -> SpaceDefinition:
        halved = self.resolution % 2 == 0 and self.resolution >= 2 * LEAST_PIXELS
        return replace(
            self,
            resolution=self.resolution // (1 + halved),
            options={**self.options, **options},
        )

    def in_small(self, small: SpaceDefinition, attribute: str, num_classes: int) -> SpaceDefinition:
        """``small``, at the full resolution where its network cannot be built for half of it or
        does not run there.

        Raises ``FBNError`` when its network has other choices; ``attribute`` is what to mend.
        """
        try:
            network = small.network(num_classes, 0)
            candidate_shapes(network, small.example())
        except Exception:  # whatever the space's forward raises where a feature map gets too small
            small = replace(small, resolution=self.resolution)
            network = small.network(num_classes, 0)
        if decisions(network) != decisions(self.network(num_classes, 0)):
            raise FBNError(
                f"{attribute} of the search space {self.spec!r} changes its choices: the network "
                f"with {dict(small.options)} must have the same ones. Name other options there, or "
                f"leave it out with {SMALL[attribute]}."
            )
        return small

    def _built(self, function: str, arguments: tuple[object, ...], seed: int) -> nn.Module:
        started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        gpus = range(torch.cuda.device_count()) if started else ()  # manual_seed reaches them too
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(seed)
            try:
                network = getattr(self.module, function)(*arguments, **self.options)
            except FBNError:
                raise
            except Exception as error:
                raise FBNError(
                    f"{function}() of the search space {self.spec!r} failed with "
                    f"{self.options}: {type(error).__name__}: {error}"
                ) from error
        if not isinstance(network, nn.Module):
            raise FBNError(f"{function}() of the search space {self.spec!r} must return a Module.")
        return network.to(memory_format=torch.channels_last)

    def search_space(self, network: nn.Module) -> SearchSpace:
        """The decisions of ``network`` with the rules of this file."""
        return SearchSpace(
            self.name,
            decisions(network),
            is_valid=getattr(self.module, "is_valid", lambda architecture: True),
            canonical_form=getattr(self.module, "canonical", None),
            text_form=getattr(self.module, "text", None),
            text_parser=getattr(self.module, "parse", None),
            pruned_form=getattr(self.module, "pruned", None),
        )

    def example(self, batch: int = 1) -> torch.Tensor:
        """An input of zeros, shape (batch, 3, resolution, resolution)."""
        return torch.zeros(batch, 3, self.resolution, self.resolution)

    def as_json(self) -> dict[str, Any]:
        """What identifies the space: its name or file, the file's hash, and the options."""
        source = inspect.getsource(self.module).encode()
        return {
            "name": self.spec,
            "resolution": self.resolution,
            "options": _in_json(dict(self.options)),
            "sha256": hashlib.sha256(source).hexdigest(),
        }


def definition(
    spec: str, resolution: int | None = None, options: Mapping[str, Any] | None = None
) -> SpaceDefinition:
    """The space ``spec``: a name from the registry, or a path that ends in ``.py``.

    ``options`` left out keep the defaults of the space's ``network``; texts are converted to the
    type of the default. Raises ``FBNError`` for an unknown space or option, and for a space with
    an option that has no default.
    """
    if spec.endswith(".py"):
        module = plugins.load_file(Path(spec), "search space")
        spec = str(Path(spec).absolute())  # a run goes on from any directory
    else:
        module = plugins.load(PACKAGE, spec, "search space")
    if not callable(getattr(module, "network", None)):
        raise FBNError(f"{spec} defines no network(num_classes, resolution), so it is no space.")
    parameters = inspect.signature(module.network).parameters
    if lacking := [name for name in GIVEN if name not in parameters]:
        raise FBNError(f"network() of {spec} must take num_classes and resolution; no {lacking}.")
    if unset := [str(p) for name, p in parameters.items() if name not in GIVEN and _is_unset(p)]:
        raise FBNError(
            f"The options of network() of {spec} need names and defaults, which these lack: "
            f"{', '.join(unset)}."
        )
    own = {name: p.default for name, p in parameters.items() if name not in GIVEN}
    try:
        _in_json(own)
    except (TypeError, ValueError) as error:
        raise FBNError(
            f"The options of network() of {spec} must be numbers, texts, lists or None: {error}."
        ) from error
    chosen = {}
    for name, value in (options or {}).items():
        if name not in own:
            raise unknown(f"option of the search space {spec!r} called", name, own)
        chosen[name] = _converted(f"{spec} option {name}", value, own[name])
    default = parameters["resolution"].default
    pixels = 32 if default is inspect.Parameter.empty else default
    if resolution is not None:
        pixels = resolution
    return SpaceDefinition(spec, int(pixels), {**own, **chosen}, module)


def _is_unset(parameter: inspect.Parameter) -> bool:
    """Whether it is no option with a default: ``width``, ``*args``, ``**kwargs``."""
    return parameter.default is inspect.Parameter.empty


def _in_json(value: Any) -> Any:
    """``value`` as JSON gives it back."""
    return json.loads(json.dumps(value, allow_nan=False))


def _converted(what: str, value: Any, default: Any) -> Any:
    """``value`` in the type of ``default``; texts come from the command line, lists for tuples
    from a file."""
    if value == _in_json(default):
        return default
    if isinstance(value, list) and isinstance(default, tuple):
        return tuple(value)
    if not isinstance(value, str) or isinstance(default, str):
        return _finite(what, value)
    if isinstance(default, list | tuple):
        element = _element(what, default)
        return type(default)(_converted(what, each.strip(), element) for each in value.split(","))
    if isinstance(default, bool):
        if value.lower() in ("true", "yes", "1", "false", "no", "0"):
            return value.lower() in ("true", "yes", "1")
        raise FBNError(f"{what} is true or false, not {value!r}.")
    try:
        return _finite(what, type(default)(value))
    except (TypeError, ValueError):
        raise FBNError(f"{what} is a {type(default).__name__}, not {value!r}.") from None


def _finite(what: str, value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise FBNError(f"{what} is a finite number, not {value}.")
    return value


def _element(what: str, default: Sequence[Any]) -> Any:
    """An element of ``default`` whose type is that of all of them."""
    kinds = {type(each) for each in default}
    if kinds == {int, float}:
        return 0.0
    if len(kinds) != 1 or not kinds <= {bool, int, float, str}:
        raise FBNError(
            f"{what} is {default!r} unless its file says otherwise: only lists of numbers or of "
            "texts can be given by name."
        )
    return default[0]
