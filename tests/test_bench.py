"""The measurements of ``experiments/bench`` on shapes for nothing but this."""

from __future__ import annotations

import csv
import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.policies import POLICIES, TopProbability
from lightning_mdm.output import DenoiserOutput

pytestmark = pytest.mark.draws

BENCH = Path(__file__).resolve().parents[1] / "experiments" / "bench"
CPU = torch.device("cpu")
COLUMNS = ["name", "device", "batch", "canvas", "steps", "value", "unit", "target", "commit"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The scripts, which import one another by their names."""
    names = [path.stem for path in BENCH.glob("*.py")]
    monkeypatch.syspath_prepend(str(BENCH))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in names:
        del sys.modules[name]


def measured(bench: SimpleNamespace, folder: Path) -> Any:
    """Measurements as quick as can be, their rows in a folder."""
    return bench.measuring.Bench(CPU, folder / "rows.csv", 0.0)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_command_measures_everything_and_nothing_twice(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--tiny", "--device", "cpu", "--patience", "0", "--out", str(tmp_path)]
    monkeypatch.setattr(bench.measuring, "commit_hash", lambda _: "one")
    bench.run.main([*command, "--only", "naive"])
    first = rows_of(tmp_path)
    assert list(first[0]) == COLUMNS
    bench.run.main(command)
    rows = rows_of(tmp_path)
    assert rows[: len(first)] == first
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    parts = {name.split("/")[1] for name in names if name.startswith("tiny/")}
    assert parts == {"training", "order", "decoding", "cost"}
    assert all(float(row["value"]) > 0.0 and row["commit"] and row["device"].startswith("cpu ") for row in rows)
    assert not any("utilisation" in name or "memory" in name for name in names), "no peak is known of a CPU"
    assert {path.name for path in tmp_path.iterdir()} == {"rows.csv", "cost_tiny_cpu.png", "cost_tiny_cpu.svg"}

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(bench.measuring.Clock, "seconds", never)
    bench.run.main(command)
    assert rows_of(tmp_path) == rows
    (tmp_path / "cost_tiny_cpu.png").unlink()
    monkeypatch.setattr(bench.measuring, "commit_hash", lambda _: "another")
    bench.run.main([*command, "--only", "figure"])
    assert (tmp_path / "cost_tiny_cpu.png").exists(), "the figure needs rows of any commit"
    with pytest.raises(AssertionError, match="measured again"):
        bench.run.main(command)


@pytest.mark.parametrize("commit", ["unknown", "abc1234-dirty", "abc1234"])
def test_rows_of_a_commit_that_may_be_another_are_measured_again(
    bench: SimpleNamespace, tmp_path: Path, commit: str
) -> None:
    """Within a run they count, and in a later one where that is said."""

    def run(same_code: bool = False) -> Any:
        return bench.measuring.Bench(CPU, tmp_path / "rows.csv", 0.0, commit, same_code)

    first, sizes = run(), {"batch": 1, "canvas": 1}
    for name in ("a", "b"):
        assert not first.has(name)
        first.row(name, 1.0, "s", **sizes)
    assert first.has("a", "b")
    assert run(same_code=True).has("a", "b")
    later = run()
    assert later.has("a") == later.has("b") == (commit == "abc1234")
    later.row("a", 2.0, "s", **sizes)
    assert later.has("a")
    found = [(row["name"], row["value"]) for row in rows_of(tmp_path)]
    assert found == [("b", "1"), ("a", "2")], "in place of the old row"


def test_utilisation_is_over_the_peak_of_a_known_device(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench.measuring.PEAKS, bench.measuring.device_name(CPU), bench.measuring.Peak(1e9, 1e9))
    bench.training.pretraining(measured(bench, tmp_path), bench.sizes.SIZES["tiny"], "tiny")
    value = {row["name"]: float(row["value"]) for row in rows_of(tmp_path)}
    share = value["tiny/training/model_flop_utilisation"]
    assert share == pytest.approx(value["tiny/training/flops_per_second"] / 1e9, rel=1e-3)


@pytest.mark.parametrize(("rows", "queries"), [(1, 3), (3, 8)])
def test_the_arithmetic_counts_the_operations_of_a_pass(bench: SimpleNamespace, rows: int, queries: int) -> None:
    size = bench.sizes.SIZES["tiny"]
    tokens_BL, valid_BL, query_BQ = size.masked(rows, CPU)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        size.denoiser(CPU)(tokens_BL, valid_BL, query_BQ[:, :queries])
    attention = rows * size.net.layers * 4 * size.canvas**2 * size.net.width
    products = sum(n for name, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(name))
    assert size.forward_flops(rows, queries) - attention == products
    weights = size.block_weights + size.head_weights
    assert weights == sum(
        p.numel() for n, p in size.denoiser(CPU).named_parameters() if "norm" not in n and "emb" not in n
    )


def test_the_shape_of_170m_is_smdms(bench: SimpleNamespace) -> None:
    size = bench.sizes.SIZES["170m"]
    assert (size.net.layers, size.net.width, size.net.heads, size.net.mlp_width) == (18, 768, 12, 3072)
    assert (size.vocabulary, size.canvas, size.batches) == (32_000, 256, (1, 16, 256))
    assert size.block_weights == pytest.approx(170e6, rel=1e-3)


@pytest.mark.parametrize("noise", [False, True])
def test_the_naive_loop_decodes_what_ours_does(bench: SimpleNamespace, noise: bool) -> None:
    size = replace(bench.sizes.SIZES["tiny"], steps=5)
    denoiser, rows = size.denoiser(CPU, torch.float64), size.rows(9, CPU)
    ours = decode(denoiser, TopProbability(), rows, size.space, steps=5).tokens_BL
    assert bench.loops.naive_decode(denoiser, rows, size, noise).equal(ours)
    assert len(set(ours[:, size.prompt :].flatten().tolist())) > 3, "one token everywhere shows nothing"


def test_other_outcomes_are_no_comparison(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.loops, "naive_decode", lambda denoiser, rows, size, noise: rows.tokens_BL)
    with pytest.raises(RuntimeError, match="of the tokens otherwise"):
        bench.loops.side_by_side(measured(bench, tmp_path), bench.sizes.SIZES["tiny"], "tiny")


def test_half_precision_runs_through(bench: SimpleNamespace, tmp_path: Path) -> None:
    size = replace(bench.sizes.SIZES["tiny"], half=True)
    found, training, loops = measured(bench, tmp_path), bench.training, bench.loops
    for measure in (training.pretraining, training.order_learning, loops.overhead, loops.adaptive):
        measure(found, size, "half")
    assert size.denoiser(CPU).head.weight.dtype == torch.bfloat16
    assert len(found.rows) > 20


def test_works_alternate_and_both_ways(bench: SimpleNamespace, tmp_path: Path) -> None:
    made: list[str] = []
    rounds = measured(bench, tmp_path).paired(lambda: made.append("a"), lambda: made.append("b"), least=4)
    assert len(rounds) == 4
    assert "".join(made) == "aabb" + "baabbaab"
    assert bench.measuring.ratio([[2.0, 1.0], [9.0, 3.0], [1.0, 4.0]], 0, 1) == 2.0


def test_operators_are_counted_apart(bench: SimpleNamespace, tmp_path: Path) -> None:
    size = bench.sizes.SIZES["tiny"]

    def denoiser(tokens_BL: torch.Tensor, valid_BL: torch.Tensor, query_BQ: torch.Tensor) -> DenoiserOutput:
        logits_BQV = torch.nn.functional.one_hot(tokens_BL.gather(1, query_BQ), size.vocabulary + 1).float()
        return DenoiserOutput(logits_BQV[..., :-1].neg(), None)

    counted = bench.operators.Counted(denoiser)
    inputs = size.masked(2, CPU)
    with counted:
        view = counted(*inputs).logits_BQV.transpose(0, 1)[0]
        own = counted.own
        assert counted.all == own > 2, "views start nothing"
        view.neg().exp()
    assert (counted.all, counted.own) == (own + 2, own)
    found = measured(bench, tmp_path)
    bench.operators.operators(found, size, "tiny")
    ratios = {row["name"]: float(row["value"]) for row in rows_of(tmp_path)}
    assert len(ratios) == len(POLICIES) - 2, "all but the autoregressive one and the oracle"
    assert min(ratios.values()) > 1.0
