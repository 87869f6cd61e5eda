"""What folding does to small graphs in double precision, counted by hand.

The graphs are ONNX text; every weight is drawn at random, BatchNorm scales positive unless a
test says otherwise. Both graphs run in the ONNX reference evaluator, so agreement to 1e-10 means
that the algebra is right, at the border too.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from fbn_deploy.export.folding import FoldReport, fold_affine

X = (2, 4, 6, 5)


def graph_of(body: str, opset: int = 17, outputs: str = "double[N,C,H,W] y", **shapes):
    """A model that reads ``x`` of shape X; ``shapes`` are its weights, named by use.

    Names that start with ``g`` or ``v`` are drawn from [0.5, 1.5] (BatchNorm scale and
    variance), all others from a normal distribution; an array is taken as it is.
    """
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]>\n'
        f"test (double[N,4,6,5] x) => ({outputs}) {{\n{body}\n}}"
    )
    for name, shape in shapes.items():
        if isinstance(shape, np.ndarray):
            array = shape
        elif name[0] in "gv":
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(size=shape)
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return proto


def folded(proto: onnx.ModelProto, exact: float = 1e-10, **options) -> tuple[ir.Model, FoldReport]:
    """The folded model, after it has been shown to agree with ``proto``."""
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString()
    result, report = fold_affine(model, **options)
    assert ir.to_proto(model).SerializeToString() == before, "the input model was modified"
    after = ir.to_proto(result)
    onnx.checker.check_model(after, full_check=True)
    x = np.random.default_rng(1).normal(size=X)
    for a, b in zip(
        ReferenceEvaluator(proto).run(None, {"x": x}),
        ReferenceEvaluator(after).run(None, {"x": x}),
        strict=True,
    ):
        assert a.shape == b.shape
        assert np.max(np.abs(a - b)) <= exact * np.max(np.abs(a))
    assert report.batchnorm_after == 0
    return result, report


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def bn(y: str, x: str, number: int = 0) -> str:
    return f"{y} = BatchNormalization({x}, g{number}, b{number}, m{number}, v{number})"


def params(*numbers: int, channels: int = 4) -> dict[str, tuple[int, ...]]:
    return {f"{letter}{n}": (channels,) for n in numbers for letter in "gbmv"}


@pytest.mark.parametrize(
    ("conv", "weight"),
    [
        ("Conv", (4, 4, 3, 3)),
        ("Conv<pads=[1,1,1,1], strides=[2,1]>", (4, 4, 3, 3)),
        ("Conv<group=2, dilations=[2,2], pads=[2,2,2,2]>", (6, 2, 3, 3)),
        ("Conv<group=4, pads=[1,0,1,0]>", (8, 1, 3, 1)),
        ('Conv<auto_pad="SAME_UPPER">', (3, 4, 2, 2)),
        ("ConvTranspose<strides=[2,2], pads=[1,1,1,1]>", (4, 3, 3, 3)),
    ],
)
def test_batchnorms_around_a_convolution_vanish_when_their_scale_can_be_negative(conv, weight):
    transposed, groups = "Transpose" in conv, 2 if "group=2" in conv else 4 if "=4" in conv else 1
    outs = weight[1] * groups if transposed else weight[0]
    text = f"c = {conv}(x, w, k)\n{bn('n', 'c', 1)}\nq = Conv(n, w2)\n{bn('y', 'q', 2)}"
    weights = params(1, channels=outs) | params(2, channels=3)
    signed = {name: np.array([-1.0, 0.0, 2.0])[:3] for name in weights if name == "g2"}
    proto = graph_of(text, w=weight, k=(outs,), w2=(3, outs, 1, 1), **(weights | signed))
    model, report = folded(proto)
    assert sorted(operators(model)) == sorted([conv.split("<")[0], "Conv"])
    assert not report.stayed


def test_batchnorm_before_an_unpadded_convolution_folds_forward():
    model, _ = folded(graph_of(f"{bn('n', 'x')}\ny = Conv(n, w)", **params(0), w=(3, 4, 3, 3)))
    assert operators(model) == ["Conv"]


def test_batchnorm_before_a_padded_convolution_keeps_its_shift_only():
    text = f"{bn('n', 'x')}\ny = Conv<pads=[1,1,1,1]>(n, w)"
    _, report = folded(graph_of(text, **params(0), w=(3, 4, 3, 3)))
    assert (report.scales_stayed, report.shifts_stayed) == (0, 1)
    assert "border" in report.stayed[0].shift_reason


@pytest.mark.parametrize(
    ("pool", "shifts"),
    [
        ("AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=0>", 0),
        ("AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>", 1),
        ("AveragePool<kernel_shape=[2,2], strides=[2,2], count_include_pad=1>", 0),
        ("MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>", 0),
        ("GlobalAveragePool", 0),
        ("GlobalMaxPool", 0),
        ("ReduceMean<axes=[2,3], keepdims=1>", 0),
    ],
)
def test_a_batchnorm_before_a_pool_passes_it_unless_the_pool_counts_its_pads(pool, shifts):
    text = f"{bn('n', 'x')}\np = {pool}(n)\ny = Conv(p, w)"
    model, report = folded(graph_of(text, **params(0), w=(3, 4, 1, 1)))
    assert (report.scales_stayed, report.shifts_stayed) == (0, shifts)
    assert len(operators(model)) == 2 + shifts


def test_batchnorms_behind_pool_and_identity_vanish_into_the_convolution_of_their_sum():
    text = f"""h = Conv(x, w0)
        p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(h)
        {bn("a", "p", 0)}
        r = Relu(h)
        c = Conv<pads=[1,1,1,1]>(r, w1)
        {bn("d", "c", 1)}
        s = Add(a, d)
        t = Relu(s)
        y = Conv<pads=[1,1,1,1]>(t, w2)"""
    proto = graph_of(text, **params(0, 1), w0=(4, 4, 1, 1), w1=(4, 4, 3, 3), w2=(4, 4, 3, 3))
    model, report = folded(proto)
    assert not report.stayed
    assert sorted(operators(model)) == sorted(
        ["Conv", "AveragePool", "Relu", "Conv", "Add", "Relu", "Conv"]
    )


def triangle(**changes):
    """h → BN → s and h → pool → BN → s: two parallel edges, so one cycle; no convolution in s."""
    text = f"""h = Conv(x, w0)
        {bn("a", "h", 0)}
        p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(h)
        {bn("b", "p", 1)}
        s = Add(a, b)
        r = Relu(s)
        z = Relu(h)
        q = Conv(z, w1)
        o = Conv<pads=[1,1,1,1]>(r, w2)
        y = Add(q, o)"""
    return graph_of(
        text,
        **(params(0, 1) | {"w0": (4, 4, 1, 1), "w1": (4, 4, 1, 1), "w2": (4, 4, 3, 3)} | changes),
    )


def test_one_cycle_keeps_one_scale_and_its_shifts_merge_into_one():
    _, report = folded(triangle())
    assert (report.scales_stayed, report.shifts_stayed, len(report.stayed)) == (1, 1, 1)
    assert "cycle" in report.stayed[0].scale_reason


def test_equal_scales_around_a_cycle_cost_nothing():
    same = np.full(4, 0.7)
    _, report = folded(triangle(g0=same, g1=same, v0=same, v1=same))
    assert report.scales_stayed == 0


def test_a_negative_scale_before_relu_stays_and_is_exact():
    _, report = folded(triangle(g0=np.array([-1.0, 0.0, 2.0, 3.0])))
    assert report.scales_stayed == 1
    assert "negative" in report.stayed[0].scale_reason
    assert "s = 0" in report.stayed[0].scale_reason


def test_what_stays_is_a_depthwise_convolution_or_mul_and_add():
    as_convolution, _ = folded(triangle())
    elementwise, _ = folded(triangle(), as_convolution=False)
    assert "Mul" not in operators(as_convolution)
    assert operators(elementwise).count("Mul") == 1
    assert operators(elementwise).count("Add") == 3


def test_linear_readers_take_any_sign_and_every_shift():
    text = f"""h = Conv(x, w0)
        {bn("i", "h", 0)}
        e = Conv(i, w1)
        r = Clip(e, zero, six)
        c = Conv<pads=[1,1,1,1]>(r, w2)
        {bn("d", "c", 1)}
        s = Add(i, d)
        {bn("j", "s", 2)}
        k = Conv(j, w3)
        l = Conv(h, w3)
        y = Add(k, l)"""
    weights = {"w0": (4, 4, 1, 1), "w1": (6, 4, 1, 1), "w2": (4, 6, 3, 3), "w3": (3, 4, 1, 1)}
    signs = {"g0": np.array([-1.0, 2.0, -3.0, 0.5]), "g2": np.array([1.0, -2.0, -1.0, 1.0])}
    bounds = {"zero": np.array(0.0), "six": np.array(6.0)}
    _, report = folded(graph_of(text, **(params(0, 1, 2) | weights | signs | bounds)))
    assert not report.stayed
    assert any("bounds" in wall.reason for wall in report.walls)


def test_preactivation_blocks_fold_their_shift_backward_into_the_sum():
    text = f"""h = Conv(x, w0)
        {bn("a", "h", 0)}
        ra = Relu(a)
        ca = Conv<pads=[1,1,1,1]>(ra, w1)
        s = Add(h, ca)
        {bn("b", "s", 1)}
        rb = Relu(b)
        cb = Conv<pads=[1,1,1,1]>(rb, w1)
        t = Add(s, cb)
        {bn("c", "t", 2)}
        y = Relu(c)"""
    _, report = folded(graph_of(text, **params(0, 1, 2), w0=(4, 4, 1, 1), w1=(4, 4, 3, 3)))
    assert not report.stayed


def test_a_batchnorm_behind_a_zero_op_is_a_shift_of_its_sum():
    text = f"""h = Conv(x, w0)
        z = Mul(h, zero)
        {bn("a", "z", 0)}
        r = Relu(h)
        c = Conv(r, w1)
        y = Add(a, c)"""
    proto = graph_of(text, **params(0), zero=np.array(0.0), w0=(4, 4, 1, 1), w1=(4, 4, 1, 1))
    model, report = folded(proto)
    assert operators(model) == ["Conv", "Relu", "Conv"]
    assert not report.stayed


def test_zeros_as_the_exporter_writes_them_are_followed_through_cast_and_convolution():
    text = f"""h = Conv(x, w0)
        n = ConstantOfShape(none)
        d = Cast<to=11>(n)
        s = Shape(h)
        e = Expand(d, s)
        {bn("a", "e", 0)}
        r = Relu(a)
        c = Conv(r, w1)
        {bn("b", "c", 1)}
        y = Add(b, h)"""
    empty = np.zeros(0, np.int64)
    proto = graph_of(text, **params(0, 1), none=empty, w0=(4, 4, 1, 1), w1=(4, 4, 1, 1))
    model, report = folded(proto)
    assert operators(model) == ["Conv"]
    assert not report.stayed


def test_a_constant_before_a_padded_convolution_is_filled_in_and_right_at_the_border():
    text = f"""s = Shape(x)
        e = Expand(zero, s)
        {bn("a", "e", 0)}
        r = Relu(a)
        c = Conv<pads=[1,1,1,1]>(r, w)
        y = Add(c, x)"""
    model, report = folded(graph_of(text, **params(0), zero=np.array(0.0), w=(4, 4, 3, 3)))
    assert not report.stayed
    assert "BatchNormalization" not in operators(model)


def test_a_constant_behind_an_expand_that_expands_nothing_keeps_the_size_of_its_input():
    text = f"""h = Relu(x)
        e = Expand(h, ones)
        z = Mul(e, zero)
        {bn("a", "z", 0)}
        c = Conv<pads=[1,1,1,1]>(a, w)
        y = Add(c, x)"""
    ones, zero = np.ones(4, np.int64), np.array(0.0)
    proto = graph_of(text, **params(0), ones=ones, zero=zero, w=(4, 4, 3, 3))
    model, report = folded(proto)
    assert not report.stayed
    assert "BatchNormalization" not in operators(model)


@pytest.mark.parametrize(
    "middle",
    [
        "q = Concat<axis=1>(n, x)\ny = Conv(q, w8)",
        "a, b = Split<axis=1>(n)\nc = Concat<axis=1>(b, a)\ny = Conv(c, w4)",
        "d = Reshape(n, five)\ne = Transpose<perm=[0,2,1,3,4]>(d)\nf = Reshape(e, four)\n"
        "y = Conv(f, w4)",
        "f = Flatten(n)\ny = Gemm<transB=1>(f, wf, kf)",
        "f = Flatten(n)\ny = MatMul(f, wm)",
        "p = GlobalAveragePool(n)\nf = Flatten(p)\ny = Gemm<alpha=0.5, beta=2.0>(f, wg, k)",
        "m = Mul(n, scale)\na = Add(m, shift)\ny = Conv(a, w4)",
        "m = Sub(shift, n)\na = Div(m, scale)\ny = Conv(a, w4)",
        "s = Slice(n, one, three, one)\ny = Conv(s, w2)",
        "i = Identity(n)\nj = Dropout(i)\ny = Conv(j, w4)",
        "i, mask = Dropout(n)\ny = Conv(i, w4)",
        "p = GlobalAveragePool(n)\nf = Flatten(p)\ny = Gemm(f, wg, k1)",
        'q = Pad<mode="reflect">(n, pads)\ny = Conv(q, w4)',
        "z = Neg(n)\ny = Conv(z, w4)",
        "t = Transpose<perm=[0,2,3,1]>(n)\nu = Transpose<perm=[0,3,1,2]>(t)\ny = Conv(u, w4)",
        "u = Unsqueeze(n, one)\nv = Squeeze(u, one)\ny = Conv(v, w4)",
    ],
)
def test_a_batchnorm_passes_what_only_moves_or_maps_channels(middle):
    proto = graph_of(
        f"{bn('n', 'x')}\n{middle}",
        outputs="double[N,D] y" if "f = Flatten" in middle else "double[N,C,H,W] y",
        **params(0),
        w8=(3, 8, 1, 1),
        w4=(3, 4, 1, 1),
        w2=(3, 2, 1, 1),
        wf=(3, 120),
        kf=(3,),
        wm=(120, 3),
        wg=(4, 3),
        k=(3,),
        k1=(1, 3),
        scale=(4, 1, 1),
        shift=(1, 4, 1, 1),
        one=np.array([1]),
        three=np.array([3]),
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        five=np.array([0, 2, 2, 6, 5]),
        four=np.array([0, 4, 6, 5]),
    )
    _, report = folded(proto)
    assert not report.stayed


def test_a_bias_that_differs_from_image_to_image_stands_in_the_way():
    """Of shape (2, 1) for 2 images and 2 outputs: not one value for each output."""
    text = f"""r = Relu(x)
        {bn("n", "r")}
        p = GlobalAveragePool(n)
        f = Flatten(p)
        y = Gemm(f, w, k)"""
    proto = graph_of(text, outputs="double[N,D] y", **params(0), w=(4, 2), k=(2, 1))
    _, report = folded(proto)
    assert any("image to image" in wall.reason for wall in report.walls)
    assert report.shifts_stayed == 1


def test_squeeze_excite_passes_the_scale_and_keeps_the_gate():
    text = f"""h = Conv(x, w0)
        {bn("n", "h", 0)}
        r = Relu(n)
        p = ReduceMean<axes=[2,3], keepdims=1>(r)
        a = Conv(p, w1)
        b = Relu(a)
        c = Conv(b, w2)
        g = Sigmoid(c)
        s = Mul(r, g)
        q = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(s)
        {bn("m", "q", 1)}
        y = Conv(m, w3)"""
    weights = {"w0": (4, 4, 1, 1), "w1": (2, 4, 1, 1), "w2": (4, 2, 1, 1), "w3": (3, 4, 1, 1)}
    _, report = folded(graph_of(text, **params(0, 1), **weights))
    assert not report.stayed


@pytest.mark.parametrize("activation", ["Sigmoid", "HardSwish", "Tanh", "Elu", "Softplus"])
def test_curved_activations_are_walls_with_a_reason(activation):
    text = f"h = Conv(x, w)\nr = Relu(h)\n{bn('n', 'r')}\na = {activation}(n)\ny = Conv(a, w)"
    _, report = folded(graph_of(text, **params(0), w=(4, 4, 1, 1)))
    assert report.scales_stayed == 0
    assert report.shifts_stayed == 1
    assert any(wall.op_type == activation and "≠" in wall.reason for wall in report.walls)


def test_an_unknown_operator_is_a_wall_and_is_named():
    text = f"h = Relu(x)\n{bn('n', 'h')}\ny = CumSum(n, axis)"
    _, report = folded(graph_of(text, **params(0), axis=np.array(1)))
    assert (report.scales_stayed, report.shifts_stayed) == (1, 1)
    assert any("no rule for the operator CumSum" in wall.reason for wall in report.walls)


def test_zero_padding_lets_a_scale_pass_but_no_shift():
    text = f"r = Relu(x)\n{bn('n', 'r')}\np = Pad(n, pads)\ny = Conv(p, w)"
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    _, report = folded(graph_of(text, **params(0), pads=pads, w=(3, 4, 3, 3)))
    assert (report.scales_stayed, report.shifts_stayed) == (0, 1)


def test_the_largest_tensor_is_freed_and_the_smallest_keeps_the_scale():
    """One cycle h –BN– a, h –pool/2, BN– b, a –pool/2– sum: the edges have 120 and 24 numbers."""
    text = f"""h = Conv(x, w0)
        {bn("a", "h", 0)}
        k = Relu(a)
        u = AveragePool<kernel_shape=[2,2], strides=[2,2]>(k)
        r = Relu(h)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        {bn("b", "p", 1)}
        s = Add(u, b)
        y = Relu(s)"""
    _, report = folded(graph_of(text, **params(0, 1), w0=(4, 4, 1, 1)))
    assert [item.elements for item in report.stayed if item.scale] == [4 * 3 * 2]


def test_an_ill_conditioned_chain_is_cut_at_the_limit_and_reported():
    text = f"""h = Conv(x, w0)
        {bn("a", "h", 0)}
        r = Relu(a)
        {bn("b", "r", 1)}
        t = Relu(b)
        c = Conv(t, w0)
        d = Conv(h, w0)
        y = Add(c, d)"""
    tiny = {"g0": np.full(4, 1e-4), "g1": np.full(4, 1e-4)}
    proto = graph_of(text, **(params(0, 1) | tiny), w0=(4, 4, 1, 1))
    assert folded(proto)[1].scales_stayed == 0
    report = folded(proto, gauge_limit=16.0)[1]
    assert report.scales_stayed == 1
    assert "2^16" in next(item.scale_reason for item in report.stayed if item.scale)
    assert report.gauge[1] / report.gauge[0] <= 2**17


def test_equalisation_narrows_channel_ranges_and_changes_nothing():
    wide = (
        np.random.default_rng(2).normal(size=(6, 4, 1, 1))
        * 10.0 ** np.arange(-3, 3)[:, None, None, None]
    )
    text = "c = Conv(x, w0)\nr = Relu(c)\nd = Conv<pads=[1,1,1,1]>(r, w1)\ny = Relu(d)"
    proto = graph_of(text, w0=wide, w1=(3, 6, 3, 3))
    model, report = folded(proto, equalize=True)
    ranges = [
        np.max(np.abs(node.inputs[1].const_value.numpy()), axis=(1, 2, 3))
        for node in model.graph
        if node.op_type == "Conv"
    ]
    assert np.max(ranges[0]) / np.min(ranges[0]) < np.sqrt(1e5)
    assert report.equalized


def test_a_sum_of_a_tensor_and_its_own_batchnorm_sends_no_shift_round_in_a_circle():
    text = f"""{bn("a", "x", 0)}
        {bn("b", "a", 1)}
        s = Add(a, b)
        {bn("y", "s", 2)}"""
    folded(graph_of(text, **params(0, 1, 2) | {"g0": np.array([0.0, 5.0, 0.0, 1.0])}))
