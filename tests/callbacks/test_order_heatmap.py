"""Heat maps of a learned order: of which weights, budgets and problems, and where there are none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_mdm.callbacks import order_heatmap as heatmap_module
from lightning_mdm.callbacks.order_heatmap import OrderHeatmap, Shown
from lightning_mdm.callbacks.runs import weights_hash
from lightning_mdm.data.hop_chain import HopChainProblems
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.laws.hop_chain import HopChain
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.laws import law_denoiser
from lightning_mdm.nets.selector import SelectorConfig
from lightning_mdm.report import HeatmapPanel
from runs import Answering, trainer

LAW = HopChain(chain=6, free=2, given=2)


def data() -> HopChainProblems:
    return HopChainProblems(LAW, n_validation=5, n_test=2, batch_size=2, eval_batch_size=2)


def order_module(**options: Any) -> OrderModule:
    torch.manual_seed(0)
    net = SelectorConfig(width=8, heads=2, mlp_width=8)
    options = {"budgets": [2, 3], "samples": 2, "validation_samples": 1, "warmup_steps": 1, **options}
    return OrderModule(LAW.n_tokens, LAW, selector=net, **options)


Drawn = list[tuple[int, list[HeatmapPanel], int]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Every figure from now on: budget, panels and update."""
    figures: Drawn = []
    monkeypatch.setattr(
        heatmap_module, "log_heatmap", lambda loggers, panels, budget, step: figures.append((budget, panels, step))
    )
    return figures


def logger(folder: Path) -> TensorBoardLogger:
    return TensorBoardLogger(folder, name="", version="", default_hp_metric=False)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"order_heatmap.problems=-1: give at least 0"):
        OrderHeatmap(problems=-1)
    with pytest.raises(ValueError, match=r"order_heatmap.samples=0: give at least 1"):
        OrderHeatmap(samples=0)
    with pytest.raises(ValueError, match=r"order_heatmap.budgets=\[0\]: a step budget is at least 1"):
        OrderHeatmap(budgets=[0])


def test_fit_leaves_a_figure_per_budget(tmp_path: Path) -> None:
    log = logger(tmp_path)
    run = trainer(tmp_path, OrderHeatmap(problems=1, samples=4), logger=log, max_steps=2, val_check_interval=1)
    run.fit(order_module(), data())
    log.finalize("success")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["images"]) == {"order_heatmap/T=2", "order_heatmap/T=3"}
    assert [event.step for event in events.Images("order_heatmap/T=2")] == [1, 2], "not at the sanity check"
    for T in (2, 3):
        fewest, mean, most = (
            [event.value for event in events.Scalars(f"val/{name}selector_steps@T={T}")]
            for name in ("fewest_", "", "most_")
        )
        assert all(1 <= a <= b <= c <= T for a, b, c in zip(fewest, mean, most, strict=True))


def test_panels_are_the_first_problems(tmp_path: Path, drawn: Drawn) -> None:
    problems = data()
    run = trainer(tmp_path, OrderHeatmap(problems=3, samples=6, budgets=[4, 1]), logger=logger(tmp_path))
    run.validate(order_module(), problems, verbose=False)
    assert [(budget, len(panels)) for budget, panels, _ in drawn] == [(1, 3), (4, 3)]
    first = problems.problems("validation")[:3]
    for budget, panels, _ in drawn:
        assert [panel.title for panel in panels] == [f"problem {problem.index}" for problem in first]
        assert [" ".join(panel.labels) for panel in panels] == [problem.response for problem in first]
        for panel in panels:
            assert len(panel.steps) == 6
            assert all(set(range(1, max(sample) + 1)) == set(sample) for sample in panel.steps)
            assert len({tuple(sample) for sample in panel.steps}) == (1 if budget == 1 else 6), "samples differ"
            assert max(map(max, panel.steps)) <= budget


@pytest.mark.parametrize(
    ("budgets", "shown"),
    [([2], [2]), ([3, 2], [2, 3]), ([2, 3, 4, 5, 6, 8, 10], [2, 5, 10]), ([2, 4, 6, 8], [2, 6, 8])],
)
def test_the_smallest_the_middle_and_the_largest_budget(budgets: list[int], shown: list[int]) -> None:
    assert OrderHeatmap().budgets_of(order_module(budgets=budgets)) == shown


def test_nothing_without_a_selector_without_problems_or_in_tests(tmp_path: Path, drawn: Drawn) -> None:
    def run(callback: OrderHeatmap, module: L.LightningModule) -> Any:
        found = trainer(tmp_path, callback, logger=logger(tmp_path))
        found.validate(module, data(), verbose=False)
        return found.callback_metrics

    assert not run(OrderHeatmap(), Answering(law_denoiser(LAW)))
    assert not any("selector_steps" in key for key in run(OrderHeatmap(problems=0), order_module()))
    trainer(tmp_path, OrderHeatmap(), logger=logger(tmp_path)).test(order_module(), data(), verbose=False)
    assert not drawn


def test_only_the_first_process_works() -> None:
    callback = OrderHeatmap()
    for first in (True, False):
        fake: Any = SimpleNamespace(sanity_checking=False, state=SimpleNamespace(fn="validate"), is_global_zero=first)
        callback.begin(fake, order_module(), "validation")
        assert (callback.missing > 0) == first


def test_what_the_first_process_logs_alone_is_awaited_from_no_other() -> None:
    callback, logged = OrderHeatmap(), dict[str, Any]()
    callback.shown = {4: Shown([], [2, 3])}
    module: Any = SimpleNamespace(log=lambda name, value, **options: logged.update({name: (value, options)}))
    callback.finish(SimpleNamespace(), module, "val")  # type: ignore[arg-type]
    assert logged["val/selector_steps@T=4"][0] == 2.5
    assert [options for _, options in logged.values()] == [{"rank_zero_only": True}] * 3


def test_steps_are_logged_without_tensorboard(tmp_path: Path, drawn: Drawn) -> None:
    run = trainer(tmp_path, OrderHeatmap(budgets=[3]))
    run.validate(order_module(), data(), verbose=False)
    assert 1 <= run.callback_metrics["val/selector_steps@T=3"] <= 3
    assert not drawn


def test_steps_are_those_of_the_greedy_rule_at_the_first_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, int, int]] = []
    steps = iter([[2, 3], [1]])  # of three problems in two batches

    def fake(trainer: L.Trainer, module: OrderModule, policy: Any, canvas: Any, budget: int, seed: int = 0) -> Any:
        asked.append((policy, budget, len(canvas.index_B)))
        return SimpleNamespace(order=SimpleNamespace(n_steps_B=torch.tensor(next(steps))))

    monkeypatch.setattr(OrderHeatmap, "decode", lambda self, *given: fake(*given))
    run = trainer(tmp_path, OrderHeatmap(problems=3, budgets=[4]))
    run.validate(order_module(prices=[2.0, 0.0]), data(), verbose=False)
    assert asked == [(Learned(price=2.0), 4, 2), (Learned(price=2.0), 4, 1)]
    found = [run.callback_metrics[f"val/{name}selector_steps@T=4"] for name in ("fewest_", "", "most_")]
    assert found == [1.0, 2.0, 3.0]


def test_problems_are_decoded_as_elsewhere_but_without_looking_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[DecodingOptions] = []
    plain = DecodingOptions.decode

    def noting(self: DecodingOptions, *given: Any) -> Any:
        asked.append(self)
        return plain(self, *given)

    monkeypatch.setattr(DecodingOptions, "decode", noting)
    decoding = DecodingOptions(guidance=0.5, search=True, compile_statistics=True, cuda_graphs=True)
    run = trainer(tmp_path, OrderHeatmap(problems=1, budgets=[2], decoding=decoding))
    run.validate(order_module(), data(), verbose=False)
    assert asked == [DecodingOptions(guidance=0.5)]
    assert 1 <= run.callback_metrics["val/selector_steps@T=2"] <= 2, "a step is two evaluations"


@pytest.mark.parametrize("averaged_first", [True, False])
def test_the_averaged_weights_are_shown(tmp_path: Path, averaged_first: bool) -> None:
    hashes: list[str] = []

    class Noting(OrderHeatmap):
        def each_batch(self, trainer: L.Trainer, module: Any, batch: Any) -> None:
            super().each_batch(trainer, module, batch)
            if not trainer.sanity_checking:
                hashes.append(weights_hash(module.selectors))

    average, noting = EMAWeightAveraging(decay=0.5), Noting(samples=1)
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    callbacks = [average, noting] if averaged_first else [noting, average]
    run = trainer(tmp_path, *callbacks, saving, enable_checkpointing=True, max_steps=2, val_check_interval=2)
    run.fit(order_module(learning_rate=1e-2), data())
    saved = torch.load(tmp_path / "step=2.ckpt", weights_only=True)

    def hash_of(state: dict[str, torch.Tensor]) -> str:
        module = order_module()
        module.load_state_dict(state)
        return weights_hash(module.selectors)

    averaged, raw = hash_of(saved["state_dict"]), hash_of(saved["current_model_state"])
    assert averaged != raw
    assert set(hashes) == {averaged}
