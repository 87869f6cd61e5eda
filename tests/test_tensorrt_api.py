"""The adapter held to the names that TensorRT 10.16, TensorRT 11.4 and TensorRT-RTX 1.7 have.

mypy holds the adapter to the types in ``api.py``; these tests hold those types, and everything
that mypy cannot see, to the recorded names.
"""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from fbn_deploy.targets import _tensorrt
from fbn_deploy.targets._tensorrt import api, package, session

Names = dict[str, list[str]]
RECORDED: dict[str, Names] = json.loads(
    (Path(__file__).parent / "assets" / "tensorrt_names.json").read_text()
)["names"]
SOURCES = sorted(Path(_tensorrt.__path__[0]).glob("*.py"))
every_version = pytest.mark.parametrize("version", RECORDED)


def members(protocol: type) -> set[str]:
    """What a protocol declares: annotated attributes and methods."""
    declared = set(protocol.__annotations__) | set(vars(protocol))
    return {name for name in declared if not name.startswith("_")}


def used_classes() -> dict[str, type]:
    return {
        name: value
        for name, value in vars(api).items()
        if inspect.isclass(value) and value.__module__ == api.__name__
    }


@every_version
def test_every_declared_class_and_member_exists(version: str) -> None:
    names = RECORDED[version]
    absent = [f"trt.{n}" for n in members(package.TensorRt) if n not in names[""]]
    for name, protocol in used_classes().items():
        absent += [f"{name}.{member}" for member in members(protocol) - set(names.get(name, []))]
    assert not absent, f"{version} lacks {sorted(absent)}"


def unguarded(source: str) -> list[str]:
    """Names of TensorRT that some version lacks, used in a function that does not ask first
    (``hasattr`` or ``getattr`` with a string) for a name that only versions with both have.

    Of what is annotated with a class of ``api``, every attribute is a name of TensorRT, and of
    that class; elsewhere only those count that some version has.
    """
    everywhere = [_known(version) for version in RECORDED.values()]
    ever, always = set.union(*everywhere), set.intersection(*everywhere)
    tree = ast.parse(source)
    fields = {n: c for n, c in _annotated(tree).items() if n.startswith("self.")}
    found = []
    for scope in _functions(tree):
        nodes = list(ast.walk(scope))
        asked = {node.args[1].value for node in nodes if _asks(node)}  # type: ignore[attr-defined]
        sure = [set.intersection(*have) for name in asked if (have := _with(name, everywhere))]
        used = {n for n in _used(scope, fields | _annotated(scope)) if n in ever or "." in n}
        missing = (used - always).difference(*sure)
        found += [f"{scope.name}: {name}" for name in sorted(missing)]
    return found


def _known(version: Names) -> set[str]:
    """Names of ``version``: each alone, and members also behind their class."""
    members = {f"{owner}.{name}" for owner, names in version.items() if owner for name in names}
    return members.union(*version.values())


def _annotated(tree: ast.AST) -> dict[str, str]:
    """What is annotated with a class of ``api``, as written (``self._engine``) → the class."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            name = node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
            annotation = ast.unparse(node.annotation).removesuffix(" | None")
            if annotation.startswith("api.") and annotation[4:] in used_classes():
                found[name] = annotation[4:]
    return found


def _used(scope: ast.AST, classes: dict[str, str]) -> set[str]:
    """Attributes in ``scope``, behind the class of what they are of where that is known."""
    owned = {
        node: classes.get(ast.unparse(node.value))
        for node in ast.walk(scope)
        if isinstance(node, ast.Attribute)
    }
    return {f"{owner}.{node.attr}" if owner else node.attr for node, owner in owned.items()}


def _with(name: str, versions: list[set[str]]) -> list[set[str]]:
    """The versions that have ``name``."""
    return [names for names in versions if name in names]


def _functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def _asks(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="hasattr" | "getattr"), args=[_, ast.Constant(), *_]):
            return True
    return False


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_what_one_version_lacks_is_asked_for_before_it_is_used(path: Path) -> None:
    assert unguarded(path.read_text()) == []


@pytest.mark.parametrize(
    "call",
    [
        "config.set_flag(trt.BuilderFlag.FP16)",
        "config.int8_calibrator = calibrator",
        "tensor.set_dynamic_range(-1, 1)",
        "config.set_runtime_cache(cache)",
        "parser.supports_model(model)",
        "engine.device_memory_size",
    ],
)
def test_the_guard_notices_what_a_version_dropped_or_another_added(call: str) -> None:
    def asking(name: str) -> str:
        return f"def build():\n    if hasattr(config, {name!r}):\n        {call}\n"

    (found,) = unguarded(f"def build():\n    {call}\n")
    assert unguarded(asking("something")) == [found]
    assert unguarded(asking("create_network")) == [found], "Every version has that."
    assert not unguarded(asking(found.removeprefix("build: ")))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("self._context.execute_async_v2(1)", "IExecutionContext.execute_async_v2"),
        ("self._engine.get_binding_shape(0)", "ICudaEngine.get_binding_shape"),
        ("self._engine.execute_async_v3(1)", "ICudaEngine.execute_async_v3"),
        ("self._runtime.create_network(0)", "Runtime.create_network"),
    ],
)
def test_the_guard_notices_what_no_version_has_or_another_class(call: str, said: str) -> None:
    source = inspect.getsource(session)
    method = "    def close(self) -> None:\n"
    assert source.count(method) == 1
    assert unguarded(source.replace(method, f"{method}        {call}\n")) == [f"close: {said}"]


def test_a_name_may_be_asked_for_by_another_that_never_comes_without_it() -> None:
    source = "def build():\n    if hasattr(config, 'create_runtime_cache'):\n        {}\n"
    assert not unguarded(source.format("config.set_runtime_cache(cache)"))
    assert unguarded(source.format("config.int8_calibrator = calibrator"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_name_that_is_asked_for_exists_in_one_of_the_versions(path: Path) -> None:
    known = {n for version in RECORDED.values() for names in version.values() for n in names}
    for node in ast.walk(ast.parse(path.read_text())):
        if _asks(node):
            name = node.args[1].value  # type: ignore[attr-defined]
            assert name in known or name.startswith("__"), f"No TensorRT has {name!r}."


def test_the_installed_package_has_every_declared_name() -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx", reason='pip install "fbn-deploy[tensorrt-rtx]"')
    assert [name for name in members(package.TensorRt) if not hasattr(trt, name)] == []
    for name, protocol in used_classes().items():
        assert [m for m in members(protocol) if not hasattr(getattr(trt, name), m)] == []


def test_the_installed_cuda_bindings_have_every_name_that_is_used() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-bindings")
    source = (Path(_tensorrt.__path__[0]) / "device.py").read_text()
    used = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "runtime"
    }
    assert "cudaGraphLaunch" in used
    assert [name for name in sorted(used) if not hasattr(runtime, name)] == []
