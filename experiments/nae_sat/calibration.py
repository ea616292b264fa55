"""How far is a trained denoiser from the exact posterior, and is it as sure as it should be?

python experiments/nae_sat/calibration.py CHECKPOINT [--law latents=10 observations=30 ..] [--problems N] [--bins K]

Random masks of all sizes over test sequences, as in training. Prints the mean KL(exact || denoiser) in nats per masked
token, for latents and observations apart and for every quarter of the masked share, and a table of calibration: of the
tokens to which the denoiser gives a probability of 1 within a bin, its mean and the mean of the exact one. Last,
whether it has learned the rule: what observations cost with all latents given, from which they follow. The law is that
of ``fit.yaml`` in the checkpoint's run directory; ``--law`` changes it, or says it where there is no such file.

Shapes: B rows, R response positions, O observations, N masked tokens, V = 2 bits.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from lightning_mdm.data.nae_sat import NaeSatProblems
from lightning_mdm.laws.nae_sat import NaeSat
from lightning_mdm.laws.nae_sat_posterior import all_sequences, posterior_ones
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.nets.denoiser import ReadableDenoiser
from lightning_mdm.noise import RowNoise, Stream
from lightning_mdm.objectives.denoising import fixed_t, mask_tokens


@dataclass(frozen=True)
class Compared:
    """Masked tokens, each with the exact probability of a 1 and the denoiser's, float64 ``[N]``.

    Args:
        exact_N: by enumeration.
        denoiser_N: of the denoiser, among the two bits.
        latent_N: bool, the token is a latent.
        share_N: which share of its sequence is masked.
    """

    exact_N: Tensor
    denoiser_N: Tensor
    latent_N: Tensor
    share_N: Tensor

    @property
    def kl_N(self) -> Tensor:
        """KL(exact || denoiser) of each token, nats."""
        tiny = torch.finfo(torch.float64).tiny
        kl_N = torch.zeros_like(self.exact_N)
        for p_N, q_N in ((self.exact_N, self.denoiser_N), (1.0 - self.exact_N, 1.0 - self.denoiser_N)):
            kl_N += torch.xlogy(p_N, p_N) - torch.xlogy(p_N, q_N.clamp(min=tiny))
        return kl_N


@torch.no_grad()
def compare(denoiser: ReadableDenoiser, law: NaeSat, problems: int) -> Compared:
    """The denoiser beside the exact posterior, on one random mask for each of the first test sequences."""
    data = NaeSatProblems(law, n_test=problems, eval_batch_size=100)
    sequence_SR = all_sequences(law)
    latent_R = torch.zeros(law.length, dtype=torch.bool)
    latent_R[list(law.places[: law.latents])] = True
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for batch in data.test_dataloader():
        uniform_BL = RowNoise(0, batch.index_B).uniform_BL(Stream.MASK, 0, batch.tokens_BL.shape[1])
        t_B = fixed_t(batch.index_B, 1e-3)
        tokens_BL = mask_tokens(batch.tokens_BL, batch.response_BL, t_B, uniform_BL, denoiser.vocab_size)
        logits_BRV = denoiser(tokens_BL, batch.valid_BL).logits_BQV[:, law.padding :, :2]
        response_BR = tokens_BL[:, law.padding :]
        masked_BR = response_BR == denoiser.vocab_size
        share_BR = masked_BR.double().mean(-1, keepdim=True).expand_as(masked_BR)
        exact_BR = posterior_ones(response_BR, sequence_SR)
        own_BR = logits_BRV.double().softmax(-1)[..., 1]
        parts.append(tuple(x[masked_BR] for x in (exact_BR, own_BR, latent_R.expand_as(masked_BR), share_BR)))
    return Compared(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def rule_learned(denoiser: ReadableDenoiser, law: NaeSat, problems: int) -> str:
    """How well the denoiser tells each observation of the first test sequences from all their latents."""
    place_O = torch.tensor(law.places[law.latents :]) + law.padding
    nats, right, ones = [], [], []
    for batch in NaeSatProblems(law, n_test=problems, eval_batch_size=100).test_dataloader():
        true_BO = batch.tokens_BL[:, place_O]
        tokens_BL = batch.tokens_BL.index_fill(1, place_O, denoiser.vocab_size)
        log_p_BOV = denoiser(tokens_BL, batch.valid_BL).logits_BQV[:, place_O, :2].double().log_softmax(-1)
        nats.append(-log_p_BOV.gather(-1, true_BO[:, :, None]))
        right.append(log_p_BOV.argmax(-1) == true_BO)
        ones.append(true_BO)
    share = float(torch.cat(ones).double().mean())
    return (
        f"observations with all latents given: {float(torch.cat(nats).mean()):.4f} nats, "
        f"{100 * float(torch.cat(right).double().mean()):.1f} % right; always the commoner bit: "
        f"{100 * max(share, 1.0 - share):.1f} %"
    )


def report(found: Compared, bins: int) -> list[str]:
    """What ``compare`` found, as lines of text."""
    kl_N = found.kl_N
    lines = [f"{len(kl_N)} masked tokens; KL(exact || denoiser), nats per token: {float(kl_N.mean()):.4f}"]
    for name, chosen_N in (("latents", found.latent_N), ("observations", ~found.latent_N)):
        parts = []
        for quarter in range(4):
            low, high = quarter / 4, (quarter + 1) / 4
            inside_N = chosen_N & (found.share_N > low) & (found.share_N <= high)
            parts.append(f"{100 * high:.0f} %: " + (f"{float(kl_N[inside_N].mean()):.4f}" if inside_N.any() else "-"))
        mean = f"{float(kl_N[chosen_N].mean()):.4f}" if chosen_N.any() else "-"
        lines.append(f"  {name} {mean}; masked up to " + ", ".join(parts))
    lines.append("probability of a 1: denoiser's mean, exact mean, tokens")
    gap = 0.0
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        inside_N = (found.denoiser_N >= low) & ((found.denoiser_N < high) | (k == bins - 1))
        if inside_N.any():
            own, exact = float(found.denoiser_N[inside_N].mean()), float(found.exact_N[inside_N].mean())
            gap += abs(own - exact) * int(inside_N.sum()) / len(kl_N)
            lines.append(f"  {low:.2f} to {high:.2f}: {own:.3f} {exact:.3f} {int(inside_N.sum())}")
    return [*lines, f"mean gap, weighted by tokens: {gap:.4f}"]


def trained_on(checkpoint: Path) -> NaeSat | None:
    """The law of the training that a checkpoint belongs to, by its ``fit.yaml``; ``None`` where there is no such file.

    Raises:
        ValueError: no checkpoint, or one of another task.
    """
    if not checkpoint.is_file():
        raise ValueError(f"{checkpoint}: no such file; give a checkpoint, runs/NAME/checkpoints/last.ckpt")
    path = checkpoint.parent.parent / "fit.yaml"
    if not path.is_file():
        return None
    data: Any = OmegaConf.to_container(OmegaConf.load(path).data)
    if data["class_path"].split(".")[-1] != NaeSatProblems.__name__:
        raise ValueError(f"{path} is of {data['class_path']}: give a checkpoint of configs/nae_sat/denoiser.yaml")
    return NaeSat(**data.get("init_args", {}).get("law", {}))


def law_of(settings: Sequence[str], trained: NaeSat | None = None) -> NaeSat:
    """The law of ``option=value`` settings; what they do not say is as in training, where that is known.

    Raises:
        ValueError: no law at all, no such option or value, or a law whose sequences are not as long as in training.
    """
    if not settings and trained is None:
        raise ValueError("no fit.yaml in the checkpoint's run directory: say its law, as in --law latents=8 "
                         "observations=24")  # fmt: skip
    names = [option.name for option in fields(NaeSat)]
    given: dict[str, Any] = {} if trained is None else asdict(trained)
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in names or not (name == "placing" or value.isdecimal()):
            raise ValueError(f"--law {setting}: give option=value, the options being {', '.join(names)}")
        given[name] = value if name == "placing" else int(value)
    law = NaeSat(**given)
    if trained is not None and canvas(law) != canvas(trained):
        raise ValueError(f"--law: {canvas(law)} tokens, where the training had {canvas(trained)}; leave --law out")
    return law


def canvas(law: NaeSat) -> int:
    """The number of tokens of a sequence, padding included."""
    return law.padding + law.length


def checked(module: DenoiserModule, law: NaeSat) -> ReadableDenoiser:
    """The denoiser of a module that may have been trained on a law.

    Raises:
        ValueError: it cannot have been.
    """
    positions = module.hparams["net"].get("positions", 0)
    longer = positions and canvas(law) > positions
    if longer or module.denoiser.vocab_size != law.n_tokens:
        raise ValueError(
            f"--law: {canvas(law)} tokens of {law.n_tokens} kinds, where the denoiser has "
            f"{positions or 'any number of'} positions and {module.denoiser.vocab_size} kinds; give the law that it "
            "was trained on"
        )
    return module.denoiser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of configs/nae_sat/denoiser.yaml with small.yaml over it")
    parser.add_argument("--law", nargs="*", default=[], metavar="OPTION=VALUE", help="as in data.law, over fit.yaml")
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--bins", type=int, default=10)
    options = parser.parse_args(arguments)
    try:
        law = law_of(options.law, trained_on(options.checkpoint))
        module = DenoiserModule.load_from_checkpoint(options.checkpoint, map_location="cpu").eval()
        denoiser = checked(module, law)
    except ValueError as error:
        parser.error(str(error))
    print("\n".join(report(compare(denoiser, law, options.problems), options.bins)))
    print(rule_learned(denoiser, law, options.problems))


if __name__ == "__main__":
    main()
