"""Training on the masks that a policy leaves: they are those of decode runs, and a resumed training has them again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from lightning_mdm.data.batch import Batch, joined
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.likelihood import true_token_nats
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.policies import (
    IID,
    KLASS,
    P2,
    Autoregressive,
    Blocks,
    ConfidenceThreshold,
    Dilated,
    Entropy,
    EntropyBounded,
    GivenOrder,
    LeftToRight,
    Noisy,
    PCSampler,
    TopMargin,
    TopProbability,
)
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import DecodingState, Prediction
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.modules.progressive import Progressive, ProgressiveMasks
from lightning_mdm.nets.denoiser import ReadableDenoiser
from lightning_mdm.nets.selector import SelectorConfig
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.objectives.denoising import response_query
from lightning_mdm.output import DenoiserOutput
from lightning_mdm.vocabulary import TokenSpace
from runs import REPOSITORY, program, refused, saved, tiny
from toys import Mixing, random_rows

V, WIDTH = 7, 16
SPACE = TokenSpace(V, eos_id=None, pad_id=0)
NET = TransformerConfig(layers=1, width=WIDTH, heads=2, mlp_width=24)
POLICIES = [
    IID(), TopProbability(), TopMargin(), Entropy(), LeftToRight(), Noisy(), ConfidenceThreshold(0.4), Dilated(),
    EntropyBounded(1.0), Blocks(IID(), block_length=3),
]  # fmt: skip


class Toy(ReadableDenoiser):
    """Random logits that depend on everything, and hidden states to read."""

    def __init__(self) -> None:
        super().__init__(V, WIDTH)
        self.mixing = Mixing(V, width=WIDTH, seed=3)

    def embed(self, tokens_BL: Tensor) -> Tensor:
        return self.mixing.embedding[tokens_BL]

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor | None, query_BQ: Tensor | None = None) -> DenoiserOutput:
        assert query_BQ is not None
        valid_BL = torch.ones_like(tokens_BL, dtype=torch.bool) if valid_BL is None else valid_BL
        hidden_BLD = torch.sin(self.embed(tokens_BL) + (self.embed(tokens_BL) * valid_BL[:, :, None]).sum(1)[:, None])
        return DenoiserOutput(self.mixing(tokens_BL, valid_BL, query_BQ).logits_BQV, hidden_BLD.float())


def problems(n: int, seed: int) -> Batch:
    """Rows of different lengths, all tokens known, with indices of their own."""
    canvas = random_rows(n, vocab_size=V, pad=0, longest=9, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    tokens_BL = torch.where(
        canvas.valid_BL & ~canvas.prompt_BL,
        torch.randint(V, canvas.tokens_BL.shape, generator=generator),
        canvas.tokens_BL,
    )
    return Batch(tokens_BL, canvas.prompt_BL, canvas.valid_BL, canvas.index_B + 1000 * seed)


def visited(masks: ProgressiveMasks, denoiser: ReadableDenoiser, arrivals: list[Batch]) -> dict[int, list[list[bool]]]:
    """The masks of every row until all are finished, by the key of its noise; nobody arrives in the end."""
    found: dict[int, list[list[bool]]] = {}
    none = problems(1, 99).some(torch.tensor([False]))
    step = 0
    while step < len(arrivals) or (masks.under_way is not None and len(masks.under_way.rows)):
        now = masks.with_arrivals(arrivals[step] if step < len(arrivals) else none)
        for key, masked_L, valid_L in zip(now.key_B.tolist(), now.masked_BL, now.rows.valid_BL, strict=True):
            found.setdefault(key, []).append(masked_L[: int(valid_L.sum())].tolist())
        query_BQ = response_query(now.rows.response_BL, now.rows.longest_response)
        masks.advance(denoiser(masks.masked_tokens_BL, now.rows.attend_BL, query_BQ), query_BQ)
        step += 1
    return found


def decoded(
    policy: UnmaskingPolicy, denoiser: ReadableDenoiser, rows: Batch, key_B: Tensor, steps: int
) -> dict[int, list[list[bool]]]:
    """The masks of a decode run that commits the true tokens, likewise."""
    found: dict[int, list[list[bool]]] = {}

    def watch(state: DecodingState, prediction: Prediction, chosen_AL: Tensor) -> None:
        for key, masked_L, valid_L in zip(state.noise.index_B.tolist(), state.masked_BL, state.valid_BL, strict=True):
            found.setdefault(key, []).append(masked_L[: int(valid_L.sum())].tolist())

    keyed = Batch(rows.tokens_BL, rows.prompt_BL, rows.valid_BL, key_B)
    whole = partial(decode, observers=[watch])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_mdm.decoding.likelihood.decode", whole)
        true_token_nats(denoiser, policy, keyed, SPACE, steps=steps, seed=5)
    return found


@pytest.mark.parametrize("steps", [1, 2, 4, 20])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.label)
def test_rows_are_trained_on_in_the_states_that_a_decode_run_of_their_tokens_visits(
    policy: UnmaskingPolicy, steps: int
) -> None:
    """Of every policy, those that draw among them: the first arrivals' steps count as a decode run's do."""
    denoiser, first, later = Toy(), problems(6, 1), problems(5, 2)
    masks = ProgressiveMasks(Progressive(policy, [steps]), 5, V, WIDTH)
    arrived = masks.with_arrivals(first)
    key_B = arrived.key_B
    assert len(set(key_B.tolist())) == 6
    masks.step, masks.under_way = 0, None
    found = visited(masks, denoiser, [first, later, later])
    wanted = decoded(policy, denoiser, first, key_B, steps)
    assert {key: states for key, states in found.items() if key in wanted} == wanted
    assert len(found) == 6 + 2 * 5, "a problem that comes again has another key"
    assert all(1 <= len(states) <= steps for states in found.values())


def test_rows_draw_their_budgets() -> None:
    masks = ProgressiveMasks(Progressive(TopMargin(), [2, 3, 7]), 0, V, WIDTH)
    rows = problems(6, 1)
    drawn_B = torch.cat([masks.with_arrivals(rows).budget_B[-6:] for _ in range(200)])
    share = [float((drawn_B == budget).double().mean()) for budget in (2, 3, 7)]
    assert share == pytest.approx([1 / 3] * 3, abs=0.062)  # 4.5 standard errors
    again = ProgressiveMasks(Progressive(TopMargin(), [2, 3, 7]), 0, V, WIDTH)
    assert again.with_arrivals(rows).budget_B.equal(drawn_B[:6])
    other = ProgressiveMasks(Progressive(TopMargin(), [2, 3, 7]), 1, V, WIDTH)
    assert not torch.cat([other.with_arrivals(rows).budget_B[-6:] for _ in range(3)]).equal(drawn_B[:18])


def test_rows_without_anything_to_generate_do_not_arrive() -> None:
    rows = problems(6, 1)
    given = Batch(rows.tokens_BL, rows.valid_BL, rows.valid_BL, rows.index_B)
    masks = ProgressiveMasks(Progressive(), 0, V, WIDTH)
    assert len(masks.with_arrivals(given).rows) == 0
    assert len(masks.with_arrivals(rows).rows) == 6


def test_batches_are_joined_and_cut() -> None:
    short, long = problems(4, 1).some(torch.tensor([True, False, True, False])), problems(5, 2)
    both = joined([short, long])
    assert len(both) == 7
    assert both.tokens_BL.shape[1] == max(short.tokens_BL.shape[1], long.tokens_BL.shape[1])
    for part, kept in ((short, slice(0, 2)), (long, slice(2, 7))):
        cut = both.some(torch.arange(7).ge(kept.start) & torch.arange(7).lt(kept.stop))
        for name in ("tokens_BL", "prompt_BL", "valid_BL", "index_B"):
            length = int(part.valid_BL.sum(-1).max())
            whole = getattr(part, name)
            assert getattr(cut, name).equal(whole if whole.ndim == 1 else whole[:, :length])
        assert cut.longest_response == part.longest_response


# The module.


def batch(update: int) -> Batch:
    """Four rows: two given tokens, then the same in reverse, and a copy of the first."""
    index_B = 4 * update + torch.arange(4)
    first_B, second_B = index_B % V, (index_B // V) % V
    tokens_BL = torch.stack([first_B, second_B, second_B, first_B, first_B], dim=1)
    prompt_BL = torch.tensor([True, True, False, False, False]).expand(4, 5)
    return Batch(tokens_BL, prompt_BL, torch.ones_like(prompt_BL), index_B)


class Counted(torch.utils.data.IterableDataset[Batch]):
    def __init__(self, start: int = 0) -> None:
        self.start = start

    def __iter__(self) -> Iterator[Batch]:
        return (batch(update) for update in range(self.start, 1000))


def fit(
    module: DenoiserModule, folder: Path, steps: int, *, start: int = 0, ckpt: Path | None = None, **options: Any
) -> L.Trainer:
    run = L.Trainer(
        accelerator="cpu", max_epochs=1, max_steps=steps, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder, **options,
    )  # fmt: skip
    data = torch.utils.data.DataLoader(Counted(start), batch_size=None)
    run.fit(module, data, ckpt_path=None if ckpt is None else str(ckpt))
    return run


def module_of(policy: UnmaskingPolicy | None = None, **options: Any) -> DenoiserModule:
    torch.manual_seed(0)
    progressive = Progressive(policy or IID(), [1, 2, 3], options.pop("order_ckpt", None))
    return DenoiserModule(V, NET, warmup_steps=2, progressive=progressive, **options)


def test_what_is_differentiated_is_the_mean_loss_of_all_masked_tokens(tmp_path: Path) -> None:
    module = module_of()
    seen: list[tuple[Tensor, Tensor]] = []
    module.denoiser.register_forward_hook(lambda net, inputs, out: seen.append((inputs[0].clone(), out.logits_BQV)))
    run = fit(module, tmp_path, 4)
    tokens_BL, logits_BQV = seen[-1]
    assert run.callback_metrics["train/rows"] == len(tokens_BL)
    assert len(tokens_BL) > 4, "rows of several updates"
    right, nats = [], []
    for row, tokens_L in enumerate(tokens_BL.tolist()):
        first, second = tokens_L[:2]
        for place, true in enumerate((second, first, first)):
            if tokens_L[2 + place] == V:
                nats.append(-float(logits_BQV[row, place].log_softmax(-1)[true].detach()))
                right.append(float(logits_BQV[row, place].argmax() == true))
            else:
                assert tokens_L[2 + place] == true, "what is unmasked is the truth"
    assert run.callback_metrics["train/surrogate"] == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert run.callback_metrics["train/masked_accuracy"] == pytest.approx(sum(right) / len(right), rel=1e-5)
    assert "train/bound_nats_per_token" not in run.callback_metrics, "these masks belong to no bound"


def test_a_resumed_training_has_the_rows_that_were_under_way(tmp_path: Path) -> None:
    class SaveAtThree(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    whole, resumed = module_of(), module_of()
    fit(whole, tmp_path, 7, callbacks=[SaveAtThree()])
    fit(resumed, tmp_path, 7, start=3, ckpt=tmp_path / "half.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    # A checkpoint is one of the denoiser, for whoever does not train on.
    DenoiserModule.load_from_checkpoint(tmp_path / "half.ckpt")
    plain = DenoiserModule(V, NET, warmup_steps=2)
    fit(plain, tmp_path, 4, start=3, ckpt=tmp_path / "half.ckpt")
    # And training on masks of one's own may begin from one without rows under way.
    torch.manual_seed(0)
    fit(DenoiserModule(V, NET, warmup_steps=2), tmp_path, 7, callbacks=[SaveAtThree()])
    late = module_of()
    fit(late, tmp_path, 4, start=3, ckpt=tmp_path / "half.ckpt")
    assert late.masks is not None
    assert late.masks.step == 1


def test_training_learns_the_toy(tmp_path: Path) -> None:
    module = module_of(TopMargin(), learning_rate=1e-2)
    run = fit(module, tmp_path, 200)
    assert run.callback_metrics["train/masked_accuracy"] > 0.6


@pytest.mark.parametrize("file", ["order.ckpt", "order.safetensors"])
def test_rows_can_follow_an_order_that_was_learned(tmp_path: Path, file: str) -> None:
    config = SelectorConfig(layers=1, width=16, heads=2, mlp_width=16, start="confidence", start_threshold=0.3)
    torch.manual_seed(1)
    order = OrderModule(V, NET, denoiser="joint", selector=config, finishing=True, budgets=[2, 3])
    if file.endswith(".safetensors"):
        order.save_order(tmp_path / file)
    else:
        run = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
        run.strategy.connect(order)
        run.save_checkpoint(tmp_path / file)
    denoiser, rows = Toy(), problems(6, 1)
    masks = ProgressiveMasks(Progressive(Learned(), [3], str(tmp_path / file)), 5, V, WIDTH)
    key_B = masks.with_arrivals(rows).key_B
    masks.step, masks.under_way = 0, None
    wanted = decoded(Learned().bound(order.selectors["shared"].eval()), denoiser, rows, key_B, 3)  # type: ignore[arg-type]
    assert visited(masks, denoiser, [rows]) == wanted
    module = module_of(Learned(), order_ckpt=str(tmp_path / file))
    before = {name: value.clone() for name, value in module.masks.selector.state_dict().items()}  # type: ignore[union-attr]
    fit(module, tmp_path, 3)
    assert all(value.equal(before[name]) for name, value in module.masks.selector.state_dict().items())  # type: ignore[union-attr]
    assert not any("selector" in name for name in module.state_dict()), "it is no part of the denoiser"


def test_an_order_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    module = DenoiserModule(V, NET)
    module.save_weights(tmp_path / "denoiser.safetensors")
    each = OrderModule(V, NET, denoiser="joint", selectors="per_budget", budgets=[2, 3])
    each.save_order(tmp_path / "each.safetensors")
    other = OrderModule(V, TransformerConfig(layers=1, width=32, heads=2, mlp_width=24), denoiser="joint")
    other.save_order(tmp_path / "other.safetensors")
    for file, message in {
        "none.ckpt": "no such file", "denoiser.safetensors": "holds no order", "each.safetensors": "for every budget",
        "other.safetensors": "has shape",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=rf"model\.progressive\.order_ckpt=\S+{file}: .*{message}"):
            module_of(Learned(), order_ckpt=str(tmp_path / file))


@pytest.mark.parametrize(
    "policy",
    [Learned(), KLASS(), P2(), Autoregressive(), PCSampler(), GivenOrder(), Blocks(Learned(), block_length=2)],
    ids=lambda policy: policy.label,
)  # fmt: skip
def test_policies_that_ask_for_more_are_refused(policy: UnmaskingPolicy) -> None:
    with pytest.raises(ValueError, match=rf"model\.progressive\.policy={type(policy).__name__}\b"):
        Progressive(policy)


def test_options_that_do_not_go_together_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for budgets in ([], [0], [4, -1]):
        with pytest.raises(ValueError, match=r"model\.progressive\.budgets="):
            Progressive(budgets=budgets)
    with pytest.raises(ValueError, match=r"TopMargin, order_ckpt=some\.ckpt: .* give both or none"):
        Progressive(TopMargin(), order_ckpt="some.ckpt")
    with pytest.raises(ValueError, match=r"weighting='bound' with progressive: .*choose 'uniform'"):
        module_of(weighting="bound")
    options = ["fit", *tiny(tmp_path), "--run_dir", str(tmp_path / "run"), "--model.progressive.budgets", "[0]"]
    refused(options, "model.progressive.budgets=[0]: give step budgets of at least 1", capsys)


# The command line.


def test_a_file_says_which_masks(tmp_path: Path) -> None:
    (tmp_path / "progressive.yaml").write_text(
        "model: {init_args: {progressive: {policy: {class_path: ConfidenceThreshold, init_args: {threshold: 0.2}}, "
        "budgets: [3, 6]}}}"
    )
    run = tmp_path / "run"
    program("fit", *tiny(tmp_path), "--config", tmp_path / "progressive.yaml", "--run_dir", run)
    assert "threshold: 0.2" in (run / "fit.yaml").read_text()
    kept = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["rows_under_way"]
    assert len(kept) == 1
    assert kept[0]["step"] == 4
    assert set(kept[0]["under_way"]["budget_B"].tolist()) <= {3, 6}


@pytest.mark.long
def test_two_processes_go_on_with_their_own_rows(tmp_path: Path) -> None:
    options = [
        *tiny(tmp_path), "--model.progressive.policy", "IID", "--model.progressive.budgets", "[2, 5]",
        "--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.limit_val_batches", "0",
        "--trainer.callbacks.every_n_train_steps", "1",
    ]  # fmt: skip

    def fitted(run: Path, steps: int) -> dict[str, Tensor]:
        command = [sys.executable, "-m", "lightning_mdm", "fit", *options, "--run_dir", str(run)]
        command += ["--ckpt_path", "last", "--trainer.max_steps", str(steps)]
        done = subprocess.run(
            command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
            timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return saved(run)[1]

    whole = fitted(tmp_path / "whole", 4)
    fitted(tmp_path / "parts", 2)
    kept = torch.load(tmp_path / "parts" / "checkpoints" / "last.ckpt", weights_only=True)["rows_under_way"]
    assert len(kept) == 2
    first, second = (set(each["rows"]["index_B"].tolist()) for each in kept)
    assert first
    assert second
    assert not first & second
    # The learning rate's schedule depends on max_steps, so that weights differ; the masks do not.
    parts = fitted(tmp_path / "parts", 4)
    assert parts.keys() == whole.keys()
    ends = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["rows_under_way"]
        for name in ("whole", "parts")
    ]
    for one, other in zip(*ends, strict=True):
        assert one["step"] == other["step"] == 4
        for group in ("rows", "under_way"):
            assert all(value.equal(other[group][name]) for name, value in one[group].items())
