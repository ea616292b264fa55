"""The last checkpoint of a training that ran out of time: no update is lost, and it goes on as if never stopped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint, Timer
from torch import Tensor

from lightning_mdm.callbacks.last_update import LastUpdate
from lightning_mdm.data.batch import Batch
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.trainer import Trainer
from runs import few_problems, trainer

UPDATES = 6


class Second:
    """A clock by which every batch takes one second; notes after which batch a validation began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        self.validations: list[int] = []
        step = DenoiserModule.training_step

        def training_step(module: DenoiserModule, batch: Batch, batch_idx: int) -> Tensor:
            self.now += 1
            return step(module, batch, batch_idx)

        monkeypatch.setattr(DenoiserModule, "training_step", training_step)
        monkeypatch.setattr(DenoiserModule, "on_validation_start", lambda _: self.validations.append(self.now))
        monkeypatch.setattr(Timer, "time_elapsed", lambda *_: float(self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Second:
    return Second(monkeypatch)


def train(
    folder: Path, seconds: int, batches: int = 1, every: int = 100, validate: int = 2, least: int | None = None,
    *callbacks: Callback,
) -> Trainer:  # fmt: skip
    """Train, or go on, for at most so many batches in all, ``batches`` of them an update."""
    run = trainer(
        folder, LastUpdate(), *callbacks, EMAWeightAveraging(decay=0.5),
        ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=every, enable_version_counter=False),
        enable_checkpointing=True, max_steps=UPDATES, accumulate_grad_batches=batches, max_time={"seconds": seconds},
        min_steps=least, val_check_interval=validate, check_val_every_n_epoch=None, num_sanity_val_steps=0,
    )  # fmt: skip
    fit(run, folder)
    return run


def fit(run: Trainer, folder: Path) -> dict[str, Any]:
    """Train, or go on from the folder's last checkpoint; returns the one it leaves."""
    torch.manual_seed(0)
    module = DenoiserModule(280, TransformerConfig(layers=1, width=16, heads=2, mlp_width=16), warmup_steps=2)
    run.fit(module, datamodule=few_problems(), ckpt_path="last" if (folder / "last.ckpt").is_file() else None)
    return saved(folder)


def by_epochs(folder: Path, epochs: int, every: int, *callbacks: Callback) -> dict[str, Any]:
    """Train for epochs of three updates."""
    run = trainer(
        folder, LastUpdate(), *callbacks, EMAWeightAveraging(decay=0.5),
        ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=every),
        enable_checkpointing=True, max_steps=1000, max_epochs=epochs, limit_train_batches=3, num_sanity_val_steps=0,
    )  # fmt: skip
    return fit(run, folder)


def saved(folder: Path) -> dict[str, Any]:
    assert {file.name for file in folder.glob("last*")} == {"last.ckpt"}
    found: dict[str, Any] = torch.load(folder / "last.ckpt", weights_only=True)
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize(("batches", "stops_at"), [(1, 3), (2, 2), (3, 1)])
def test_stopped_by_time_and_resumed_it_ends_as_if_never_stopped(
    tmp_path: Path, clock: Second, batches: int, stops_at: int
) -> None:
    """Three seconds are three batches: three updates, one and a half, which is completed to two, or one."""
    train(tmp_path / "whole", 1000, batches)
    whole = saved(tmp_path / "whole")
    assert whole["global_step"] == UPDATES
    clock.now = 0
    train(tmp_path / "sliced", 3, batches)
    stopped = saved(tmp_path / "sliced")
    assert stopped["global_step"] == stops_at
    averaged = same(stopped["current_model_state"], stopped["state_dict"])
    assert averaged == (stops_at == 1), "the raw weights are kept; an average begins with them"
    train(tmp_path / "sliced", 1000, batches)
    resumed = saved(tmp_path / "sliced")
    for part in ("global_step", "current_model_state", "state_dict", "averaging_state", "optimizer_states"):
        assert same(whole[part], resumed[part]), part
    place = [found["loops"]["fit_loop"]["state_dict"]["combined_loader"] for found in (whole, resumed)]
    assert place[0] == place[1]


def test_a_limit_of_time_asks_for_no_validation(tmp_path: Path, clock: Second) -> None:
    """Only the interval does, at the end of a complete training too, but not at the batch that is the last in time."""
    train(tmp_path / "due", 2)
    assert clock.validations == []
    clock.now = 0
    run = train(tmp_path, 3)
    assert clock.validations == [2]
    assert run.limit_val_batches == 1.0
    run.validate(datamodule=few_problems(), ckpt_path="last", verbose=False)
    assert clock.validations == [2, 3], "asked for, it validates"
    clock.validations.clear()
    train(tmp_path, UPDATES)
    assert clock.validations == [4, 6]


def test_what_may_not_stop_yet_goes_on_validating(tmp_path: Path, clock: Second) -> None:
    run = train(tmp_path, 2, least=5)
    assert clock.validations == [2, 4, 6], "least updates are a least epoch too, and this one has no end"
    assert saved(tmp_path)["global_step"] == UPDATES
    assert run.limit_val_batches == 1.0


@pytest.mark.parametrize(
    ("steps", "epoch", "least", "least_epochs", "enough"),
    [
        (2, 0, 3, None, False),
        (3, 0, 3, None, True),
        (9, 0, None, 1, False),
        (9, 1, None, 1, True),
        (0, 0, None, None, True),
    ],
)
def test_a_training_may_stop_at_its_least_update(
    steps: int, epoch: int, least: int | None, least_epochs: int | None, enough: bool
) -> None:
    fake: Any = SimpleNamespace(global_step=steps, current_epoch=epoch, min_steps=least, min_epochs=least_epochs)
    assert LastUpdate.enough(fake) == enough


def test_a_training_complete_as_its_time_ends_validates_by_its_interval(tmp_path: Path, clock: Second) -> None:
    train(tmp_path, UPDATES, validate=4)
    assert clock.validations == [4]
    assert saved(tmp_path)["global_step"] == UPDATES


def test_a_training_that_ends_by_its_epochs_keeps_its_last_update_and_the_raw_weights(tmp_path: Path) -> None:
    """Two epochs; the checkpoint of every fourth update would be the last otherwise."""
    for every in (4, 100):
        found = by_epochs(tmp_path / str(every), 2, every)
        assert found["global_step"] == 6
        assert not same(found["current_model_state"], found["state_dict"]), "averaged and raw weights"


class EnoughAt(Callback):
    """Tells a training to stop, as a limit of time does."""

    def __init__(self, updates: int) -> None:
        self.updates = updates

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        trainer.should_stop = trainer.global_step >= self.updates


@pytest.mark.parametrize("stops_at", [3, 4])
def test_without_a_last_epoch_the_end_of_one_is_a_batch_like_any(tmp_path: Path, stops_at: int) -> None:
    assert by_epochs(tmp_path, -1, 100, EnoughAt(stops_at))["global_step"] == stops_at


class StopAt(EarlyStopping):
    """Validation says that it is enough after some updates."""

    def __init__(self, updates: int) -> None:
        super().__init__("val/masked_accuracy")
        self.updates = updates

    def on_validation_end(self, trainer: Trainer, pl_module: DenoiserModule) -> None:  # type: ignore[override]
        if not self._should_skip_check(trainer):
            trainer.should_stop = trainer.should_stop or trainer.global_step == self.updates

    def on_train_epoch_end(self, trainer: Trainer, pl_module: DenoiserModule) -> None:  # type: ignore[override]
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.updates


def test_what_an_epoch_stops_keeps_its_raw_weights(tmp_path: Path) -> None:
    """As EarlyStopping does where validation is the end of an epoch, which is Lightning's default."""
    for stop, ends in ((3, 3), (4, 9)):
        found = by_epochs(tmp_path / str(stop), 3, 2, StopAt(stop))
        assert found["global_step"] == ends
        assert not same(found["current_model_state"], found["state_dict"]), "averaged and raw weights"


def test_what_validation_stops_keeps_its_raw_weights_and_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    def until(folder: Path, stop: int, least: int | None = None, batches: int = 1) -> dict[str, Any]:
        run = trainer(
            folder, LastUpdate(), StopAt(stop), EMAWeightAveraging(decay=0.5),
            ModelCheckpoint(
                folder, save_last=True, save_top_k=0, every_n_train_steps=100, enable_version_counter=False
            ),
            enable_checkpointing=True, max_steps=UPDATES, val_check_interval=2, check_val_every_n_epoch=None,
            num_sanity_val_steps=1, min_steps=least, accumulate_grad_batches=batches,
        )  # fmt: skip
        return fit(run, folder)

    whole = until(tmp_path / "whole", stop=100)
    stopped = until(tmp_path / "stopped", stop=4)
    assert (whole["global_step"], stopped["global_step"]) == (UPDATES, 4)
    assert not same(stopped["current_model_state"], stopped["state_dict"])
    resumed = until(tmp_path / "stopped", stop=100)
    for part in ("global_step", "current_model_state", "state_dict", "averaging_state", "optimizer_states"):
        assert same(whole[part], resumed[part]), part
    assert until(tmp_path / "not_yet", stop=2, least=5)["global_step"] == UPDATES, "it may not stop yet"
    # Four batches are an update and a third: it stops behind the second update, and nothing of it is lost.
    stopped = until(tmp_path / "within", stop=1, batches=3)
    place = stopped["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert (stopped["global_step"], place[0]["slots"]) == (2, 2 * 3 * 4)
    assert not same(stopped["current_model_state"], stopped["state_dict"])


def test_what_a_killed_run_left_does_not_replace_a_later_checkpoint(tmp_path: Path, clock: Second) -> None:
    train(tmp_path, 2)
    (tmp_path / "last.final").write_bytes(b"older")
    train(tmp_path, 0)  # its time is over before it begins
    assert saved(tmp_path)["global_step"] == 2


class KilledAtItsSecondBatch(Callback):
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        self.batches = getattr(self, "batches", 0) + 1
        if self.batches == 2:
            raise MemoryError


def test_what_is_killed_within_its_first_update_leaves_the_checkpoint_it_began_from(
    tmp_path: Path, clock: Second
) -> None:
    """A checkpoint within an update would lack the gradients of the batches behind it."""
    train(tmp_path / "whole", 1000, batches=3, every=2)
    clock.now = 0
    train(tmp_path / "sliced", 6, batches=3, every=2)
    before = (tmp_path / "sliced" / "last.ckpt").read_bytes()
    assert saved(tmp_path / "sliced")["global_step"] == 2, "a multiple of the interval"
    with pytest.raises(MemoryError):
        train(tmp_path / "sliced", 1000, 3, 2, 2, None, KilledAtItsSecondBatch())
    assert (tmp_path / "sliced" / "last.ckpt").read_bytes() == before
    train(tmp_path / "sliced", 1000, batches=3, every=2)
    whole, resumed = saved(tmp_path / "whole"), saved(tmp_path / "sliced")
    for part in ("global_step", "current_model_state", "state_dict", "averaging_state", "optimizer_states"):
        assert same(whole[part], resumed[part]), part


def test_one_process_moves_and_removes_what_was_kept(tmp_path: Path) -> None:
    callback, aside = LastUpdate(), tmp_path / "last.final"
    processes: list[Any] = [
        SimpleNamespace(checkpoint_callback=ModelCheckpoint(tmp_path, save_last=True), is_global_zero=first)
        for first in (False, True)
    ]
    module = DenoiserModule(5)
    aside.write_bytes(b"older")
    for process in processes:
        callback.stopping = True
        callback.on_fit_start(process, module)
        assert not callback.stopping
        assert aside.exists() != process.is_global_zero
    aside.write_bytes(b"kept")
    for process in processes:
        callback.on_fit_end(process, module)
        assert (tmp_path / "last.ckpt").exists() == process.is_global_zero


def test_a_training_that_keeps_no_last_checkpoint_gets_none(tmp_path: Path) -> None:
    for saving in (ModelCheckpoint(tmp_path), ModelCheckpoint(save_last=True), None):
        fake: Any = SimpleNamespace(checkpoint_callback=saving)
        assert LastUpdate.last(fake) is None
