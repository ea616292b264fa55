"""``experiments/sudoku/two_steps.py``: which puzzles it learns on, and that its stages parse and go on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from lightning_mdm import slices
from lightning_mdm.cli import main
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.order_net import OrderNetConfig
from lightning_mdm.nets.posterior_net import PosteriorConfig
from lightning_mdm.nets.selector import SelectorConfig
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.puzzles.sudoku import Puzzle
from lightning_mdm.puzzles.sudoku_files import read_compact
from runs import REPOSITORY, load_script, write_checkpoint

SHAPE = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 16, "positions": 81}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.chdir(REPOSITORY)
    return load_script("sudoku", "two_steps")


def puzzles(script: ModuleType, n: int) -> list[Puzzle]:
    return [script.fresh(script.HARD, script.STREAM, k, split="train") for k in range(n)]


def tiny_order() -> OrderModule:
    torch.manual_seed(0)
    return OrderModule(
        9, TransformerConfig(**SHAPE), denoiser="joint", selector=SelectorConfig(**SHAPE, start="quota"),
        posterior=PosteriorConfig("relative", OrderNetConfig(**SHAPE)), finishing=True, budgets=[2],
    ).eval()  # fmt: skip


def test_puzzles_within_reach(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of the nats along margin's order, computed here, and a learned one that takes all at once."""
    order, some = tiny_order(), puzzles(script, 5)
    monkeypatch.setattr(script, "BATCH", 2)
    monkeypatch.setattr(script, "BETAS", (1e6,))
    data = script.SudokuProblems()
    examples = [data.encode(data.problem("train", k, puzzle)) for k, puzzle in enumerate(some)]
    batch = script.collate(examples, data.token_space.pad_id)

    def log_probs(tokens_BL: torch.Tensor) -> torch.Tensor:
        place_BL = torch.arange(81).expand(len(tokens_BL), -1)
        logits_BLV = script.denoiser_of(order)(tokens_BL, batch.valid_BL, place_BL).logits_BQV
        return torch.as_tensor(logits_BLV.double().log_softmax(-1))

    with torch.no_grad():
        masked_BL = batch.response_BL
        z_BL = batch.tokens_BL.masked_fill(masked_BL, data.token_space.mask_id)
        first_BLV = log_probs(z_BL)
        best_BL2 = first_BLV.exp().topk(2).values
        margin_BL = (best_BL2[..., 0] - best_BL2[..., 1]).masked_fill(~masked_BL, -1.0)
        half_BL = torch.zeros_like(masked_BL)
        for row, margin_L in enumerate(margin_BL):
            half_BL[row, margin_L.topk(-(-int(masked_BL[row].sum()) // 2)).indices] = True
        then_BLV = log_probs(torch.where(half_BL, batch.tokens_BL, z_BL))
        true_BL = [p.gather(-1, batch.tokens_BL[..., None])[..., 0] for p in (first_BLV, then_BLV)]
        along_margin_B = -torch.where(half_BL, *true_BL).mul(masked_BL).sum(-1)
        at_once_B = -(true_BL[0] * masked_BL).sum(-1)
    least = torch.minimum(along_margin_B, at_once_B).tolist()
    for reach in [0.0, *(nats + 1e-3 for nats in least)]:
        kept = [puzzle for puzzle, nats in zip(some, least, strict=True) if nats < reach]
        assert list(script.within_reach(some, order, reach)) == kept


def test_from_nothing_to_rows(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages parse; what is there is not made again."""
    commands: list[str] = []
    data: dict[str, dict[str, object]] = {}
    given = puzzles(script, 2)

    def made(stream: str, numbers: Iterable[int], split: str, jobs: int) -> list[Puzzle]:
        commands.append(f"{split}: {stream} {numbers}")
        return given

    def parse(*arguments: str, log: Path, timeout: float | None = None) -> None:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--print_config"])
        assert ended.value.code == 0
        found = yaml.safe_load(capsys.readouterr().out)
        commands.append(arguments[0])
        data[arguments[0]] = {**found["data"]["init_args"], **found["model"]["init_args"]}
        if arguments[0] == "fit":
            write_checkpoint(log.parent / "checkpoints" / "last.ckpt", found["trainer"]["max_steps"])
        else:
            log.parent.mkdir(parents=True)
            for name in ("frontier.csv", "paired.csv", "report.md"):
                (log.parent / name).write_text(name)

    here, runs = tmp_path / "here", tmp_path / "runs"
    here.mkdir()
    (here / "weights_6m").symlink_to(script.HERE / "weights_6m")
    learned = here / "order.safetensors"
    monkeypatch.setattr(script, "HERE", here)
    monkeypatch.setattr(script, "LEARNED", learned)
    monkeypatch.setattr(script, "made", made)
    monkeypatch.setattr(script, "within_reach", lambda candidates, order, reach: candidates[:1])
    monkeypatch.setattr(slices, "lightning", parse)
    monkeypatch.setattr(OrderModule, "load_from_checkpoint", lambda path, map_location: script.read_order(weights))
    weights = runs / "denoiser.safetensors"
    script.main(["--runs", str(runs)])
    assert commands == [
        f"train: two_steps/train {range(8000)}", "fit", f"test: test {range(40_000, 72_000)}", "sweep"
    ]  # fmt: skip
    (trained, origin), (tested, other) = (read_compact(runs / f"{split}.npz") for split in ("train", "test"))
    assert (trained, tested) == (given[:1], given)
    assert origin is not None
    assert other is not None
    assert (origin.split, other.split, origin.difficulty, other.difficulty) == ("train", "test", "hard", "hard")
    assert data["fit"]["train_path"] == str(runs / "train.npz")
    assert data["fit"]["init_from"] == str(script.ORDER)
    assert data["sweep"]["test_path"] == str(runs / "test.npz")
    assert data["sweep"]["init_from"] == str(learned)
    assert data["sweep"]["n_test"] == 32_000
    assert data["fit"]["budgets"] == [2]
    assert data["fit"]["focus"] == 1.0
    assert (here / "rows_6m_two_steps.csv").read_text() == "frontier.csv"
    assert (here / "paired_6m_two_steps.csv").read_text() == "paired.csv"

    commands.clear()
    script.main(["--runs", str(runs)])
    assert not commands, "nothing is left to do"
    script.main(["--runs", str(tmp_path / "others")])
    assert commands == [f"test: test {range(40_000, 72_000)}", "sweep"], "the stored order decodes"
