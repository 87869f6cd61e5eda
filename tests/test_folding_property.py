"""Random graphs of the supported operators: folded and unfolded agree in double precision."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fbn_deploy.export.folding import fold_affine

SIZE = 5


class RandomGraph:
    """Grows a graph one node at a time; ``tensors`` maps a name to its channels."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.tensors = {"x": 3}

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype=np.float64), name))
        return name

    def pick(self, channels: int | None = None) -> str:
        fit = [t for t, c in self.tensors.items() if channels in (None, c)]
        return self.draw(st.sampled_from(fit[-4:]))

    def add(self, op_type: str, inputs: list[str], channels: int, **attributes) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name, **attributes))
        self.tensors[name] = channels
        return name

    def scales(self, channels: int) -> np.ndarray:
        """Of both signs, over four orders of magnitude, some of them zero; or all positive."""
        s = 10.0 ** self.rng.uniform(-2, 2, channels)
        kind = self.draw(st.sampled_from(("positive", "signed", "zeros")))
        if kind != "positive":
            s *= self.rng.choice([-1, 1], channels)
        return s * self.rng.choice([0, 1], channels) if kind == "zeros" else s

    def batchnorm(self, x: str) -> str:
        c = self.tensors[x]
        v = self.rng.uniform(0.1, 2, c)
        parts = (self.scales(c), self.rng.normal(size=c), self.rng.normal(size=c), v)
        return self.add("BatchNormalization", [x, *map(self.weight, parts)], c)

    def convolution(self, x: str) -> str:
        c = self.tensors[x]
        groups = self.draw(st.sampled_from([1, c]))
        outs = c * self.draw(st.integers(1, 2)) if groups > 1 else self.draw(st.integers(1, 4))
        k = self.draw(st.sampled_from([1, 3]))
        w = self.weight(self.rng.normal(size=(outs, c // groups, k, k)))
        bias = [self.weight(self.rng.normal(size=outs))] if self.draw(st.booleans()) else []
        return self.add("Conv", [x, w, *bias], outs, group=groups, pads=[k // 2] * 4)

    def grow(self) -> None:
        x = self.pick()
        c = self.tensors[x]
        kind = self.draw(
            st.sampled_from(
                (
                    "bn",
                    "bn",
                    "bn",
                    "conv",
                    "conv",
                    "relu",
                    "leaky",
                    "add",
                    "add",
                    "sub",
                    "pool",
                    "peak",
                    "concat",
                    "affine",
                    "gate",
                    "zero",
                    "sigmoid",
                    "clip",
                )
            )
        )
        window = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1]}
        match kind:
            case "bn":
                self.batchnorm(x)
            case "conv":
                self.convolution(x)
            case "relu" | "sigmoid":
                self.add(kind.capitalize(), [x], c)
            case "leaky":
                self.add("LeakyRelu", [x], c, alpha=0.1)
            case "clip":
                self.add("Clip", [x, self.weight(np.zeros(())), self.weight(np.array(6.0))], c)
            case "add" | "sub":
                self.add(kind.capitalize(), [x, self.pick(c)], c)
            case "pool":
                counts = self.draw(st.integers(0, 1))
                self.add("AveragePool", [x], c, count_include_pad=counts, **window)
            case "peak":
                self.add("MaxPool", [x], c, **window)
            case "concat":
                y = self.pick()
                self.add("Concat", [x, y], c + self.tensors[y], axis=1)
            case "affine":
                shape = self.draw(st.sampled_from([(), (c, 1, 1), (1, c, 1, 1)]))
                m = self.add("Mul", [x, self.weight(self.rng.normal(size=shape))], c)
                self.add("Add", [self.weight(self.rng.normal(size=shape)), m], c)
            case "gate":
                p = self.add("GlobalAveragePool", [x], c)
                g = self.add("Sigmoid", [p], c)
                del self.tensors[p], self.tensors[g]
                self.add("Mul", [x, g], c)
            case "zero":
                self.batchnorm(self.add("Mul", [x, self.weight(np.zeros(()))], c))

    def model(self) -> onnx.ModelProto:
        names = [n.output[0] for n in self.nodes if n.output[0] in self.tensors]
        outputs = {names[-1], *(n for n in names if self.draw(st.integers(0, 9)) == 0)}
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", 3, SIZE, SIZE])],
            [
                helper.make_tensor_value_info(
                    n, TensorProto.DOUBLE, ["N", self.tensors[n], SIZE, SIZE]
                )
                for n in sorted(outputs)
            ],
            self.weights,
        )
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    grown = RandomGraph(draw)
    for _ in range(draw(st.integers(2, 14))):
        grown.grow()
    return grown.model()


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(graphs(), st.booleans(), st.booleans())
def test_random_graphs_compute_the_same_after_folding(proto, equalize, as_convolution):
    model = ir.from_proto(proto)
    result, report = fold_affine(model, equalize=equalize, as_convolution=as_convolution)
    after = ir.to_proto(result)
    onnx.checker.check_model(after, full_check=True)
    assert report.batchnorm_after == 0
    assert [v.name for v in after.graph.output] == [v.name for v in proto.graph.output]
    x = {"x": np.random.default_rng(1).normal(size=(2, 3, SIZE, SIZE))}
    expected, found = (ReferenceEvaluator(p).run(None, x) for p in (proto, after))
    largest = max(1.0, *(np.max(np.abs(a)) for a in expected))
    for a, b in zip(expected, found, strict=True):
        assert np.max(np.abs(a - b)) <= 1e-9 * largest
