"""Training: what is reported, what is resumed, what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from lightning_mdm.data.batch import Batch
from lightning_mdm.modules import optimization
from lightning_mdm.modules.autoregressive import AutoregressiveModule
from lightning_mdm.modules.denoiser import DenoiserModule, training_t
from lightning_mdm.modules.optimization import MOST_RAMP, check_rates, learning_rate_factor
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.transformer import Block, TransformerConfig
from lightning_mdm.noise import RowNoise, Stream
from lightning_mdm.objectives.denoising import fixed_t
from runs import program, tiny

V = 11
NET = TransformerConfig(layers=1, width=16, heads=2, mlp_width=24)


def padded(rows: Batch, by: int) -> Batch:
    """The same rows, longer."""
    tokens_BL, prompt_BL, valid_BL = (
        torch.nn.functional.pad(value, (0, by)) for value in (rows.tokens_BL, rows.prompt_BL, rows.valid_BL)
    )
    return Batch(tokens_BL, prompt_BL, valid_BL, rows.index_B)


def batch(index: list[int]) -> Batch:
    """Rows that are a function of their index: two given tokens, then the same in reverse and a copy of the first."""
    index_B = torch.tensor(index)
    first_B, second_B = index_B % V, (index_B // V) % V
    tokens_BL = torch.stack([first_B, second_B, second_B, first_B, first_B], dim=1)
    prompt_BL = torch.tensor([True, True, False, False, False]).expand(len(index), 5)
    return Batch(tokens_BL, prompt_BL, torch.ones_like(prompt_BL), index_B)


class Counted(torch.utils.data.IterableDataset[Batch]):
    """Batches 0, 1, 2, ... of four problems each, from ``start`` on."""

    def __init__(self, start: int = 0) -> None:
        self.start = start

    def __iter__(self) -> Iterator[Batch]:
        for k in range(self.start, 1000):
            yield batch([4 * k + i for i in range(4)])


def loader(start: int = 0) -> torch.utils.data.DataLoader[Batch]:
    return torch.utils.data.DataLoader(Counted(start), batch_size=None)


def trainer(tmp_path: Path, **options: object) -> L.Trainer:
    defaults: dict[str, object] = {
        "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "default_root_dir": tmp_path, "enable_checkpointing": False,
    }  # fmt: skip
    return L.Trainer(**(defaults | options))  # type: ignore[arg-type]


def weights(module: DenoiserModule | AutoregressiveModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.denoiser.state_dict().items()}


def compile_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capture and differentiate graphs as ``torch.compile`` does, but run them without generating C++: minutes less."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


class SaveAt(L.Callback):
    """Saves a checkpoint in the middle of a run, as a run that is killed later would have."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path
        self.weights: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if trainer.global_step == self.step:
            assert isinstance(pl_module, DenoiserModule | AutoregressiveModule)
            self.weights = weights(pl_module)
            trainer.save_checkpoint(self.path)


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = DenoiserModule(V, NET, warmup_steps=2)
    half = SaveAt(3, tmp_path / "half.ckpt")
    trainer(tmp_path, max_steps=6, callbacks=[half]).fit(whole, loader())
    resumed = DenoiserModule(V, NET, warmup_steps=2)
    trainer(tmp_path, max_steps=6).fit(resumed, loader(start=3), ckpt_path=str(tmp_path / "half.ckpt"))
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    assert not all(torch.equal(value, half.weights[name]) for name, value in weights(whole).items())


@pytest.mark.parametrize("kind", [DenoiserModule, AutoregressiveModule])
def test_a_resumed_run_takes_the_options_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[DenoiserModule] | type[AutoregressiveModule]
) -> None:
    """Torch would restore those of the checkpoint, and its hyper-parameters would say otherwise."""
    torch.manual_seed(0)
    monkeypatch.setattr(optimization, "on_gpu", lambda net: True)
    trainer(tmp_path, max_steps=3, callbacks=[SaveAt(3, tmp_path / "half.ckpt")]).fit(kind(V, NET), loader())
    monkeypatch.undo()
    given: dict[str, Any] = {"learning_rate": 1e-4, "betas": (0.5, 0.6), "weight_decay": 5.0, "warmup_steps": 2}
    run = trainer(tmp_path, max_steps=6)
    run.fit(kind(V, NET, **given), loader(start=3), ckpt_path=str(tmp_path / "half.ckpt"))
    matrices, vectors = run.optimizers[0].param_groups
    assert matrices["fused"] is vectors["fused"] is True, "as the state it goes with"
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (5.0, 0.0)
    for group in (matrices, vectors):
        assert (group["initial_lr"], group["betas"]) == (1e-4, (0.5, 0.6))
        assert group["lr"] == 1e-4 * learning_rate_factor(6, total=6, warmup=2, final=0.02)
    still = kind(V, NET, learning_rate=0.0)
    trainer(tmp_path, max_steps=6).fit(still, loader(start=3), ckpt_path=str(tmp_path / "half.ckpt"))
    half = torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, half[name]) for name, value in still.state_dict().items())


def test_an_update_waits_for_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is calculated is asked for on the way, from the batch to the gradients."""
    module, rows = DenoiserModule(V, NET), batch([0, 1, 2, 3])
    noise = RowNoise(0, rows.index_B)

    def asked(*_: object) -> None:
        raise AssertionError("a GPU would be waited for")

    for name in ("item", "tolist", "__int__", "__bool__", "__float__", "__index__"):
        monkeypatch.setattr(Tensor, name, asked)
    out = module.objective(rows, fixed_t(rows.index_B, 0.01), noise, 0)
    out.surrogate.backward()  # type: ignore[no-untyped-call]
    monkeypatch.undo()
    assert out.n_masked > 0


class Drawn(L.Callback):
    """Notes the learning rate of every update and what it masked, and can save weights and a checkpoint on the way."""

    def __init__(self, module: DenoiserModule, save_at: int = 0, path: Path = Path()) -> None:
        self.rates: list[float] = []
        self.masked: list[Tensor] = []
        self.save_at, self.path = save_at, path
        module.denoiser.register_forward_pre_hook(lambda net, inputs: self.masked.append(inputs[0].clone()))

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if trainer.global_step == self.save_at:
            assert isinstance(pl_module, DenoiserModule)
            pl_module.save_weights(self.path.with_suffix(".safetensors"))
            trainer.save_checkpoint(self.path)


def test_a_training_goes_on_from_weights_alone(tmp_path: Path) -> None:
    """Masks and learning rates are those of an uninterrupted one, also where a checkpoint goes on from there."""
    whole = DenoiserModule(V, NET, warmup_steps=2)
    of_whole = Drawn(whole, 3, tmp_path / "third.ckpt")
    trainer(tmp_path, max_steps=8, callbacks=[of_whole]).fit(whole, loader())
    weights_of_third = tmp_path / "third.safetensors"

    there = DenoiserModule(V, NET, warmup_steps=2, init_from=str(weights_of_third), first_update=3)
    of_there = Drawn(there, 2, tmp_path / "fifth.ckpt")
    trainer(tmp_path, max_steps=5, callbacks=[of_there]).fit(there, loader(start=3))
    ramp = [0.5, 1.0, 1.0, 1.0, 1.0]
    assert of_there.rates == [part * rate for part, rate in zip(ramp, of_whole.rates[3:], strict=True)]
    assert len(of_there.masked) == 5
    assert all(map(torch.equal, of_there.masked, of_whole.masked[3:]))

    weights_of_third.unlink()
    resumed = DenoiserModule(V, NET, warmup_steps=2)
    of_resumed = Drawn(resumed)
    run = trainer(tmp_path, max_steps=5, callbacks=[of_resumed])
    run.fit(resumed, loader(start=5), ckpt_path=str(tmp_path / "fifth.ckpt"))
    assert of_resumed.rates == of_whole.rates[5:]
    assert all(map(torch.equal, of_resumed.masked, of_whole.masked[5:]))
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(there).items())
    assert DenoiserModule.load_from_checkpoint(tmp_path / "fifth.ckpt").first_update == 3


def test_the_seed_of_the_noise_decides_the_masks_of_training(tmp_path: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        module = DenoiserModule(V, NET, noise_seed=seed)
        drawn = Drawn(module)
        trainer(tmp_path, max_steps=2, callbacks=[drawn]).fit(module, loader())
        found.append(torch.cat(drawn.masked))
    assert found[0].equal(found[1])
    assert not found[0].equal(found[2])


def test_no_mask_probability_of_training_is_below_the_least(tmp_path: Path) -> None:
    module = DenoiserModule(V, NET, least_masked=1.0 - 1e-6)
    drawn = Drawn(module)
    trainer(tmp_path, max_steps=3, callbacks=[drawn]).fit(module, loader())
    rows = batch([0, 1, 2, 3])
    assert all((tokens_BL == V).equal(rows.response_BL) for tokens_BL in drawn.masked)


def test_mask_probabilities_fall_on_any_row_of_a_batch() -> None:
    """One in every quarter, whose row is a random one: rows that come in an order, as sorted ones, all learn alike."""
    noise = RowNoise(0, torch.arange(4))
    t_SB = torch.stack([training_t(noise, step, 0.0) for step in range(400)])
    quarter_SB = (4.0 * t_SB).ceil().long() - 1
    assert quarter_SB.sort(-1).values.equal(torch.arange(4).expand(400, 4))
    for quarter in range(4):
        share_B = (quarter_SB == quarter).double().mean(0)
        assert share_B.tolist() == pytest.approx([0.25] * 4, abs=0.1)  # 4.6 standard errors


def test_training_learns_the_toy(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = DenoiserModule(V, NET, learning_rate=1e-2, warmup_steps=10)
    run = trainer(tmp_path, max_steps=300)
    run.fit(module, loader())
    # The response is a copy of the prompt: at chance the masked accuracy would be 1 / 11.
    assert run.callback_metrics["train/masked_accuracy"] > 0.6


def test_the_validation_bound_is_the_same_for_any_batch_size_and_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = DenoiserModule(V, NET)
    found = []
    for sizes in ([40], [9, 13, 18], [1] * 40):
        order = list(range(40)) if sizes != [9, 13, 18] else list(range(39, -1, -1))
        batches, start = [], 0
        for size in sizes:
            batches.append(batch(order[start : start + size]))
            start += size
        run = trainer(tmp_path)
        data = torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
        found.append(run.validate(module, data, verbose=False)[0])
    for name in ("val/bound_nats_per_token", "val/masked_accuracy"):
        assert [each[name] for each in found] == pytest.approx([found[0][name]] * 3, rel=1e-5)
    assert 0.0 < found[0]["val/masked_accuracy"] < 1.0, "nothing to tell apart"


def test_the_reported_bound_is_the_objective_on_fixed_noise(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = DenoiserModule(V, NET, least_masked=0.25, noise_seed=3)  # the seed of training: evaluation has its own
    rows = batch([5, 17, 90])
    t_B = fixed_t(rows.index_B, 0.25)
    uniform_BL = RowNoise(0, rows.index_B).uniform_BL(Stream.MASK, 0, 5)
    total = 0.0
    with torch.no_grad():
        for row in range(3):
            masked_L = ~rows.prompt_BL[row] & (uniform_BL[row] < t_B[row])
            z_L = torch.where(masked_L, V, rows.tokens_BL[row])
            log_p_LV = module.denoiser(z_L[None], rows.valid_BL[row][None]).logits_BQV[0].log_softmax(-1)
            nll_L = -log_p_LV.gather(1, rows.tokens_BL[row][:, None])[:, 0]
            total += float(nll_L[masked_L].sum() / t_B[row])
    data = torch.utils.data.DataLoader([rows], batch_size=None)  # type: ignore[arg-type]
    found = trainer(tmp_path).validate(module, data, verbose=False)[0]
    assert found["val/bound_nats_per_token"] == pytest.approx(total / 9, rel=1e-5)


@pytest.mark.parametrize(
    ("option", "value"),
    [("learning_rate", -1.0), ("learning_rate", math.nan), ("learning_rate", math.inf), ("warmup_steps", -1),
     ("final_learning_rate", -0.1), ("final_learning_rate", 1.1), ("betas", (0.9, 1.0)), ("weight_decay", -0.1)],
)  # fmt: skip
def test_rates_out_of_their_range_are_named(option: str, value: Any) -> None:
    kinds: list[Any] = [DenoiserModule, AutoregressiveModule]
    if option not in ("betas", "weight_decay"):
        kinds.append(partial(OrderModule, denoiser="joint"))
    for kind in kinds:
        with pytest.raises(ValueError, match=rf"model\.{option}=\S.*: give "):
            kind(V, NET, **{option: value})


def test_rates_at_the_ends_of_their_ranges_are_taken() -> None:
    check_rates(learning_rate=0.0, warmup_steps=0, final_learning_rate=0.0, betas=(0.0, 0.0), weight_decay=0.0)
    check_rates(learning_rate=1.0, warmup_steps=1, final_learning_rate=1.0)


def test_the_learning_rate_warms_up_and_follows_a_cosine() -> None:
    factors = [learning_rate_factor(step, total=110, warmup=10, final=0.1) for step in range(130)]
    assert factors[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert factors[10] == pytest.approx(1.0)
    assert factors[60] == pytest.approx(0.55)
    assert factors[110:] == pytest.approx([0.1] * 20)
    assert all(later <= earlier for earlier, later in pairwise(factors[10:]))
    assert learning_rate_factor(10, total=10, warmup=10, final=0.1) == 1.0, "behind a training of warm-up alone"


def test_the_learning_rate_goes_on_after_a_ramp() -> None:
    whole = [learning_rate_factor(step, total=1500, warmup=1000, final=0.1) for step in range(1500)]
    for first in (400, 1100):
        rest = [learning_rate_factor(step, 1500 - first, 1000, 0.1, first) for step in range(1500 - first)]
        assert rest[MOST_RAMP - 1 :] == whole[first + MOST_RAMP - 1 :]
        assert rest[MOST_RAMP // 2 - 1] == pytest.approx(0.5 * whole[first + MOST_RAMP // 2 - 1])
        assert 0.0 < rest[0] < 0.02
    assert learning_rate_factor(0, 5, 0, 0.1, 5) == pytest.approx(0.55), "no ramp without a warm-up"


def test_vectors_do_not_decay(tmp_path: Path) -> None:
    module = DenoiserModule(V, NET, weight_decay=0.3)
    run = trainer(tmp_path, max_steps=1)
    run.fit(module, loader())
    decay, none = run.optimizers[0].param_groups
    assert decay["weight_decay"] == 0.3
    assert none["weight_decay"] == 0.0
    assert {p.ndim for p in none["params"]} == {1}
    assert sum(len(group["params"]) for group in (decay, none)) == len(list(module.denoiser.parameters()))


def test_weights_travel_through_a_file(tmp_path: Path) -> None:
    module = DenoiserModule(V, NET)
    module.save_weights(tmp_path / "w.safetensors")
    other = DenoiserModule(V, NET, init_from=str(tmp_path / "w.safetensors"))
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(module).items())


def test_a_checkpoint_needs_no_other_file(tmp_path: Path) -> None:
    source = tmp_path / "w.safetensors"
    DenoiserModule(V, NET).save_weights(source)
    module = DenoiserModule(V, NET, init_from=str(source))
    run = trainer(tmp_path, max_steps=1)
    run.fit(module, loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    source.unlink()
    loaded = DenoiserModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert all(torch.equal(value, weights(loaded)[name]) for name, value in weights(module).items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_from": "missing.safetensors"}, r"init_from=missing.safetensors: no such file"),
        ({"least_masked": 0.0}, r"least_masked=0.0"),
        ({"least_masked": 1.5}, r"least_masked=1.5"),
        ({"first_update": -1}, r"first_update=-1: give at least 0"),
        ({"first_update": 3}, r"first_update=3: give the weights that are behind it, by init_from"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenoiserModule(V, NET, **options)  # type: ignore[arg-type]


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    DenoiserModule(V, NET).save_weights(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"embedding.weight has shape \(12, 16\), this net's \(13, 16\)"):
        DenoiserModule(V + 1, NET, init_from=str(tmp_path / "w.safetensors"))


def test_compiling_is_for_fitting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = DenoiserModule(V, NET, compile=True)
    names = set(module.state_dict())
    calls: list[dict[str, object]] = []
    monkeypatch.setattr(Block, "compile", lambda self, **options: calls.append(options))
    for stage in ("validate", "test", "predict"):
        module.setup(stage)
    assert not calls
    module.setup("fit")
    assert calls == NET.layers * [{"dynamic": True}]  # batches have many lengths
    assert set(module.state_dict()) == names
    DenoiserModule(V, NET).setup("fit")
    assert len(calls) == NET.layers


def test_padding_is_no_part_of_the_objective() -> None:
    torch.manual_seed(0)
    module, rows = DenoiserModule(V, NET).double(), batch([5, 17, 90])
    t_B, noise = fixed_t(rows.index_B, 0.25), RowNoise(0, rows.index_B)
    alone, longer = (module.objective(which, t_B, noise, 0) for which in (rows, padded(rows, 3)))
    torch.testing.assert_close(longer.bound_nats_B, alone.bound_nats_B)
    torch.testing.assert_close(longer.surrogate, alone.surrogate)
    assert alone.n_masked > 0


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # torch warns of parts of its own
def test_a_compiled_net_learns_what_a_plain_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_quickly(monkeypatch)
    trained: list[DenoiserModule] = []
    for compiled in (False, True):
        torch.manual_seed(0)
        trained.append(DenoiserModule(V, NET, compile=compiled, warmup_steps=1))
        run = trainer(tmp_path / str(compiled), max_steps=2)
        run.fit(trained[-1], loader())
        assert bool(run.callback_metrics["train/surrogate"].isfinite())
    plain, compiled_ = (weights(module) for module in trained)
    assert set(plain) == set(compiled_)
    for name, value in plain.items():
        torch.testing.assert_close(value, compiled_[name], rtol=1e-4, atol=1e-5)


def test_mixed_precision_keeps_float32_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, seen = DenoiserModule(V, NET), []
    module.denoiser.register_forward_hook(lambda net, inputs, out: seen.append(out.logits_BQV.dtype))
    run = trainer(tmp_path, max_steps=2, precision="bf16-mixed")
    run.fit(module, loader())
    assert set(seen) == {torch.bfloat16}
    assert {value.dtype for value in module.denoiser.state_dict().values()} == {torch.float32}
    assert bool(run.callback_metrics["train/surrogate"].isfinite())


def test_batches_that_are_accumulated_draw_different_masks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, seen = DenoiserModule(V, NET), []
    module.denoiser.register_forward_hook(lambda net, inputs, logits: seen.append(inputs[0] == V))
    trainer(tmp_path, max_steps=2, accumulate_grad_batches=3).fit(module, loader())
    assert len(seen) == 6
    assert all(not torch.equal(one, other) for k, one in enumerate(seen) for other in seen[:k])


def test_an_update_in_one_kernel_is_clipped_like_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def noted(*args: Any, **options: Any) -> Any:
        norms.append(float(clip(*args, **options)))
        return torch.tensor(norms[-1])

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted)
    weights = []
    for fused in (False, True):
        monkeypatch.setattr(optimization, "on_gpu", lambda net, fused=fused: fused)
        program(
            "fit", *tiny(tmp_path), "--run_dir", tmp_path / str(fused), "--trainer.precision", "bf16-mixed",
            "--trainer.gradient_clip_val", "0.1", "--trainer.max_steps", "3",
        )  # fmt: skip
        checkpoint = torch.load(tmp_path / str(fused) / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["optimizer_states"][0]["param_groups"][0]["fused"] is fused
        weights.append(checkpoint["state_dict"])
    assert len(norms) == 6
    for name, plain in weights[0].items():
        torch.testing.assert_close(weights[1][name], plain, rtol=1e-3, atol=1e-5)
