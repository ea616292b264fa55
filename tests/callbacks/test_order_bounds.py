"""Bounds of orders, inside Lightning's loops: which rows come out, and what is not evaluated again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lightning_mdm.callbacks.frontier import Frontier
from lightning_mdm.callbacks.order_bounds import OrderBounds
from lightning_mdm.callbacks.runs import selectors_hash, weights_hash
from lightning_mdm.data.batch import collate
from lightning_mdm.data.datamodule import ProblemDataModule
from lightning_mdm.data.hop_chain import HopChainProblems
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.laws.hop_chain import HopChain
from lightning_mdm.modules.order_bounds import bound_cells
from lightning_mdm.modules.order_draws import draw_sets, trajectories
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.laws import law_denoiser
from lightning_mdm.nets.selector import SelectorConfig
from lightning_mdm.noise import RowNoise, Stream
from lightning_mdm.objectives.order_elbo import all_steps, importance_weighted_nats
from lightning_mdm.objectives.order_one_step import iid_steps
from lightning_mdm.outcomes import ORDER_BOUNDS, BoundRow, read_bound_rows, read_rows, write_bound_rows
from lightning_mdm.trainer import Trainer
from runs import Answering, trainer

LAW = HopChain(chain=6, free=2, given=2)
N, N_VALIDATION, SAMPLES = 7, 4, 2
CELLS = [("learned", 2, 0.0), ("iid", 2, 0.0), ("learned", 3, 0.0), ("iid", 3, 0.0), ("learned", 3, 0.5)]


def data(n_test: int = N, **options: Any) -> HopChainProblems:
    given: dict[str, Any] = {"batch_size": 2, "eval_batch_size": 3, **options}
    return HopChainProblems(LAW, n_validation=N_VALIDATION, n_test=n_test, **given)


def order_module(seed: int = 0, **options: Any) -> OrderModule:
    torch.manual_seed(seed)
    net = SelectorConfig(width=8, heads=2, mlp_width=8)
    given: dict[str, Any] = {"budgets": [2, 3], "prices": [0.0, 0.5], "validation_samples": SAMPLES, **options}
    module = OrderModule(LAW.n_tokens, LAW, selector=net, samples=2, **given)
    for p in [*module.selectors.parameters(), *module.posteriors.parameters()]:
        nn.init.normal_(p, std=0.3)
    return module


def evaluate(
    run_dir: Path, module: OrderModule | None = None, problems: ProblemDataModule | None = None, *,
    split: Any = "test", logger: Any = False, **options: Any,
) -> list[BoundRow]:  # fmt: skip
    run = trainer(run_dir, OrderBounds(), logger=logger, **options)
    run.sweep(order_module() if module is None else module, data() if problems is None else problems, split=split)
    return read_bound_rows(run_dir / ORDER_BOUNDS)


def asked(module: OrderModule) -> list[int]:
    """Rows of every call of the denoiser from now on."""
    calls: list[int] = []
    module.denoiser.register_forward_hook(lambda net, args, out: calls.append(len(args[0])))
    return calls


def cells_of(rows: Sequence[BoundRow]) -> list[tuple[str, int, float]]:
    return [(row.policy, row.T, json.loads(row.options).get("price", 0.0)) for row in rows]


def test_the_cells() -> None:
    """IID knows no price; a budget or a price that is given twice is one."""
    found = [(cell.policy, cell.budget, cell.price) for cell in bound_cells([2, 3, 2], [0.0, 0.5])]
    assert found == CELLS
    assert [cell.name for cell in bound_cells([2], [0.5, 0.0])] == [
        "T=2/learned/price=0.5", "T=2/iid/price=0.5", "T=2/learned",
    ]  # fmt: skip
    assert bound_cells([], [0.0, 0.5]) == []


def test_rows_are_what_the_estimators_give(tmp_path: Path) -> None:
    module, problems = order_module(), data()
    rows = evaluate(tmp_path, module, problems)
    assert cells_of(rows) == CELLS
    batch = collate([problems.encoder(problem) for problem in problems.problems("test")], 0)  # type: ignore[misc]
    noise = trajectories(RowNoise(0, batch.index_B), SAMPLES)
    for row, (policy, T, price) in zip(rows, CELLS, strict=True):
        model = module.batch_model(batch, T, price)
        step_NL = 1 + (noise.uniform_BL(Stream.MASK, 0, batch.tokens_BL.shape[1]) * T).long()
        with torch.no_grad():
            bound = (
                all_steps(
                    model, batch.response_BL, budget=T, samples=SAMPLES, price=price,
                    choose=partial(draw_sets, noise, 0),
                ) if policy == "learned"
                else iid_steps(model, batch.response_BL, step_NL, budget=T, price=price)
            )  # fmt: skip
        weighted_B = importance_weighted_nats(bound.log_weight_BK).double()
        nats_B = bound.bound_nats_B.double()
        assert (row.n, row.samples, row.seed) == (N, SAMPLES, 0)
        expected = {
            "bound_nats": nats_B.mean(), "bound_nats_sem": nats_B.std() / N**0.5,
            "importance_weighted_nats": weighted_B.mean(), "importance_weighted_nats_sem": weighted_B.std() / N**0.5,
            "token_nats": bound.token_nats_B.mean(), "order_kl_nats": bound.kl_nats_B.mean(),
            "price_nats": bound.price_nats_B.mean(), "bound_nats_per_token": nats_B.sum() / batch.response_BL.sum(),
            "steps_of_q": bound.steps_BK.mean(),
        }  # fmt: skip
        for name, value in expected.items():
            assert getattr(row, name) == pytest.approx(float(value), rel=1e-5, abs=1e-6), name
        assert row.optimum == LAW.optimum_nats(T)
        assert (row.task, row.split, row.device) == ("hop_chain", "test", "cpu")
        assert row.data == problems.fingerprint("test")[:12]
        assert row.checkpoint == weights_hash(module.denoiser)
        assert row.software.startswith(f"torch {torch.__version__}")
        own = json.loads(row.options)
        learned = {
            "rule": "sampled", "beta": 1, "price": price, "selector": selectors_hash(module),
            "posterior": weights_hash(module.posteriors["shared"]),
        }  # fmt: skip
        assert own == {"precision": "32-true", **(learned if policy == "learned" else {})}


def test_iid_pays_the_price_too(tmp_path: Path) -> None:
    rows = evaluate(tmp_path, order_module(prices=[0.5]))
    assert cells_of(rows) == [(policy, T, 0.5) for T in (2, 3) for policy in ("learned", "iid")]
    assert all(row.price_nats == pytest.approx(0.5 * row.steps_of_q) for row in rows)
    again = evaluate(tmp_path, order_module(prices=[0.0]))
    assert [row.price_nats for row in again][:4] == [0.0] * 4


def test_what_is_there_is_not_evaluated_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = order_module()
    evaluate(tmp_path, module)
    before = (tmp_path / ORDER_BOUNDS).read_bytes()
    assert "Found" not in capsys.readouterr().out
    calls, run = asked(module), trainer(tmp_path, OrderBounds())
    run.sweep(module, data())
    assert calls == []
    assert (tmp_path / ORDER_BOUNDS).read_bytes() == before
    printed = capsys.readouterr().out
    assert f"Found 5 bounds in {tmp_path / ORDER_BOUNDS}; only what is missing will be evaluated." in printed
    assert ["policy", "T=2", "T=3"] in [line.split() for line in printed.splitlines()]
    rows = {(row.policy, row.T, json.loads(row.options).get("price", 0.0)): row for row in read_bound_rows(
        tmp_path / ORDER_BOUNDS
    )}  # fmt: skip
    for policy, T, price in CELLS:
        where = f"@T={T}/{policy}" + (f"/price={price}" if price else "")
        for part in ("bound_nats", "bound_nats_per_token", "importance_weighted_nats", "steps_of_q"):
            logged = float(run.callback_metrics[f"test/{part}{where}"])
            assert logged == pytest.approx(getattr(rows[policy, T, price], part), rel=1e-6)
    alone = trainer(tmp_path)
    alone.sweep(module, data())
    assert calls != [], "without the callback nothing is known"


def test_only_what_is_missing_is_evaluated(tmp_path: Path) -> None:
    module, more = order_module(), order_module(bound_budgets=[2, 3, 4])
    first = evaluate(tmp_path, module)
    calls = asked(more)
    found = evaluate(tmp_path, more)
    assert calls != []
    assert cells_of(found) == [*CELLS[:4], ("learned", 4, 0.0), ("iid", 4, 0.0), ("learned", 4, 0.5), CELLS[4]]
    assert [row for row in found if row.T != 4] == first, "also of a cell that is not asked for any more"
    whole = evaluate(tmp_path / "whole", more)
    assert [row for row in found if row.T == 4] == [row for row in whole if row.T == 4]


def test_another_order_problems_or_trajectories_are_evaluated_anew(tmp_path: Path) -> None:
    first = evaluate(tmp_path, order_module())
    assert len(first) == len(CELLS)
    other = order_module(seed=1)
    calls = asked(other)
    rows = evaluate(tmp_path, other)
    assert calls != []
    assert [row for row in rows if row.policy == "iid"] == [row for row in first if row.policy == "iid"]
    learned = [[row for row in found if row.policy == "learned"] for found in (first, rows)]
    assert cells_of(learned[0]) == cells_of(learned[1])
    for one, two in zip(*learned, strict=True):
        assert one.bound_nats != two.bound_nats
    module = order_module(seed=1)
    with torch.no_grad():
        for p in module.posteriors.parameters():
            p.mul_(1.5)
    moved = evaluate(tmp_path, module)
    assert cells_of(moved) == CELLS
    assert [row.token_nats for row in moved if row.policy == "learned"] != [row.token_nats for row in learned[1]]
    rows = evaluate(tmp_path, order_module(seed=1, validation_samples=3))
    assert [(row.samples, row.n) for row in rows] == [(3, N)] * len(CELLS)
    rows = evaluate(tmp_path, order_module(seed=1, validation_samples=3), data(n_test=6))
    assert [row.n for row in rows] == [6] * len(CELLS), "those of other problems are gone"


def test_rows_of_fewer_problems_are_not_complete(tmp_path: Path) -> None:
    module = order_module()
    rows = evaluate(tmp_path, module, limit_test_batches=1)
    assert [row.n for row in rows] == [3] * len(CELLS)
    rows = evaluate(tmp_path, module, limit_test_batches=2)
    assert [row.n for row in rows] == [6] * len(CELLS)
    rows = evaluate(tmp_path, module)
    assert [row.n for row in rows] == [N] * len(CELLS)
    before, calls = (tmp_path / ORDER_BOUNDS).read_bytes(), asked(module)
    evaluate(tmp_path, module, limit_test_batches=1)
    assert calls == []
    assert (tmp_path / ORDER_BOUNDS).read_bytes() == before


def test_rows_of_other_budgets_stay_be_they_of_fewer_problems(tmp_path: Path) -> None:
    few = evaluate(tmp_path, order_module(bound_budgets=[3]), limit_test_batches=1)
    rows = evaluate(tmp_path, order_module(bound_budgets=[2]))
    assert [(row.T, row.n) for row in rows] == [(2, N)] * (len(rows) - len(few)) + [(3, 3)] * len(few)
    assert rows[-len(few) :] == few


def test_the_other_split_stays_and_older_weights_go(tmp_path: Path) -> None:
    validation = evaluate(tmp_path, split="validation")
    assert [(row.split, row.n) for row in validation] == [("validation", N_VALIDATION)] * len(CELLS)
    rows = evaluate(tmp_path)
    assert [row.split for row in rows] == ["test"] * len(CELLS) + ["validation"] * len(CELLS)
    assert rows[len(CELLS) :] == validation
    rows = evaluate(tmp_path, order_module(seed=1))
    # The denoiser is the same formula, the selector another one.
    assert [(row.split, row.policy) for row in rows[len(CELLS) :]] == [("validation", "iid")] * 2
    write_bound_rows(tmp_path / ORDER_BOUNDS, [replace(row, checkpoint="another") for row in rows])
    assert [row.split for row in evaluate(tmp_path, order_module(seed=1))] == ["test"] * len(CELLS)


def test_a_repeated_problem_counts_once(tmp_path: Path) -> None:
    class Twice(HopChainProblems):
        def test_dataloader(self) -> Any:
            batches: Any = [*super().test_dataloader(), *super().test_dataloader()]
            return torch.utils.data.DataLoader(batches, batch_size=None)

    once = evaluate(tmp_path / "once")
    problems = Twice(LAW, n_validation=N_VALIDATION, n_test=N, batch_size=2, eval_batch_size=3)
    twice = evaluate(tmp_path / "twice", problems=problems)
    columns = ("n", "bound_nats", "bound_nats_sem", "bound_nats_per_token", "steps_of_q")
    for one, two in zip(once, twice, strict=True):
        assert [getattr(one, name) for name in columns] == [getattr(two, name) for name in columns]


def test_nothing_while_fitting_without_budgets_or_without_an_order(tmp_path: Path) -> None:
    trainer(tmp_path / "fit", OrderBounds(), max_steps=1, val_check_interval=1).fit(order_module(), data())
    trainer(tmp_path / "none", OrderBounds()).sweep(order_module(bound_budgets=[]), data())
    trainer(tmp_path / "alone", OrderBounds()).sweep(Answering(law_denoiser(LAW)), data())
    assert not list(tmp_path.iterdir())
    evaluate(tmp_path, order_module(seed=1))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    module = order_module()
    trainer(tmp_path, OrderBounds(), max_steps=1, val_check_interval=1).fit(module, data())
    trainer(tmp_path, OrderBounds()).sweep(order_module(bound_budgets=[]), data())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_validation_while_fitting_evaluates_what_rows_say(tmp_path: Path) -> None:
    """The weights move: nothing is known there, whatever a file or an earlier loop has said."""
    module, callback = order_module(), OrderBounds()
    trainer(tmp_path, callback).sweep(module, data(), split="validation")
    trainer(tmp_path, callback).sweep(module, data(), split="validation")
    assert module.bounds.known != {}
    calls = asked(module)
    run = trainer(tmp_path, callback, max_steps=2, val_check_interval=1, num_sanity_val_steps=0)
    run.fit(module, data())
    assert len(calls) > 2
    before = {row.T: row for row in read_bound_rows(tmp_path / ORDER_BOUNDS) if row.policy == "learned"}
    assert float(run.callback_metrics["val/bound_nats@T=2/learned"]) != pytest.approx(before[2].bound_nats, rel=1e-6)


def test_a_damaged_file_is_refused_before_anything_is_evaluated(tmp_path: Path) -> None:
    module = order_module()
    evaluate(tmp_path, module)
    with open(tmp_path / ORDER_BOUNDS, "a") as file:
        file.write("half a li")
    calls = asked(module)
    with pytest.raises(ValueError, match=f"{ORDER_BOUNDS}, line 7: 23 values expected, got 1"):
        evaluate(tmp_path, module)
    assert calls == []


def test_one_process_writes_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    run = trainer(tmp_path, OrderBounds())
    run.sweep(order_module(), data())
    assert "test/bound_nats@T=2/iid" in run.callback_metrics
    assert not list(tmp_path.iterdir())


def test_all_processes_know_what_the_first_one_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one may see the file before the last rows are in it."""
    module = order_module()
    evaluate(tmp_path, module)
    first = trainer(tmp_path)
    told: dict[str, Any] = {}

    def broadcast(value: Any, src: int = 0) -> Any:
        return told.setdefault("first", value) if isinstance(value, dict) else value

    monkeypatch.setattr(type(first.strategy), "broadcast", lambda self, value, src=0: broadcast(value))
    evaluate(tmp_path, module)
    assert len(told["first"]) == len(CELLS)
    calls = asked(module)
    run = trainer(tmp_path / "late", OrderBounds())
    run.sweep(module, data())
    assert calls == []
    assert "test/bound_nats@T=2/iid" in run.callback_metrics


def test_figure_and_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="", default_hp_metric=False)
    rows = evaluate(tmp_path, logger=logger, split="validation")
    logger.finalize("success")
    assert all((tmp_path / f"order_bounds.{kind}").stat().st_size > 0 for kind in ("png", "svg"))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == ["order_bounds"]
    for curve, column in (
        ("bound_nats_over_T", "bound_nats"), ("importance_weighted_nats_over_T", "importance_weighted_nats"),
        ("steps_of_q_over_T", "steps_of_q"),
    ):  # fmt: skip
        found = [(event.step, event.value) for event in events.Scalars(f"{curve}/validation/iid")]
        assert found == [(row.T, pytest.approx(getattr(row, column))) for row in rows if row.policy == "iid"]
    assert [event.step for event in events.Scalars("bound_nats_over_T/validation/optimum")] == [2, 3]
    assert "val/bound_nats@T=2/iid" in events.Tags()["scalars"]


def test_per_budget_orders_are_one(tmp_path: Path) -> None:
    module = order_module(selectors="per_budget")
    rows = evaluate(tmp_path, module)
    hashes = {(o["selector"], o["posterior"]) for row in rows if "selector" in (o := json.loads(row.options))}
    assert len(hashes) == 1
    calls = asked(module)
    assert evaluate(tmp_path, module) == rows
    assert calls == []


def test_modules_of_ones_own_stay_without_rows(tmp_path: Path) -> None:
    class Own(L.LightningModule):
        def test_step(self, batch: Any, batch_idx: int) -> None: ...

    trainer(tmp_path, OrderBounds()).sweep(Own(), data())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_what_only_decodes_may_have_weights_of_16_bits(tmp_path: Path, precision: str) -> None:
    """Of a law that is certain the rounding of 16 bits changes no order."""
    torch.manual_seed(0)
    net, outcomes = SelectorConfig(width=8, heads=2, mlp_width=8, start="confidence"), {}
    for given in ("32-true", precision):
        module = OrderModule(LAW.n_tokens, LAW, selector=net, finishing=True, budgets=[2, 3], bound_budgets=[])
        frontier = Frontier([Learned("greedy"), Learned("sampled")], [3])
        trainer(tmp_path / given, frontier, precision=given).test(module, data(), verbose=False)
        rows = read_rows(tmp_path / given / "frontier.csv")
        outcomes[given] = [(row.policy, row.accuracy, row.nfe_mean, row.n) for row in rows]
    assert outcomes[precision] == outcomes["32-true"]
    assert len(outcomes[precision]) == 2
    assert outcomes[precision][0][1] > 0.5, "right where it is sure"
