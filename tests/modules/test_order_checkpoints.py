"""Checkpoints of orders: resumed, moved, of other options, and refused."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import lightning as L
import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_mdm.laws.hop_chain import HopChain
from lightning_mdm.modules.order_checkpoint import keep_order, restore_order, save
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.build import net_from_plain
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.vocabulary import TokenSpace
from modules.orders import (
    CHAIN,
    FROM_CONFIDENCE,
    MAX_NORMALISED,
    OF_SHARES,
    RELATIVE,
    SMALL,
    build,
    chain_batch,
    denoiser_file,
    fit,
    same,
    state,
    validate,
)
from modules.test_denoiser_module import SaveAt, V, batch, loader, trainer


class Save(SaveAt):
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def order_checkpoint(module: OrderModule, folder: Path) -> Path:
    run = fit(module, folder, steps=2)
    run.save_checkpoint(folder / "order.ckpt")
    return folder / "order.ckpt"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"selectors": "per_budget", "posterior": MAX_NORMALISED, "denoiser": "joint"},
        {"budgets": (2, 3), "prices": (0.0, 1.0), "selector": replace(SMALL, positions=6)},
        {"finishing": True, "posterior": RELATIVE, "selector": FROM_CONFIDENCE, "warm_start_margin": 0.5},
        {"finishing": True, "posterior": RELATIVE, "selector": OF_SHARES, "warm_start_margin": 0.5},
    ],
    ids=["default", "per_budget", "prices", "finishing", "shares"],
)
def test_a_checkpoint_needs_no_other_file(tmp_path: Path, options: dict[str, Any]) -> None:
    source = denoiser_file(tmp_path, "safetensors")
    module = build(source, **options)
    path = order_checkpoint(module, tmp_path)
    Path(source).unlink()
    plain = torch.load(path, weights_only=True)["hyper_parameters"]
    assert "denoiser_ckpt" not in plain
    assert set(plain["net"]) == set(vars(TransformerConfig()))
    loaded = OrderModule.load_from_checkpoint(path)
    assert same(state(module), state(loaded))
    assert (loaded.budgets, loaded.prices, loaded.joint) == (module.budgets, module.prices, module.joint)
    assert loaded.hparams == module.hparams
    assert loaded.selector_for(2).net.config == module.selector_for(2).net.config
    assert loaded.warm_start_margin == module.warm_start_margin
    fit(loaded, tmp_path, steps=1)  # its denoiser is a trained one


def test_what_is_never_generated_is_known_without_the_data(tmp_path: Path, ckpt: str) -> None:
    class Data(L.LightningDataModule):
        token_space = TokenSpace(V, eos_id=None, pad_id=0, forbidden=(7, 9))

    module = build(ckpt)
    assert module.forbidden_tokens == ()
    module.trainer = trainer(tmp_path)
    module.trainer.datamodule = Data()
    checkpoint: dict[str, Any] = {"state_dict": {}}
    module.on_save_checkpoint(checkpoint)
    loaded = build(ckpt)
    loaded.on_load_checkpoint(checkpoint)
    assert loaded.batch_model(batch([3, 14]), 3, 0.0).forbidden == (7, 9) == module.forbidden_tokens
    again: dict[str, Any] = {}
    loaded.on_save_checkpoint(again)
    assert again["forbidden_tokens"] == [7, 9]
    loaded.on_load_checkpoint({"state_dict": {}})  # of a checkpoint that does not say it
    assert loaded.forbidden_tokens == ()


def test_a_checkpoint_may_say_more_than_there_are_options(tmp_path: Path, ckpt: str) -> None:
    module = build(ckpt, posterior=MAX_NORMALISED)
    path = order_checkpoint(module, tmp_path)
    saved = torch.load(path, weights_only=True)
    options = saved["hyper_parameters"]
    options.update(other=0.5, posterior={**options["posterior"], "other": 0.5})
    torch.save(saved, path)
    loaded = OrderModule.load_from_checkpoint(path)
    assert same(state(module), state(loaded))
    assert loaded.hparams == module.hparams


@pytest.mark.parametrize("config", [TransformerConfig(width=64), CHAIN], ids=["transformer", "law"])
def test_options_that_a_checkpoint_lacks_have_their_defaults(config: TransformerConfig | HopChain) -> None:
    """It was written before there were any; what it has still says which kind of net it is of."""
    plain = asdict(config)
    lacking = list(plain)[-1]
    del plain[lacking]
    default = next(option.default for option in fields(config) if option.name == lacking)
    assert net_from_plain(plain) == replace(config, **{lacking: default})


def test_the_checkpoint_of_a_law_says_which_law(tmp_path: Path) -> None:
    module = build(None, vocab_size=CHAIN.n_tokens, net=CHAIN)
    run = trainer(tmp_path, max_steps=2)
    data = torch.utils.data.DataLoader([chain_batch(range(4))] * 2, batch_size=None)  # type: ignore[arg-type]
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "law.ckpt")
    loaded = OrderModule.load_from_checkpoint(tmp_path / "law.ckpt")
    assert same(state(module), state(loaded))
    found, expected = (validate(m, [chain_batch(range(50, 54))], tmp_path) for m in (loaded, module))
    assert found == expected


@pytest.mark.parametrize(
    "options",
    [
        {"denoiser": "joint", "prices": (0.0, 1.0), "focus": 0.4},
        {"posterior": replace(MAX_NORMALISED, order_temperature=0.1), "estimator": "one_step"},
        {"selectors": "per_budget", "warm_start_steps": 4},
        {"finishing": True, "posterior": RELATIVE, "selector": FROM_CONFIDENCE, "warm_start_steps": 2},
        {"selectors": "per_budget", "posterior": RELATIVE, "selector": OF_SHARES, "warm_start_steps": 2},
        {"budget_draw": "by_evaluations", "budgets": [2, 6]},
    ],
    ids=["joint", "max_normalised", "per_budget", "relative", "shares", "by_evaluations"],
)
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, ckpt: str, options: dict[str, Any]
) -> None:
    whole, half = build(ckpt, **options), Save(3, tmp_path / "half.ckpt")
    fit(whole, tmp_path, steps=6, callbacks=[half])
    resumed = build(None, **options)  # as the same command without the denoiser's file, which may be gone
    trainer(tmp_path, max_steps=6).fit(resumed, loader(start=3), ckpt_path=str(tmp_path / "half.ckpt"))
    assert same(state(whole), state(resumed))
    assert not same(state(whole), torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"])


def test_a_denoiser_comes_from_either_kind_of_file(tmp_path: Path) -> None:
    found = [build(denoiser_file(tmp_path, kind)) for kind in ("ckpt", "safetensors")]
    assert same(state(found[0].denoiser), state(found[1].denoiser))
    assert not same(state(found[0].denoiser), state(build(None).denoiser))
    order = order_checkpoint(found[0], tmp_path)
    assert same(state(build(str(order)).denoiser), state(found[0].denoiser)), "of an OrderModule's checkpoint as well"


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_text("nothing")
    with pytest.raises(ValueError, match=r"model.denoiser_ckpt=.*a.ckpt: this file is no checkpoint, or a damaged one"):
        build(str(tmp_path / "a.ckpt"))
    torch.save({"state_dict": {"other.weight": torch.zeros(1)}}, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match=r"model.denoiser_ckpt=.*b.ckpt: this checkpoint holds no denoiser"):
        build(str(tmp_path / "b.ckpt"))


def test_a_frozen_denoiser_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.denoiser_ckpt is missing"):
        fit(build(None), tmp_path)
    fit(build(None, denoiser="joint"), tmp_path, steps=1)
    validate(build(None), [batch([1])], tmp_path)


def test_a_checkpoint_of_other_budgets_or_focus_starts_what_was_seen_anew(tmp_path: Path, ckpt: str) -> None:
    """As one that has them elsewhere, or knows nothing of a focus, does."""
    fit(build(ckpt, focus=0.3), tmp_path, steps=4, enable_checkpointing=True)
    path = next(tmp_path.rglob("*.ckpt"))
    saved = torch.load(path, weights_only=False)
    assert saved["state_dict"]["earlier.usual_success"][:, 1].any()
    assert OrderModule.load_from_checkpoint(path).earlier.usual_success.equal(
        saved["state_dict"]["earlier.usual_success"]
    )
    for other in ({"budgets": [2, 9]}, {"focus": 0.1}, {"focus": 0.0}):
        again = OrderModule.load_from_checkpoint(path, **other)
        assert not again.earlier.usual_success.any()
        assert float(again.earlier.focus) == pytest.approx(other.get("focus", 0.3)), "what is saved next says so"
        assert again.earlier.control_moments.any() == ("focus" in other)
    for name in [name for name in saved["state_dict"] if name.startswith("earlier.")]:
        saved["state_dict"][name.removeprefix("earlier.")] = saved["state_dict"].pop(name)
    del saved["state_dict"]["focus"]
    torch.save(saved, tmp_path / "without.ckpt")
    assert not OrderModule.load_from_checkpoint(tmp_path / "without.ckpt").earlier.usual_success.any()


def test_a_resumed_run_takes_the_learning_rate_it_is_given(tmp_path: Path) -> None:
    ckpt, half = denoiser_file(tmp_path), Save(3, tmp_path / "half.ckpt")
    fit(build(ckpt), tmp_path, steps=6, callbacks=[half])
    still = build(ckpt, learning_rate=0.0)
    trainer(tmp_path, max_steps=6).fit(still, loader(start=3), ckpt_path=str(half.path))
    saved = torch.load(half.path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in still.order_nets.state_dict().items())


def test_an_order_is_kept_without_its_denoiser(tmp_path: Path) -> None:
    """Nothing else is lost, and it goes with the same weights alone, as they are or rounded as they are stored."""
    source = Path(denoiser_file(tmp_path, "safetensors"))
    whole, half = build(str(source)), Save(3, tmp_path / "half.ckpt")
    fit(whole, tmp_path, steps=6, callbacks=[half])
    kept, out = tmp_path / "kept" / "order.ckpt", tmp_path / "out" / "last.ckpt"
    keep_order(half.path, kept)
    assert not any(name.startswith("denoiser.") for name in torch.load(kept, weights_only=True)["state_dict"])
    assert restore_order(kept, Path(denoiser_file(tmp_path, "ckpt")), out)
    assert restore_order(kept, source, out)
    assert torch.load(out, weights_only=True).keys() == torch.load(half.path, weights_only=True).keys()
    resumed = build(None)
    trainer(tmp_path, max_steps=6).fit(resumed, loader(start=3), ckpt_path=str(out))
    assert same(state(whole), state(resumed))

    rounded = {name: value.bfloat16().float() for name, value in load_file(source).items()}
    save_file(rounded, tmp_path / "rounded.safetensors")
    assert restore_order(kept, tmp_path / "rounded.safetensors", out)
    save_file({name: value + 1.0 for name, value in rounded.items()}, tmp_path / "other.safetensors")
    save_file({f"{name}_more": value for name, value in rounded.items()}, tmp_path / "renamed.safetensors")
    for other in ("other", "renamed"):
        assert not restore_order(kept, tmp_path / f"{other}.safetensors", tmp_path / "none.ckpt")
    assert not (tmp_path / "none.ckpt").exists()
    for damaged in (kept.read_bytes()[:1000], b"none", b""):
        kept.write_bytes(damaged)
        with pytest.raises(ValueError, match="this file is damaged; remove it to learn the order anew"):
            restore_order(kept, source, out)
    with pytest.raises(ValueError, match="its denoiser is not frozen, so that it cannot be left out"):
        keep_order(order_checkpoint(build(str(source), denoiser="joint"), tmp_path), kept)


def test_where_checkpoints_are_is_not_kept(tmp_path: Path) -> None:
    state = {
        "hyper_parameters": {"denoiser": "frozen"},
        "state_dict": {"denoiser.a": torch.ones(2)},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"dirpath": "/home"}, "Timer": {"time_elapsed": 1.0}},
    }
    torch.save(state, tmp_path / "last.ckpt")
    keep_order(tmp_path / "last.ckpt", tmp_path / "order.ckpt")
    kept = torch.load(tmp_path / "order.ckpt", weights_only=True)
    assert (kept["callbacks"], kept["state_dict"]) == ({"Timer": {"time_elapsed": 1.0}}, {})


def test_what_is_killed_meanwhile_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(state: Any, file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    save({"step": 1}, tmp_path / "order.ckpt")
    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save({"step": 2}, tmp_path / "order.ckpt")
    assert torch.load(tmp_path / "order.ckpt", weights_only=True) == {"step": 1}
