"""The autoregressive baseline: what it learns and reports, which policies it runs, its configuration end to end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch

from lightning_mdm.callbacks.frontier import Frontier
from lightning_mdm.callbacks.order_nats import OrderNats
from lightning_mdm.callbacks.predictions import Predictions
from lightning_mdm.callbacks.runs import runs_of
from lightning_mdm.cli import main
from lightning_mdm.data import facts
from lightning_mdm.data.batch import Batch
from lightning_mdm.data.facts import SplitFacts
from lightning_mdm.data.hop_chain import HopChainProblems
from lightning_mdm.data.markov_chain import MarkovChainProblems
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.sources import ListSource
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import POLICIES, Autoregressive, GivenOrder, Oracle, PCSampler, TopMargin
from lightning_mdm.laws.hop_chain import HopChain
from lightning_mdm.modules.autoregressive import AutoregressiveModule
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.nets.laws import law_denoiser
from lightning_mdm.nets.transformer import Block, TransformerConfig
from lightning_mdm.outcomes import read_order_rows, read_rows
from runs import N_TEST, REPOSITORY, TINY, TINY_WORD_PROBLEMS, Answering, few_problems, program, tiny, trainer

V = 11
NET = TransformerConfig(layers=1, width=16, heads=2, mlp_width=24)
LAW = HopChain(chain=4, free=1, given=1)


def batch(index: list[int]) -> Batch:
    """Two given tokens that depend on the index, then the second, the first and the first again."""
    index_B = torch.tensor(index)
    first_B, second_B = index_B % V, (index_B // V) % V
    tokens_BL = torch.stack([first_B, second_B, second_B, first_B, first_B], dim=1)
    prompt_BL = torch.tensor([True, True, False, False, False]).expand(len(index), 5)
    return Batch(tokens_BL, prompt_BL, torch.ones_like(prompt_BL), index_B)


def loader(batches: Sequence[Batch]) -> torch.utils.data.DataLoader[Batch]:
    return torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def module(vocab_size: int = V) -> AutoregressiveModule:
    torch.manual_seed(0)
    return AutoregressiveModule(vocab_size, NET, learning_rate=1e-2, warmup_steps=10)


def test_compiling_is_for_fitting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, object]] = []
    monkeypatch.setattr(Block, "compile", lambda self, **options: calls.append(options))
    compiled = AutoregressiveModule(V, NET, compile=True)
    compiled.setup("test")
    assert not calls
    compiled.setup("fit")
    assert calls == NET.layers * [{"dynamic": True}]


def test_training_learns_the_toy(tmp_path: Path) -> None:
    run = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, enable_checkpointing=False,
    )  # fmt: skip
    run.fit(module(), loader([batch([4 * k + i for i in range(4)]) for k in range(200)]))
    # The last token is a copy of the one before it: at chance 1 in 11 tokens would be right.
    assert run.callback_metrics["train/accuracy_per_token"] > 0.5
    assert run.callback_metrics["train/nats_per_token"] < 1.5


def test_the_reported_likelihood_is_exact_for_any_batch_size(tmp_path: Path) -> None:
    net = module()
    every = batch(list(range(40)))
    with torch.no_grad():
        log_p_BLV = net.denoiser(every.tokens_BL, every.valid_BL).logits_BQV.log_softmax(-1)
    nats = -log_p_BLV.gather(-1, every.tokens_BL[:, :, None])[:, 2:].mean()
    right = (log_p_BLV.argmax(-1) == every.tokens_BL)[:, 2:].double().mean()
    assert 0.0 < float(right) < 1.0, "nothing to tell apart"
    for sizes in ([40], [9, 13, 18], [1] * 40):
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        parts = [batch(list(range(start, start + size))) for start, size in zip(starts, sizes, strict=True)]
        found = trainer(tmp_path).validate(net, loader(parts), verbose=False)[0]
        assert found["val/nats_per_token"] == pytest.approx(float(nats), rel=1e-5)
        assert found["val/accuracy_per_token"] == pytest.approx(float(right), rel=1e-5)


def test_given_tokens_that_it_could_not_see_are_refused(tmp_path: Path) -> None:
    prompt_BL = torch.tensor([True, False, False, True, False]).expand(2, 5)
    rows = replace(batch([1, 2]), prompt_BL=prompt_BL, longest_response=-1, left_to_right=None)
    with pytest.raises(ValueError, match="given tokens stand behind tokens to generate"):
        trainer(tmp_path).validate(module(), loader([rows]), verbose=False)


def test_of_a_batch_on_a_device_nothing_is_asked() -> None:
    """Each question would make a GPU wait: on a device without values there is no answer."""
    net = module().to("meta")
    out = net.objective(batch([1, 2]).to("meta"))
    assert out.surrogate.device.type == "meta"


def test_weights_travel_through_a_file_and_not_into_another_kind_of_net(tmp_path: Path) -> None:
    net = module()
    net.save_weights(tmp_path / "w.safetensors")
    again = AutoregressiveModule(V, NET, init_from=str(tmp_path / "w.safetensors"))
    assert all(value.equal(net.denoiser.state_dict()[name]) for name, value in again.denoiser.state_dict().items())
    with pytest.raises(ValueError, match=r"init_from=.*its embedding.weight has shape"):
        DenoiserModule(V, NET, init_from=str(tmp_path / "w.safetensors"))


# Which policies run.


class Ordered(HopChainProblems):
    """A task that knows an order: the last token first."""

    def order(self, problem: Problem) -> Sequence[int]:
        return range(self.law.length)[::-1]


def law_data(kind: type[HopChainProblems] = HopChainProblems) -> HopChainProblems:
    return kind(LAW, n_validation=3, n_test=4, eval_batch_size=3)


def names(net: L.LightningModule, data: HopChainProblems, policies: object = None, budgets: object = (8,)) -> list[str]:
    frontier = Frontier(policies, budgets)  # type: ignore[arg-type]
    return [run.name for run in runs_of(frontier.runs, frontier.all_policies, net, SplitFacts(data, "test"))]


def test_a_causal_net_runs_one_policy_and_the_others_run_all_but_that() -> None:
    causal, masked = module(LAW.n_tokens), Answering(law_denoiser(LAW))
    everything = {kind().label for kind in POLICIES}
    assert names(causal, law_data()) == ["T=8/autoregressive"]
    assert set(names(masked, law_data())) == {
        f"T=8/{name}" for name in everything - {"autoregressive", "given_order", "oracle", "learned-greedy-1.0-0.0"}
    }
    assert names(masked, law_data(), [Oracle()]) == ["T=8/oracle"], "where asked for"
    assert "T=8/given_order" in names(masked, law_data(Ordered))
    assert names(masked, law_data(), [Autoregressive()]) == ["T=8/autoregressive"], "where asked for"
    with pytest.raises(ValueError, match="policy TopMargin: a causal net knows nothing to the right"):
        names(causal, law_data(), [Autoregressive(), TopMargin()])


def test_a_step_per_token_is_run_once_with_the_smallest_budget_that_is_enough() -> None:
    causal, n = module(LAW.n_tokens), LAW.length
    assert names(causal, law_data(), None, [1, n - 1, n, n + 1, 99]) == [f"T={n}/autoregressive"]
    mixed = names(Answering(law_denoiser(LAW)), law_data(), [TopMargin(), Autoregressive()], [2, 99])
    assert mixed == ["T=2/top_margin", "T=99/top_margin", "T=99/autoregressive"]
    with pytest.raises(ValueError, match=rf"longest response of the test problems has {n}: give a budget"):
        names(causal, law_data(), None, [1, n - 1])
    frontier = Frontier(None, [1, n, n + 1, 99], decoding=DecodingOptions(search=True))
    searched = runs_of(frontier.runs, True, causal, SplitFacts(law_data(), "test"), frontier.decoding.search)
    assert [run.steps for run in searched] == [n, n + 1, 99], "where what is left of a budget is used"


def test_what_an_order_costs_is_the_exact_likelihood(tmp_path: Path) -> None:
    net, data = module(LAW.n_tokens), law_data()
    trainer(tmp_path, OrderNats(budgets=[2, 16])).sweep(net, data, split="test")
    (row,) = read_order_rows(tmp_path / "order_nats.csv")
    (found,) = trainer(tmp_path).test(net, data, verbose=False)
    assert row.nats_per_token == pytest.approx(found["test/nats_per_token"], rel=1e-5)
    assert (row.policy, row.T, row.nfe_mean) == ("autoregressive", 16, LAW.length)


def test_an_order_that_the_task_knows_is_followed(tmp_path: Path) -> None:
    seen: list[list[int]] = []

    class Showing(Frontier):
        def finish(self, trainer: L.Trainer, module: L.LightningModule, prefix: str) -> None:
            seen.extend(example.steps for example in self.examples)
            super().finish(trainer, module, prefix)

    callback = Showing([GivenOrder()], [LAW.length], examples=2)
    trainer(tmp_path, callback).sweep(Answering(law_denoiser(LAW)), law_data(Ordered))
    assert seen == [list(range(LAW.length, 0, -1))] * 2


def test_token_frequencies_are_counted_on_training_problems_and_part_of_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = few_problems()
    more = ListSource(data.training().sample(facts.COUNTED + 20), seed=0)
    monkeypatch.setattr(data, "training", lambda: more)
    frequency_V = SplitFacts(data, "test").token_frequency()
    assert float(frequency_V.sum()) == pytest.approx(1.0)
    assert bool((frequency_V > 0).all())
    count, total = 0, 0
    for problem in list(data.training().sample(facts.COUNTED))[: facts.COUNTED]:
        example = data.encode(problem)
        assert example is not None
        tokens = [token for token, given in zip(example.tokens, example.given, strict=True) if not given]
        count, total = count + tokens.count(data.special_ids[0]), total + len(tokens)
    assert float(frequency_V[data.special_ids[0]]) == pytest.approx((count + 1) / (total + data.vocab_size))
    torch.manual_seed(0)
    for seed in (0, 1):
        own = few_problems(seed=seed, tokenizer_path=None)
        net = DenoiserModule(own.vocab_size, NET)
        trainer(tmp_path / str(seed), Frontier([PCSampler(), TopMargin()], [2])).sweep(net, own)
    options = [[json.loads(r.options) for r in read_rows(tmp_path / seed / "frontier.csv")] for seed in ("0", "1")]
    hashes = [row["token_frequency"] for rows in options for row in rows if "token_frequency" in row]
    assert len(hashes) == 2
    assert hashes[0] != hashes[1], "another training set"


def test_predictions_say_what_a_causal_net_cannot_do(tmp_path: Path) -> None:
    net, data = module(LAW.n_tokens), law_data()
    with pytest.raises(ValueError, match="policy TopMargin: a causal net"):
        trainer(tmp_path, Predictions(TopMargin())).predict(net, data)
    with pytest.raises(ValueError, match="policy Autoregressive takes one step per token"):
        trainer(tmp_path, Predictions(Autoregressive(), steps=2)).predict(net, data)
    trainer(tmp_path, Predictions(steps=16)).predict(net, data)  # what it can do, where nothing is asked for
    lines = (tmp_path / "predictions.rank0.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["steps"] for line in lines] == [list(range(1, LAW.length + 1))] * 4


def test_the_other_law_begins_with_what_is_given(tmp_path: Path) -> None:
    data = MarkovChainProblems(n_validation=2, n_test=2)
    trainer(tmp_path).test(module(data.vocab_size), data, verbose=False)


# The configuration.


def test_the_configuration_trains_sweeps_and_joins_the_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = REPOSITORY / "configs" / "word_problems" / "autoregressive.yaml"
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "task.yaml").write_text(TINY_WORD_PROBLEMS.split("frontier")[0])
    files = [part for file in (config, tmp_path / "tiny.yaml", tmp_path / "task.yaml") for part in ("--config", file)]
    run, masked, beside = tmp_path / "run", tmp_path / "masked", tmp_path / "beside"
    beside.mkdir()
    fit = program("fit", *files, "--run_dir", run, "--trainer.max_steps", "2", "--frontier.fit_problems", "1")
    assert "Traceback" not in fit
    last = run / "checkpoints" / "last.ckpt"
    printed = program("sweep", *files, "--run_dir", run, "--ckpt_path", last)
    assert printed.splitlines()[-1] == str(run)
    (row,) = read_rows(run / "frontier.csv")
    assert (row.policy, row.T, row.n) == ("autoregressive", 64, N_TEST)
    assert row.nfe_max <= 48, "no more than the canvas has tokens"
    assert json.loads(row.options)["end_of_sequence"] == "close"
    program("predict", *files, "--run_dir", run, "--ckpt_path", last)

    program("fit", *tiny(beside), "--run_dir", masked, "--trainer.max_steps", "2")
    other = masked / "checkpoints" / "last.ckpt"
    program("sweep", *tiny(beside), "--run_dir", masked, "--ckpt_path", other)
    program("report", masked, run, "--out", tmp_path / "joined", "--one_panel", "true")
    text = (tmp_path / "joined" / "report.md").read_text(encoding="utf-8")
    assert text.count("\n## ") == text.count("\n## word_problems, test: n = ") == 1
    assert "| autoregressive [end_of_sequence=close] |" in text, "no other denoiser has that policy"
    for options, kind in (
        ([*files, "--ckpt_path", other], "a masked denoiser"),
        ([*tiny(beside), "--ckpt_path", last], "an autoregressive net"),
    ):
        with pytest.raises(SystemExit):
            main([str(part) for part in ["sweep", *options, "--run_dir", tmp_path / "no"]])
        assert f"holds {kind}: give the configuration" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(p) for p in ["sweep", *files, "--run_dir", run, "--ckpt_path", last, "--frontier.budgets", "[8]"]])
    assert "give a budget of at least that" in capsys.readouterr().err
