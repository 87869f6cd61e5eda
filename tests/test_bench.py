"""Indicators against a table: what is read, refused and counted; a whole bench of a tiny net."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fbn_deploy import ranking
from fbn_deploy.bench.choose import chosen, read_list
from fbn_deploy.bench.csvfile import read_csv
from fbn_deploy.bench.settings import BenchSettings
from fbn_deploy.bench.trained import trained_table
from fbn_deploy.errors import FBNError
from fbn_deploy.pipeline.bench import bench
from fbn_deploy.pipeline.context import Given, open_run
from fbn_deploy.progress import Silent
from fbn_deploy.space import Decision, SearchSpace
from fbn_deploy.supernet import training
from searchspaces import nasbench201

CELLS = SearchSpace(
    "nasbench201",
    tuple(Decision(f"{j}<-{i}", nasbench201.OPS) for j, i in nasbench201.EDGES),
    is_valid=nasbench201.is_valid,
    canonical_form=nasbench201.canonical,
    text_form=nasbench201.text,
    text_parser=nasbench201.parse,
)
CUT_OFF = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
CONV = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"
SAME_AS_CONV = "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"
Row = tuple[str, object, object]
Done = tuple[Path, BenchSettings, dict[str, Any]]


def cells(count: int) -> list[str]:
    """Texts of different valid cells; none of them is ``CONV``."""
    rng = random.Random(0)
    found = {CELLS.canonical(CELLS.parse(CONV)): CONV}
    while len(found) <= count:
        cell = CELLS.sample(rng)
        found.setdefault(CELLS.canonical(cell), CELLS.text(cell))
    return list(found.values())[1:]


def write(path: Path, rows: list[Row]) -> Path:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("arch", "accuracy", "ms"), *rows])
    content = file.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def good_rows(count: int) -> list[Row]:
    return [(text, 50 + number, 1 + number % 4) for number, text in enumerate(cells(count))]


def settings(table: Path, **options: Any) -> BenchSettings:
    asked = {"indicators": ("cpi", "gamma"), "samples": 12, "probe_batches": 2, "probe_size": 16}
    return BenchSettings(table, "arch", "accuracy", **{**asked, **options})


def tiny_bench(run: Path, asked: BenchSettings, **given: Any) -> dict[str, Any]:
    said = {"space": "nasbench201", "resolution": 16, "options": {"channels": 4, "cells": 1}}
    said |= {"seed": 0, "supernet": {"epochs": 0.2}}
    return bench(open_run(run, Given(**{**said, **given}), Silent()), asked.checked())


def test_a_gzipped_table_is_the_plain_one(tmp_path: Path) -> None:
    rows = good_rows(3)
    plain, zipped = write(tmp_path / "t.csv", rows), write(tmp_path / "t.csv.gz", rows)
    assert read_csv(plain).rows == read_csv(zipped).rows
    assert read_csv(plain).rows[1] == {"arch": rows[1][0], "accuracy": "51", "ms": "2"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x80\x81\x00\xff", "Cannot read the table"),
        (b"\x1f\x8b\x08\x00 cut short", "Cannot read the table"),
        (b'a,b\n"open', "Cannot read the table"),
        (b"", "has no rows"),
        (b"arch,accuracy\n", "has no rows"),
    ],
)
def test_what_is_no_table_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(FBNError, match=said):
        read_csv(tmp_path / "t.csv")


def test_all_mistakes_are_said_at_once_before_any_work(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", good_rows(12))
    asked = BenchSettings(
        table,
        "cell",
        "accuracy",
        ("cpi", "gama", "naswat"),
        samples=3,
        latency_column="gpu",
        latency_budgets=("5", "openvino-cpu:4ms"),
        supernet=tmp_path / "none.safetensors",
    )
    with pytest.raises(FBNError) as caught:
        asked.checked()
    said = str(caught.value)
    for part in (
        "no column 'cell' (--architecture-column); its columns are: arch, accuracy, ms",
        "no column 'gpu' (--latency-column)",
        "Did you mean 'gamma'?",
        "'naswat'",
        "at least 10 samples",
        "latency budget '5'",
        "'openvino-cpu:4ms' names a target",
        "none.safetensors",
    ):
        assert part in said


def test_a_budget_needs_its_column(tmp_path: Path) -> None:
    asked = settings(write(tmp_path / "t.csv", good_rows(12)), latency_budgets=("4ms",))
    with pytest.raises(FBNError, match="go together"):
        asked.checked()


def test_plots_without_matplotlib_are_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = settings(write(tmp_path / "t.csv", good_rows(12)), plots=tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FBNError, match=r"fbn-deploy\[bench\]"):
        asked.checked()


def test_every_row_that_is_left_out_is_counted_with_its_reason(tmp_path: Path) -> None:
    others: list[Row] = [
        ("conv, conv, conv", 90, 1),
        (CUT_OFF, 10, 1),
        (CONV, "failed", 1),
        (CONV, "nan", 1),
        (CONV, 90, ""),
        (CONV, 91, 1),
        (SAME_AS_CONV, 92, 1),
    ]
    table = trained_table(
        read_csv(write(tmp_path / "t.csv", good_rows(12) + others)),
        CELLS, ["arch"], "accuracy", "ms",
    )  # fmt: skip
    rows, skipped = chosen(table, CELLS, samples=100, seed=0, min_accuracy=52)
    assert skipped == {
        "unreadable": 1,
        "invalid": 1,
        "no_accuracy": 2,
        "no_latency": 1,
        "duplicate": 1,
        "below_min_accuracy": 2,
    }
    assert len(rows) == 11
    assert next(r.accuracy for r in rows if r.canonical == CELLS.canonical(CELLS.parse(CONV))) == 91


def test_an_architecture_may_be_a_json_object(tmp_path: Path) -> None:
    as_json = json.dumps(dict(CELLS.parse(CONV)))
    file = read_csv(write(tmp_path / "t.csv", [(as_json, 90, 1), ('{"3<-0": 4}', 90, 1)]))
    table = trained_table(file, CELLS, ["arch"], "accuracy")
    assert [row.architecture for row in table.rows] == [CELLS.parse(CONV)]
    assert table.skipped["unreadable"] == 1


def test_an_architecture_may_be_spread_over_columns(tmp_path: Path) -> None:
    space = SearchSpace(
        "two",
        (Decision("a", ("0", "1")), Decision("b", ("0", "1"))),
        text_parser=lambda text: dict(zip("ab", text.split(), strict=True)),
    )
    file = read_csv(write(tmp_path / "t.csv", [("0", 1, 9)]))
    (row,) = trained_table(file, space, ["arch", "accuracy"], "ms").rows
    assert dict(row.architecture) == {"a": "0", "b": "1"}
    asked = BenchSettings(file.path, "arch,cell", "ms", ("cpi",))
    with pytest.raises(FBNError, match="no column 'cell'"):
        asked.checked()


def test_a_seed_draws_the_same_sample(tmp_path: Path) -> None:
    table = trained_table(
        read_csv(write(tmp_path / "t.csv", good_rows(60))), CELLS, ["arch"], "accuracy"
    )
    draw: Callable[[int], Any] = lambda seed: chosen(table, CELLS, samples=20, seed=seed)[0]  # noqa: E731
    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert len({row.canonical for row in draw(3)}) == 20


def test_listed_architectures_are_scored_with_their_own_rows(tmp_path: Path) -> None:
    rows: list[Row] = [*good_rows(12), (CONV, 91, 1), (SAME_AS_CONV, 92, 1)]
    table = trained_table(read_csv(write(tmp_path / "t.csv", rows)), CELLS, ["arch"], "accuracy")
    listed = [SAME_AS_CONV, *cells(12)[::-1]]
    picked, _ = chosen(table, CELLS, samples=10, seed=0, listed=listed)
    assert [CELLS.text(row.architecture) for row in picked] == listed
    assert picked[0].accuracy == 92


def test_two_spellings_of_a_network_score_and_cost_the_same(tmp_path: Path) -> None:
    """The convolutions of one of them never reach its output."""
    dead_ends = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|none~1|none~2|"
    found = []
    for number, text in enumerate((SAME_AS_CONV, dead_ends)):
        table = write(tmp_path / f"{number}.csv", [*good_rows(12), (text, 91, 1)])
        asked = settings(table, samples=13, indicators=("expressivity-rank", "flops"))
        content = tiny_bench(tmp_path / f"run{number}", asked, supernet={"epochs": 0.0})
        found.append(next(each for each in content["architectures"] if each["text"] == text))
    assert found[0]["values"] == found[1]["values"]
    assert found[0]["flops"] == found[1]["flops"]


def test_listed_architectures_that_the_table_lacks_are_named(tmp_path: Path) -> None:
    table = trained_table(
        read_csv(write(tmp_path / "t.csv", good_rows(12))), CELLS, ["arch"], "accuracy"
    )
    with pytest.raises(FBNError) as caught:
        chosen(table, CELLS, samples=10, seed=0, listed=cells(32))
    said = str(caught.value)
    assert "20 of 32 listed architectures" in said
    assert cells(13)[-1] in said
    assert "15 more" in said


def test_lists_are_lines_or_json(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text(f"# two of them\n{CONV}\n\n{CUT_OFF}\n")
    assert read_list(path) == [CONV, CUT_OFF]
    path.write_text(json.dumps([CONV, {"a": "b"}]))
    assert read_list(path) == [CONV, '{"a": "b"}']
    for wrong in ("", "[1,"):
        path.write_text(wrong)
        with pytest.raises(FBNError):
            read_list(path)


def test_too_few_architectures_are_refused_before_training(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", [*good_rows(9), (CUT_OFF, 10, 1)])
    with pytest.raises(FBNError, match=r"only 9 can be used \(skipped: 1 not valid"):
        tiny_bench(tmp_path / "run", settings(table))
    assert not (tmp_path / "run" / "supernet.safetensors").exists()


def test_a_table_of_another_space_says_why_its_first_row_is_unreadable(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", [(f"net{n}", n, 1) for n in range(20)])
    with pytest.raises(FBNError, match=r"20 not an architecture.*Cannot read the NAS-Bench-201"):
        tiny_bench(tmp_path / "run", settings(table))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A bench of 12 of 20 cells: its run directory, settings and content."""
    folder = tmp_path_factory.mktemp("bench")
    asked = settings(
        write(folder / "t.csv.gz", good_rows(20)),
        latency_column="ms",
        latency_budgets=("2ms", "500us"),
        plots=folder / "plots",
    )
    return folder / "run", asked, tiny_bench(folder / "run", asked)


def test_a_bench_reports_what_its_rows_say(
    done: Done,
) -> None:
    run, asked, content = done
    assert json.loads((run / "bench.json").read_text()) == content
    assert content["space"] == "nasbench201"
    assert content["samples"] == len(content["architectures"]) == 12
    accuracies = [each["accuracy"] for each in content["architectures"]]
    flops = [each["flops"] for each in content["architectures"]]
    assert [each["indicator"] for each in content["results"]] == ["cpi", "gamma"]
    for result in content["results"]:
        ranks = [each["ranks"][result["indicator"]] for each in content["architectures"]]
        quality = [-rank for rank in ranks]
        assert result["kendall"] == ranking.kendall(quality, accuracies)
        assert result["spearman"] == ranking.spearman(quality, accuracies)
        assert result["interval"][0] <= result["kendall"] <= result["interval"][1]
        assert result["partial_kendall_given_flops"] == ranking.partial_kendall(
            quality, accuracies, flops
        )
        if ranks.count(min(ranks)) == 1:
            assert result["accuracy_of_pick"] == accuracies[ranks.index(min(ranks))]
        assert result["seconds_per_candidate"] > 0
        assert result["not_finite"] == 0
    fitting = [each for each in content["architectures"] if each["latency_ms"] <= 2]
    for entry in content["regret"]:
        if entry["budget_ms"] == 2:
            assert entry["best"] == max(each["accuracy"] for each in fitting)
            assert entry["regret"] == entry["best"] - entry["accuracy"]
        else:
            assert entry["budget_ms"] == 0.5
            assert entry["fitting"] == 0
            assert entry["accuracy"] is entry["best"] is entry["regret"] is None
    assert asked.plots is not None
    names = {path.name for path in asked.plots.iterdir()}
    assert names == {"scores.svg", "scores.png", "seconds.svg", "seconds.png"}
    assert (asked.plots / "scores.svg").read_text().count("<svg") == 1


def test_the_same_run_again_scores_nothing_anew(
    done: Done,
) -> None:
    run, asked, content = done
    scores = (run / "scores.jsonl").read_bytes()
    again = tiny_bench(run, asked)
    assert (run / "scores.jsonl").read_bytes() == scores
    assert again == content  # the seconds too: those of the time when it was scored


def test_a_bench_that_was_killed_in_the_middle_of_a_line_goes_on(
    done: Done, tmp_path: Path
) -> None:
    run, asked, content = done
    scores = (run / "scores.jsonl").read_bytes()
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "scores.jsonl").write_bytes(scores[: len(scores) // 2])
    resumed = tiny_bench(tmp_path / "run", asked)
    for one, two in zip(resumed["results"], content["results"], strict=True):
        assert one["seconds_measured_on"] == 12
        seconds = {"seconds_per_candidate"}  # half of them were measured anew
        assert {k: one[k] for k in one.keys() - seconds} == {
            k: two[k] for k in two.keys() - seconds
        }


def test_scores_whose_seconds_nobody_wrote_down_have_none(done: Done, tmp_path: Path) -> None:
    _, asked, _ = done
    tiny = tiny_bench(tmp_path / "run", asked)
    lines = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").open()]
    for line in lines:
        del line["seconds"]
    (tmp_path / "run" / "scores.jsonl").write_text("\n".join(map(json.dumps, lines)))
    untimed = tiny_bench(tmp_path / "run", asked)
    for result, timed in zip(untimed["results"], tiny["results"], strict=True):
        assert result["seconds_per_candidate"] is None
        assert result["kendall"] == timed["kendall"]


def test_an_indicator_that_is_right_has_tau_1_and_no_regret(done: Done, tmp_path: Path) -> None:
    run, _, content = done
    rows: list[Row] = [
        (each["text"], 100 - each["ranks"]["gamma"], 1) for each in content["architectures"]
    ]
    table = write(tmp_path / "t.csv", rows)
    right = tiny_bench(
        run, settings(table, indicators=("gamma",), latency_column="ms", latency_budgets=("1ms",))
    )
    (result,), (entry,) = right["results"], right["regret"]
    assert result["kendall"] == pytest.approx(1)
    assert result["accuracy_of_pick"] == result["best_in_top10"] == right["best_accuracy"]
    assert entry["regret"] == 0


def test_an_indicator_says_the_same_whatever_else_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "MIN_STEPS", 3)
    monkeypatch.setattr(training, "MAX_STEPS", 3)
    table, given = write(tmp_path / "t.csv", good_rows(10)), {"options": {"channels": 4}}
    alone = tiny_bench(
        tmp_path / "a", settings(table, indicators=("cpi", "naswot")), supernet=None, **given
    )
    beside = tiny_bench(
        tmp_path / "b",
        settings(table, indicators=("gamma", "cpi", "naswot")),
        supernet=None,
        **given,
    )
    for one, two in zip(alone["architectures"], beside["architectures"], strict=True):
        assert one["ranks"] == {name: two["ranks"][name] for name in ("cpi", "naswot")}
        assert one["values"] == {"naswot": two["values"]["naswot"]}
    homes = {each["indicator"]: each for each in beside["results"]}
    cells = {name: each["scored_in"]["options"]["cells"] for name, each in homes.items()}
    assert cells == {"gamma": 5, "cpi": 1, "naswot": 5}
    assert (homes["cpi"]["epochs"], homes["gamma"]["epochs"]) == (0, None)


def test_a_supernet_from_a_file_that_is_not_trained_is_read_in_the_proxy(tmp_path: Path) -> None:
    table, given = write(tmp_path / "t.csv", good_rows(10)), {"options": {"channels": 4}}
    asked = settings(table, indicators=("cpi",))
    first = tiny_bench(tmp_path / "a", asked, supernet=None, **given)
    file = tmp_path / "a" / "supernet.safetensors"
    asked = settings(table, indicators=("cpi",), supernet=file)
    second = tiny_bench(tmp_path / "b", asked, supernet=None, **given)
    assert second["results"][0]["scored_in"]["options"]["cells"] == 1
    for one, two in zip(first["architectures"], second["architectures"], strict=True):
        assert one["ranks"] == two["ranks"]


def test_a_supernet_from_a_file_gives_the_scores_of_its_run(done: Done, tmp_path: Path) -> None:
    run, asked, content = done
    supernet = run / "supernet.safetensors"
    other = tiny_bench(tmp_path / "run", settings(asked.table, supernet=supernet), supernet=None)
    assert not (tmp_path / "run" / "supernet.safetensors").exists()
    assert other["supernet"]["settings"] == content["supernet"]["settings"]
    for one, two in zip(other["architectures"], content["architectures"], strict=True):
        assert one["ranks"] == two["ranks"]
    with pytest.raises(FBNError, match="space options channels: 4 there, 8 asked"):
        tiny_bench(
            tmp_path / "wider",
            settings(asked.table, supernet=supernet),
            options={"channels": 8, "cells": 1},
        )
    with pytest.raises(FBNError, match="bn: fair there, conv-only asked"):
        tiny_bench(tmp_path / "bn", settings(asked.table, supernet=supernet), bn="conv-only")


def test_the_command_prints_a_table_and_refuses_with_exit_code_2(
    done: Done, tmp_path: Path
) -> None:
    run, asked, _ = done
    command = [sys.executable, "-m", "fbn_deploy", "bench", "--table", str(asked.table),
               "--architecture-column", "arch", "--accuracy-column", "accuracy", "--samples", "12",
               "--probe-batches", "2", "--probe-size", "16"]  # fmt: skip
    shown = subprocess.run(
        [*command, "--run", str(run), "--indicators", "gamma,cpi", "--latency-column", "ms",
         "--latency-budgets", "2ms,500us"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    for part in ("12 trained architectures of nasbench201", "cpi", "gamma", "≤ 2 ms", "none fits"):
        assert part in shown.stdout
    wrong = subprocess.run(
        [*command, "--run", str(tmp_path / "run"), "--indicators", "nothing"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert "No indicator 'nothing'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert not (tmp_path / "run").exists()
