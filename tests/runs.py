"""What tests of whole runs share: a tiny configuration, programs in this process, and denoisers that never learn."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lightning_mdm.cli import main
from lightning_mdm.data.batch import Batch
from lightning_mdm.data.difficulty import Difficulty
from lightning_mdm.data.word_problems import WordProblems
from lightning_mdm.output import DenoiserOutput
from lightning_mdm.trainer import Trainer

REPOSITORY = Path(__file__).resolve().parents[1]
WORD_PROBLEMS = REPOSITORY / "configs" / "word_problems" / "denoiser.yaml"
SHIPPED = REPOSITORY / "experiments" / "word_problems" / "denoiser.safetensors"
N_TEST, N_VALIDATION = 7, 5
TINY = """
seed_everything: 0
trainer:
  accelerator: cpu
  max_steps: 4
  val_check_interval: 2
  precision: 32-true
  enable_progress_bar: false
  enable_model_summary: false
model: {init_args: {net: {layers: 1, width: 16, heads: 2, mlp_width: 16}}}
data: {init_args: {batch_size: 4, eval_batch_size: 3, vocab_size: 280, measure_problems: 50}}
"""
TINY_WORD_PROBLEMS = f"""
data:
  init_args:
    n_validation: {N_VALIDATION}
    n_test: {N_TEST}
    prompt_tokens: 200
    response_tokens: 48
    difficulty: {{min_steps: 2, max_steps: 3, max_value: 20, operations: "+-*"}}
frontier: {{policies: [TopMargin, IID], budgets: [1, 4], fit_budgets: [1], fit_problems: 3}}
"""
FEW: dict[str, Any] = {
    "n_validation": N_VALIDATION, "vocab_size": 280, "measure_problems": 50, "prompt_tokens": 200,
    "response_tokens": 48, "batch_size": 4, "eval_batch_size": 3,
}  # fmt: skip


def program(*args: str | Path) -> str:
    """Run the program in this process; returns what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main([str(arg) for arg in args])
    return printed.getvalue()


def last(run_dir: Path) -> Path:
    """The newest checkpoint of a run."""
    return run_dir / "checkpoints" / "last.ckpt"


def saved(run_dir: Path) -> tuple[int, dict[str, Tensor]]:
    """Updates and state of that checkpoint."""
    checkpoint = torch.load(last(run_dir), weights_only=True)
    return checkpoint["global_step"], checkpoint["state_dict"]


def refused(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The program ends with status 2, and its last two lines say why and how to see more."""
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    error, hint = said.splitlines()[-2:]
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("(")


def load_script(name: str, script: str = "run") -> ModuleType:
    """An experiment's script as a module."""
    path = REPOSITORY / "experiments" / name / f"{script}.py"
    spec = importlib.util.spec_from_file_location(f"experiment_{name}_{script}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def write_checkpoint(path: Path, step: int, seconds: float = 0.0) -> None:
    """What a training of ``step`` updates in ``seconds`` leaves, as far as those look who go on from it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    timer = {"Timer": {"time_elapsed": {"train": seconds}}}
    weights = {"denoiser.a": torch.arange(6.0).reshape(2, 3)}
    loops = {"fit_loop": {"state_dict": {"combined_loader": [{"slots": 4 * step}]}}}
    saved = {"global_step": step, "callbacks": timer, "state_dict": weights, "loops": loops}
    torch.save({**saved, "hyper_parameters": {"denoiser": "frozen"}}, path)


def without_seed(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """A command without the options that give it a seed, nor the seed in its paths; and what these options say."""
    names = ("--seed_everything", "--data.seed", "--model.noise_seed", "--frontier.seeds")
    said = {name: value for name, value in pairwise(arguments) if name in names}
    places = {k for k, part in enumerate(arguments) if part in names}
    rest = [part for k, part in enumerate(arguments) if not places & {k, k - 1}]
    return [re.sub(r"/seed_\d+", "", part) for part in rest], said


def tiny(tmp_path: Path, text: str = TINY_WORD_PROBLEMS) -> list[str]:
    """Options that lay a tiny configuration over the one of the word problems."""
    files = [WORD_PROBLEMS]
    for name, content in (("tiny.yaml", TINY), ("task.yaml", text)):
        (tmp_path / name).write_text(content)
        files.append(tmp_path / name)
    return [part for file in files for part in ("--config", str(file))]


def few_problems(n_test: int = N_TEST, **options: Any) -> WordProblems:
    """A handful of word problems."""
    return WordProblems(Difficulty(), n_test=n_test, **{**FEW, **options})


def trainer(run_dir: Path, *callbacks: L.Callback, **options: Any) -> Trainer:
    """A quiet trainer on the CPU."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "enable_checkpointing": False, "default_root_dir": run_dir, "callbacks": list(callbacks),
    }  # fmt: skip
    return Trainer(**{**defaults, **options})


class Omniscient(nn.Module):
    """Knows the problems: answers every one of them rightly, or ends every answer at once; counts what it is asked."""

    def __init__(self, data: WordProblems, *, right: bool = True) -> None:
        super().__init__()
        problems = [*data.problems("validation"), *data.problems("test")]
        examples = [example for problem in problems if (example := data.encode(problem)) is not None]
        self.answers = {tuple(e.tokens[: sum(e.given)]): e.tokens for e in examples}
        self.vocab_size, self.eos_id, self.right = data.vocab_size, data.special_ids[0], right
        self.skill = nn.Parameter(torch.ones(1))
        self.calls = 0

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        self.calls += 1
        target_BL = torch.full_like(tokens_BL, self.eos_id)
        for row, tokens in enumerate(tokens_BL.tolist() if self.right else ()):
            answer = next(
                self.answers[key] for n in range(len(tokens) + 1) if (key := tuple(tokens[:n])) in self.answers
            )
            target_BL[row, : len(answer)] = torch.tensor(answer)
        target_BQ = target_BL.gather(1, query_BQ)
        return DenoiserOutput(9.0 * self.skill * nn.functional.one_hot(target_BQ, self.vocab_size).float())


class Answering(L.LightningModule):
    """A module around a denoiser; nothing is trained."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def selector_for(self, budget: int) -> None: ...

    def validation_step(self, batch: Batch, batch_idx: int) -> None: ...

    def test_step(self, batch: Batch, batch_idx: int) -> None: ...

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return batch.index_B
