"""What the report is made of: escaping, numbers, scales, and architectures by their names."""

from __future__ import annotations

import html
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import CHAIN, DARTS, NB101, NB201

from fbn_deploy.report import amounts
from fbn_deploy.report.architecture import Cell, Stage, laid_out, shares
from fbn_deploy.report.confidence import interval
from fbn_deploy.report.markup import escaped, tag
from fbn_deploy.report.measured import Layer
from fbn_deploy.report.svg import around


@given(st.text())
def test_text_is_never_html(text: str) -> None:
    written = escaped(text)
    assert not set('<>"') & set(written)
    written.encode()
    if text.isascii() and text.isprintable():
        assert html.unescape(written) == text


def test_what_is_html_is_not_escaped_twice() -> None:
    inner = tag("b", "a < b")
    assert tag("p", inner, None, [" & ", 3], class_="x") == (
        '<p class="x"><b>a &lt; b</b> &amp; 3</p>'
    )


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (amounts.milliseconds(0.06108), "0.06108 ms"),
        (amounts.milliseconds(1.1664), "1.166 ms"),
        (amounts.milliseconds(1234.5), "1234 ms"),
        (amounts.milliseconds(math.inf), "–"),
        (amounts.digits(-0.6217), "−0.6217"),
        (amounts.digits(0), "0"),
        (amounts.relative(5.4e-7), "5.4·10⁻⁷"),
        (amounts.count(32_160_000), "32.2 M"),
        (amounts.size(2_710_000), "2.71 MB"),
        (amounts.size(12), "12 B"),
        (amounts.points(-0.0123), "−1.23"),
        (amounts.points(0.00001), "±0.00"),
        (amounts.speedup(0.25), "4.00 times as slow as"),
        (amounts.large(6e18), "6.0·10¹⁸"),
        (amounts.plural(2, "class", "classes"), "2 classes"),
    ],
)
def test_numbers_are_written_as_people_read_them(shown: str, expected: str) -> None:
    assert shown.replace(amounts.SPACE, " ") == expected


numbers = st.floats(0, 1e9, allow_subnormal=False)


@given(st.lists(numbers, min_size=1))
def test_a_scale_holds_its_values_and_has_a_handful_of_ticks(values: list[float]) -> None:
    scale = around(values, 10, 100)
    positions = [scale(value) for value in sorted(values)]
    assert positions == sorted(positions)
    assert all(10 <= position <= 100 for position in positions)
    assert len(scale.ticks()) <= 13


def test_layers_of_a_chain_stand_in_their_stages() -> None:
    assert laid_out(CHAIN) == [
        Stage("stage1", (("stage1.0", "mb3_k3"), ("stage1.1", "identity"))),
        Stage("stage2", (("stage2.0", "mb6_k5"),)),
    ]
    many = {f"layer{n}": "k3" for n in range(12)}
    (stage,) = laid_out(many)
    assert isinstance(stage, Stage)
    assert [name for name, _ in stage.layers] == list(many)  # layer2 before layer10


def test_edges_of_a_cell_have_their_ops() -> None:
    (cell,) = laid_out(NB201)
    assert isinstance(cell, Cell)
    assert cell.nodes == ("0", "1", "2", "3")
    assert {(e.start, e.end): e.option for e in cell.edges}[("1", "3")] == "nor_conv_1x1"
    normal, reduce = laid_out(DARTS)
    assert isinstance(normal, Cell)
    assert (normal.name, reduce.name) == ("normal", "reduce")
    assert {(e.start, e.end): e.option for e in normal.edges}[("2", "3")] == "dil_conv_5x5"


def test_ops_on_nodes_are_of_the_nodes_that_an_edge_reaches() -> None:
    (cell,) = laid_out(NB101)
    assert isinstance(cell, Cell)
    assert cell.nodes == ("0", "1", "2", "6")
    assert len(cell.edges) == 5
    assert cell.ops["1"] == "maxpool3x3"


def layer(name: str, share: float, *nodes: str) -> Layer:
    return Layer(name, "Conv", False, share, share, nodes)


def test_time_is_told_by_the_names_of_layers() -> None:
    chain = [
        layer("stage1_0.mb3_k3.expand.conv/Conv", 0.25),
        layer("fused_7", 0.5, "stage2_0.mb6_k5.depthwise.conv/Conv"),
        layer("stage1_0.mb3_k3.project.conv/Conv", 0.125),
        layer("stem.conv/Conv", 0.125),
    ]
    assert shares(chain, CHAIN) == {"stage1.0": 0.375, "stage2.0": 0.5}
    cells = [
        layer("stage0_cell0.edges.3<-1.nor_conv_1x1.conv/Conv", 0.5),
        layer("stage1_cell0.edges.3<-1.nor_conv_1x1.conv/Conv", 0.25),
        layer("stage0_cell0.edges.2<-1.nor_conv_1x1.conv/Conv", 0.25),  # not what was chosen
    ]
    assert shares(cells, NB201) == {"3<-1": 0.75}


def test_time_that_could_be_of_two_choices_is_of_neither() -> None:
    assert shares([layer("cells.0.edges.4b.sep_conv_5x5~3.conv/Conv", 1.0)], DARTS) == {}


def test_an_accuracy_is_as_sure_as_its_images_are_many() -> None:
    low, high = interval(0.9, 100)  # Wilson's interval for 90 of 100
    assert (round(low, 3), round(high, 3)) == (0.826, 0.945)
    assert interval(1.0, 10)[1] == pytest.approx(1.0)
    assert interval(0.0, 10)[0] == pytest.approx(0.0)
