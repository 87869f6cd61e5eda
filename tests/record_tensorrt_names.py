"""Writes ``tests/assets/tensorrt_names.json``: the public names of TensorRT's Python bindings.

    python tests/record_tensorrt_names.py

The bindings are on PyPI; the libraries that they load are not, or are large. Empty libraries of
the same file names satisfy the loader, so that the module can be imported, and looked at, without
a GPU. Needs pip, gcc and Linux; takes a few seconds.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

ASSET = Path(__file__).parent / "assets" / "tensorrt_names.json"


@dataclass(frozen=True)
class Bindings:
    """A package of bindings, the module in it, and the libraries that it loads."""

    package: str
    version: str
    module: str
    libraries: tuple[str, ...]


_TENSORRT = ("libnvinfer.so.{}", "libnvinfer_plugin.so.{}", "libnvonnxparser.so.{}")
RECORDED = (
    *(
        Bindings(
            "tensorrt-cu13-bindings",
            version,
            "tensorrt_bindings",
            tuple(name.format(version[:2]) for name in _TENSORRT),
        )
        for version in ("10.16.1.11", "11.4.0.106")
    ),
    Bindings(
        "tensorrt-rtx-cu13-bindings",
        "1.7.1.116",
        "tensorrt_rtx_bindings",
        ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"),
    ),
)
# What the bindings take from those libraries. None of it is called.
_STUB = "\n".join(
    f"void *{name}(void) {{ return 0; }}"
    for name in (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "createNvOnnxParser_INTERNAL",
        "getBuilderPluginRegistry",
        "getNvOnnxParserVersion",
        "getPluginRegistry",
        "initLibNvInferPlugins",
    )
)


def recorded(bindings: Bindings, folder: Path) -> dict[str, list[str]]:
    """``""`` → names of the module; class → names of its members."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, f"{bindings.package}=={bindings.version}"], check=True)
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
    source = folder / "stub.c"
    source.write_text(_STUB)
    for library in bindings.libraries:
        gcc = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(folder / library)]
        subprocess.run([*gcc, str(source)], check=True)
    answer = subprocess.run(
        [sys.executable, __file__, bindings.module],
        env=os.environ | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, list[str]] = json.loads(answer.stdout)
    return found


def public_names(module: object) -> dict[str, list[str]]:
    """Names that do not begin with an underscore, of ``module`` and of every class in it."""
    found = {"": _public(module)}
    for name in found[""]:
        value = getattr(module, name)
        if inspect.isclass(value) and value.__module__.startswith("tensorrt"):
            found[name] = _public(value)
    return found


def _public(value: object) -> list[str]:
    return sorted(name for name in dir(value) if not name.startswith("_"))


def main(arguments: list[str]) -> None:
    if arguments:  # in the process that can load these bindings
        print(json.dumps(public_names(importlib.import_module(arguments[0]))))
        return
    blocks = []
    for bindings in RECORDED:
        with tempfile.TemporaryDirectory() as folder:
            names = recorded(bindings, Path(folder))
        # A class a line keeps the differences of a new version readable.
        lines = ",\n".join(f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in names.items())
        blocks.append(f'  "{bindings.package} {bindings.version}": {{\n{lines}\n  }}')
    how = "python tests/record_tensorrt_names.py"
    versions = ",\n".join(blocks)
    ASSET.parent.mkdir(exist_ok=True)
    ASSET.write_text(f'{{\n "made_by": "{how}",\n "names": {{\n{versions}\n }}\n}}\n')


if __name__ == "__main__":
    main(sys.argv[1:])
