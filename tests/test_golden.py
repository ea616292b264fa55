"""What seeds, streams and formulas give, written down: a change that leaves every law as it is may still alter these.

Outcomes of earlier sweeps are taken for this code's own as long as policies, weights and options are called the same.
Whoever changes what these tests hold has changed what those outcomes mean.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from decoding.reference import FACTS
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.policies import (
    KLASS,
    POLICIES,
    Blocks,
    ConfidenceFactor,
    ConfidenceThreshold,
    EntropyBounded,
    Learned,
    Prophet,
    TopMargin,
)
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.tokens import Temperature
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.output import DenoiserOutput
from lightning_mdm.vocabulary import TokenSpace
from modules.orders import LAWS, MAX_NORMALISED, build
from modules.test_denoiser_module import NET, V, batch
from toys import ToySelector, pick, rows

LENGTH, TOKENS, STEPS = 8, 5, 4
GOLDEN: dict[str, tuple[str, str]] = {
    "iid": ("24314142 02021110", "22213320 10341240"),
    "top_probability": ("23412314 03041120", "22212332 14321200"),
    "top_margin": ("23412431 03011420", "22312113 14321400"),
    "entropy": ("32412314 03041120", "44412234 14321200"),
    "noisy-margin-gumbel-0.5-False-linear": ("43341122 01021430", "44044331 13341230"),
    "pc_sampler-0.25-10.0": ("12312344 01031240", "34112222 13341000"),
    "left_to_right": ("11223344 01012340", "30134322 13322420"),
    "dilated-2": ("13231323 01021210", "32034234 13341040"),
    "confidence_threshold-0.9": ("44214344 04021340", "41213213 10341210"),
    "confidence_factor-1.0": ("34214344 04021340", "42213224 10341210"),
    "entropy_bounded-0.1": ("44214344 04021340", "41213213 10341210"),
    "klass-0.6-0.015-2": ("23412314 03041120", "22212332 14321200"),
    "prophet-7.5-5.0-2.5": ("23412314 03041120", "22212332 14321200"),
    "blocks-top_margin-8": ("23412431 03011420", "22312113 14321400"),
    "p2-1.0": ("22334433 04023320", "24143214 10342400"),
    "remdm-0.1-cap-random": ("33432422 01024130", "32242030 13343230"),
    "given_order": ("31324214 02013140", "40234132 11322200"),
    "oracle": ("14113332 01013210", "32214301 13321040"),
    "learned-greedy-1.0-0.0": ("44214344 04021340", "41213213 10341210"),
    "autoregressive": ("12344444 01023440", "33024113 13342300"),
    "learned-sampled-1.0-0.0": ("34412344 04023140", "41314413 10342200"),
    "blocks-top_margin-3": ("11122243 02011340", "30234122 12321420"),
    "prophet-1.2-0.9-0.6": ("23412314 02021120", "22212332 12341200"),
    "klass-0.0-4.0-1": ("22212212 02021120", "24012130 12341200"),
    "confidence_threshold-0.4": ("31211211 02021120", "40014133 12341200"),
    "entropy_bounded-1.0": ("44214344 04021340", "41213213 10341210"),
    "confidence_factor-1.6": ("34214442 04021340", "42213222 10341210"),
}
"""By policy: steps and tokens of both rows, a digit each."""
OBJECTIVES = {
    "denoiser": 1.3413045061263578,
    "one_step": 5.018594104840022,
    "state_aware": 4.735587416067109,
    "finishing": 4.976220204952341,
    "relative": 5.10843978102088,
    "relative_finishing": 5.038476147776613,
    "levelled": 4.663299354784577,
    "levelled_finishing": 4.931400722588422,
    "selector": 5.007086645320685,
}


def formula(tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
    """A denoiser without random numbers: logits are waves of place, token and what is filled."""
    place_L1 = torch.arange(LENGTH, dtype=torch.float64)[:, None]
    token_V = torch.arange(TOKENS, dtype=torch.float64)
    filled_B = ((tokens_BL < TOKENS) * (tokens_BL + 1)).sum(-1).double()
    logits_BLV = 1.5 * torch.sin(1.3 * place_L1 + 2.1 * token_V + 0.7 * filled_B[:, None, None])
    return pick(logits_BLV, query_BQ, tokens_BL)


def trace_of(policy: UnmaskingPolicy) -> tuple[str, str]:
    """Steps and tokens of two rows, a digit each."""
    canvas = rows([[None] * 8, [1, None, 3, None, None, None, None]], pad=0, index=[3, 11])
    space = TokenSpace(TOKENS, eos_id=None, pad_id=0)
    bound = policy.bound(ToySelector()).informed(FACTS)
    trace = decode(formula, bound, canvas, space, steps=STEPS, token_sampler=Temperature(1.0), seed=5)
    steps, tokens = (
        " ".join("".join(map(str, row)) for row in values.tolist()) for values in (trace.order.step_BL, trace.tokens_BL)
    )
    return steps, tokens


# As they are, and with options that come into play on these rows.
TRIED: list[UnmaskingPolicy] = [
    *(kind() for kind in POLICIES), Learned("sampled"), Blocks(TopMargin(), 3), Prophet(1.2, 0.9, 0.6),
    KLASS(0.0, 4.0, 1), ConfidenceThreshold(0.4), EntropyBounded(1.0), ConfidenceFactor(1.6),
]  # fmt: skip


@pytest.mark.parametrize("policy", TRIED, ids=lambda policy: policy.label)
def test_a_policy_decodes_what_it_has_always_decoded(policy: UnmaskingPolicy) -> None:
    assert trace_of(policy) == GOLDEN[policy.label]


def waves(module: nn.Module) -> nn.Module:
    """The module with weights that are a formula, in float64."""
    module = module.double()
    with torch.no_grad():
        for number, (_, weight) in enumerate(sorted(module.named_parameters())):
            place = torch.arange(weight.numel(), dtype=torch.float64).view_as(weight)
            weight.copy_(0.5 * torch.sin(0.7 * place + number))
    return module


def objective(name: str) -> float:
    """The loss of an update on four rows."""
    if name == "denoiser":
        module: nn.Module = DenoiserModule(V, NET, weighting="bound", noise_seed=1)
    elif name == "one_step":
        module = build(None, posterior=MAX_NORMALISED, estimator="one_step", denoiser="joint", noise_seed=1)
    else:
        module = build(None, **{"denoiser": "joint", "noise_seed": 1, "samples": 3, **LAWS[name]})
    waves(module)
    return float(module.training_step(batch([3, 14, 15, 92]), 0).detach())  # type: ignore[operator]


@pytest.mark.parametrize("name", ["denoiser", "one_step", *LAWS])
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")  # there is no Trainer
def test_an_update_has_the_loss_that_it_has_always_had(name: str) -> None:
    assert objective(name) == pytest.approx(OBJECTIVES[name], rel=1e-6)
