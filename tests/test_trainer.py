"""What this project's trainer adds to Lightning's where a program is ended from outside."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_mdm.trainer import WholeFiles
from runs import REPOSITORY, last, tiny, trainer


def test_a_checkpoint_is_the_last_one_or_the_next_one_and_never_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    io, path = WholeFiles(), tmp_path / "checkpoints" / "last.ckpt"
    io.save_checkpoint({"step": 1}, path)
    save = torch.save

    def killed(value: Any, file: Any) -> None:
        save(value, file)
        file.truncate(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    monkeypatch.setattr(torch, "save", save)
    io.save_checkpoint({"step": 3}, str(path))
    assert torch.load(path, weights_only=True) == {"step": 3}
    io.save_checkpoint({"step": 3}, tmp_path / "other.ckpt")
    assert path.read_bytes() == (tmp_path / "other.ckpt").read_bytes(), "nothing of its name is in it"
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    path, limits = tmp_path / "last.ckpt", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"{re.escape(str(path))}: .*File too large"):
            WholeFiles().save_checkpoint({"weights": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir()), "nothing is left of it"


def test_files_of_other_places_are_left_to_lightning(tmp_path: Path) -> None:
    WholeFiles().save_checkpoint({"step": 1}, "memory://checkpoints/last.ckpt")
    assert WholeFiles().load_checkpoint("memory://checkpoints/last.ckpt", weights_only=True) == {"step": 1}
    assert type(trainer(tmp_path).strategy.checkpoint_io) is WholeFiles


@pytest.mark.long
@pytest.mark.parametrize("told", ["the first", "the second"])
def test_processes_that_train_together_end_together(tmp_path: Path, told: str) -> None:
    """Whichever of them gets SIGTERM, at whatever moment."""
    run = tmp_path / "run"
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_steps", "100000"]
    options += ["--trainer.val_check_interval", "7", "--trainer.callbacks.every_n_train_steps", "2"]
    command = [sys.executable, "-m", "lightning_mdm", "fit", *tiny(tmp_path), "--run_dir", str(run), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        started = time.monotonic()
        while not last(run).exists():
            assert process.poll() is None
            assert time.monotonic() - started < 300
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(process.pid if told == "the first" else int(children[0]), signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 143, said
    assert "stopped by SIGTERM: --ckpt_path last goes on" in said
    assert "Traceback" not in said
