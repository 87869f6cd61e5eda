"""What README shows works as it stands there."""

from __future__ import annotations

import random
import re
from pathlib import Path

import torch

from fbn_deploy.supernet.costs import cost_table
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import build_supernet, materialize

README = Path(__file__).resolve().parents[1] / "README.md"


def example_space(folder: Path) -> Path:
    """The search space that README shows, as a file in ``folder``."""
    path = folder / "mine.py"
    path.write_text(shown("Choice("))
    return path


def shown(word: str) -> str:
    """The one Python example of README that holds ``word``."""
    examples = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)
    (found,) = [each for each in examples if word in each]
    return str(found)


def test_the_example_space_is_loaded_drawn_from_and_counted(tmp_path: Path) -> None:
    supernet = build_supernet(definition(str(example_space(tmp_path)), 16, {"channels": 4}), 10)
    space = supernet.space
    assert [decision.name for decision in space.decisions] == [f"layer{n}" for n in range(4)]
    assert all(decision.options == ("k3", "k5", "skip") for decision in space.decisions)
    assert space.size == 3**4
    drawn = space.sample(random.Random(0))
    assert space.parse(space.text(drawn)) == drawn
    assert materialize(supernet.network, drawn)(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    table = cost_table(supernet)
    skips = {f"layer{n}": "skip" for n in range(4)}
    # the stem at 8×8, 3·4 kernels of 3×3; the pool; the classifier, 4·10 weights and 10 biases
    assert table.flops(space.architecture(skips)) == 64 * 12 * 9 + 4 * 64 + 40
    assert table.params(space.architecture(skips)) == 12 * 9 + 4 + 50
    more = space.architecture(skips | {"layer0": "k3", "layer2": "k5"})
    assert table.flops(more) - table.flops(space.architecture(skips)) == 64 * 16 * (9 + 25)
    assert table.params(more) - table.params(space.architecture(skips)) == 16 * (9 + 25) + 2 * 4
