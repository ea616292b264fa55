"""What decoding costs beside the denoiser calls it makes, and how the field's plain loop compares.

Shapes: B rows, L positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from measuring import Bench, median, ratio
from sizes import Size
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lightning_mdm.decoding.graphs import MOST_ROWS, Graphed
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.policies import (
    POLICIES,
    Autoregressive,
    Blocks,
    ConfidenceThreshold,
    TopMargin,
    TopProbability,
)
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import Rows
from lightning_mdm.decoding.trace import Trace
from lightning_mdm.nets.causal import CausalDenoiser
from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.selector import Selector, SelectorConfig
from lightning_mdm.orders.budget import StepBudget
from lightning_mdm.output import DenoiserOutput

TARGETS = {1: "<=1.15", 256: "<=1.05"}


@dataclass
class Facts:
    """Something to tell the policies that ask for it."""

    size: Size

    def token_frequency(self) -> Tensor:
        return torch.full((self.size.vocabulary,), 1 / self.size.vocabulary, dtype=torch.float64)

    def order(self, problem: int) -> list[int]:
        return list(range(self.size.canvas))

    def response(self, problem: int) -> None:
        return None


@dataclass
class Recording:
    """A denoiser that keeps what it was asked."""

    denoiser: Callable[..., DenoiserOutput]
    made: list[tuple[Tensor, ...]] = field(default_factory=list)

    def __call__(self, *inputs: Tensor) -> DenoiserOutput:
        self.made.append(inputs)
        return self.denoiser(*inputs)


@dataclass
class Decoder:
    """A size's denoiser, decoding on a device."""

    bench: Bench
    size: Size
    denoiser: Callable[..., DenoiserOutput]

    def decode(self, policy: UnmaskingPolicy, rows: Rows, steps: int, denoiser: Callable[..., DenoiserOutput]) -> Trace:
        gpu = self.bench.device.type == "cuda"
        return decode(denoiser, policy, rows, self.size.space, steps=steps, compile_statistics=gpu)

    def over_calls(self, policy: UnmaskingPolicy, rows: Rows, steps: int) -> tuple[list[list[float]], Trace]:
        """Seconds of decoding and of nothing but the denoiser calls that it makes, and its trace."""
        recording = Recording(self.denoiser)
        trace = self.decode(policy, rows, steps, recording)

        @torch.no_grad()
        def bare() -> None:
            for inputs in recording.made:
                self.denoiser(*inputs)

        return self.bench.paired(lambda: self.decode(policy, rows, steps, self.denoiser), bare), trace


def overhead(bench: Bench, size: Size, name: str) -> None:
    """Decoding over its denoiser calls, at several batches; at the middle one for every policy with a budget."""
    decoder = Decoder(bench, size, size.denoiser(bench.device))
    for batch in size.batches:
        row = f"{name}/decoding/top_probability/over_calls@batch={batch}"
        if bench.has(row):
            continue
        rounds, _ = decoder.over_calls(TopProbability(), size.rows(batch, bench.device), size.steps)
        where = {"batch": batch, "canvas": size.canvas, "steps": size.steps}
        bench.row(f"{name}/decoding/top_probability/seconds@batch={batch}", median(rounds, 0), "s", **where)
        bench.row(row, ratio(rounds, 0, 1), "ratio", target=TARGETS.get(batch, ""), **where)
    batch = size.batches[len(size.batches) // 2]
    for policy in budgeted(bench, size):
        row = f"{name}/decoding/{policy.name}/over_calls"
        if bench.has(row):
            continue
        rounds, _ = decoder.over_calls(policy, size.rows(batch, bench.device), size.steps)
        bench.row(row, ratio(rounds, 0, 1), "ratio", batch=batch, canvas=size.canvas, steps=size.steps)


def budgeted(bench: Bench, size: Size) -> list[UnmaskingPolicy]:
    """Every policy that is run with a budget and competes, told what it asks for."""
    torch.manual_seed(0)
    # Untrained, it keeps to the IID schedule: what is timed is what it costs to ask.
    selector = Selector(size.net.width, SelectorConfig(**vars(size.order_net))).to(bench.device).eval()
    if size.half:
        selector = selector.bfloat16()
    policies = [(Blocks(TopMargin()) if kind is Blocks else kind()) for kind in POLICIES]
    return [
        policy.bound(selector).informed(Facts(size))
        for policy in policies
        if not policy.sequential and "response" not in policy.reads
    ]


def by_graphs(bench: Bench, size: Size, name: str) -> None:
    """Decoding with the denoiser replayed from CUDA graphs: over its replays, and plain decoding over it."""
    if bench.device.type != "cuda":
        return
    plain = size.denoiser(bench.device)
    decoder = Decoder(bench, size, Graphed(plain))
    for batch in (batch for batch in size.batches if batch <= MOST_ROWS):
        row = f"{name}/decoding/graphs/plain_over_graphs@batch={batch}"
        if bench.has(row):
            continue
        rows, where = size.rows(batch, bench.device), {"batch": batch, "canvas": size.canvas, "steps": size.steps}
        rounds, _ = decoder.over_calls(TopProbability(), rows, size.steps)
        bench.row(f"{name}/decoding/graphs/over_calls@batch={batch}", ratio(rounds, 0, 1), "ratio", **where)
        rounds = bench.paired(
            lambda rows=rows: decoder.decode(TopProbability(), rows, size.steps, plain),
            lambda rows=rows: decoder.decode(TopProbability(), rows, size.steps, decoder.denoiser),
        )
        bench.row(row, ratio(rounds, 0, 1), "ratio", **where)


def one_token_a_step(bench: Bench, size: Size, name: str) -> None:
    """A causal net, one token per pass, against a bidirectional one in a few: what a cache would have to win back."""
    row = f"{name}/decoding/causal_net_over_top_probability"
    if bench.has(row):
        return
    decoder = Decoder(bench, size, size.denoiser(bench.device))
    torch.manual_seed(0)
    causal = CausalDenoiser(size.vocabulary, size.net).eval().requires_grad_(False).to(bench.device)
    causal = causal.bfloat16() if size.half else causal
    batch = size.batches[len(size.batches) // 2]
    rows = size.rows(batch, bench.device)
    steps = size.canvas - size.prompt
    rounds = bench.paired(
        lambda: decoder.decode(Autoregressive(), rows, steps, causal),
        lambda: decoder.decode(TopProbability(), rows, size.steps, decoder.denoiser),
    )
    bench.row(row, ratio(rounds, 0, 1), "ratio", batch=batch, canvas=size.canvas, steps=steps)


def adaptive(bench: Bench, size: Size, name: str) -> None:
    """Whether a row that needs fewer evaluations saves time in proportion: seconds per evaluation, adaptive over not.

    The threshold is set so that random rows differ in when they are finished. Few are left in the end: on a GPU both go
    by graphs then, or starting kernels would be what is measured.

    An adaptive policy's evaluations are early ones, at which more is masked, so that more logits are computed: of a
    full budget's, an evaluation takes fewer operations. So both are counted too, and seconds are also compared with the
    budget that is nearest to what the adaptive policy takes on average.
    """
    row = f"{name}/decoding/adaptive/seconds_per_evaluation_over"
    if bench.has(f"{row}_fixed", f"{row}_as_many_steps"):
        return
    plain = size.denoiser(bench.device)
    decoder = Decoder(bench, size, Graphed(plain) if bench.device.type == "cuda" else plain)
    batch = size.batches[-1]
    rows, budget = size.rows(batch, bench.device), 2 * size.steps
    found: list[Tensor] = []
    decode(
        decoder.denoiser, TopProbability(), rows, size.space, steps=1,
        observers=[lambda state, prediction, chosen: found.append(prediction.top_probability_BL[state.masked_BL])],
    )  # fmt: skip
    threshold = float(found[0].quantile(0.7)) if found[0].numel() < 1 << 24 else float(found[0].median())

    own, fixed = ConfidenceThreshold(threshold), TopProbability()
    operations = [counted(lambda p=policy: decode(plain, p, rows, size.space, steps=budget)) for policy in (own, fixed)]
    mean = float(decoder.decode(own, rows, budget, decoder.denoiser).nfe_B.double().mean())
    runs = [(own, budget), (fixed, budget), (fixed, max(1, round(mean)))]
    nfe = [float(decoder.decode(p, rows, T, decoder.denoiser).nfe_B.double().mean()) for p, T in runs]
    rounds = bench.paired(*(lambda p=p, T=T: decoder.decode(p, rows, T, decoder.denoiser) for p, T in runs))
    where = {"batch": batch, "canvas": size.canvas, "steps": budget}
    per = f"{name}/decoding/adaptive"
    bench.row(f"{per}/evaluations_over_fixed", nfe[0] / nfe[1], "ratio", **where)
    bench.row(f"{per}/seconds_over_fixed", ratio(rounds, 0, 1), "ratio", **where)
    more = operations[0] / operations[1] * nfe[1] / nfe[0]
    bench.row(f"{per}/operations_per_evaluation_over_fixed", more, "ratio", **where)
    bench.row(f"{row}_fixed", ratio(rounds, 0, 1) * nfe[1] / nfe[0], "ratio", target="<=1.10", **where)
    where["steps"] = runs[2][1]
    bench.row(f"{row}_as_many_steps", ratio(rounds, 0, 2) * nfe[2] / nfe[0], "ratio", target="<=1.10", **where)


def counted(work: Callable[[], object]) -> int:
    """The floating-point operations of some work's matrix products."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@torch.no_grad()
def naive_decode(denoiser: TransformerDenoiser, rows: Rows, size: Size, noise: bool) -> Tensor:
    """The loop that most published code has, at temperature 0: tokens ``[B, L]``.

    Logits of every position, softmax in float64, and for each row a top-k of its own. With ``noise`` also what is
    computed for Gumbel noise in float64 over ``[B, L, V]``, to the power of a temperature of 0: it changes no argmax.
    """
    tokens_BL = rows.tokens_BL.masked_fill(~rows.prompt_BL, size.vocabulary)
    for step in range(size.steps):
        masked_BL = tokens_BL == size.vocabulary
        logits_BLV = denoiser(tokens_BL, rows.valid_BL).logits_BQV
        logits_BLV[..., list(size.space.forbidden)] = -torch.inf
        noisy_BLV = logits_BLV
        if noise:
            wide_BLV = logits_BLV.to(torch.float64)
            gumbel_BLV = (-torch.log(torch.rand_like(wide_BLV))) ** 0.0
            noisy_BLV = wide_BLV.exp() / gumbel_BLV
        best_BL = noisy_BLV.argmax(-1)
        p_BLV = logits_BLV.to(torch.float64).softmax(-1)
        confidence_BL = p_BLV.gather(-1, best_BL[..., None]).squeeze(-1).masked_fill(~masked_BL, -torch.inf)
        chosen_BL = torch.zeros_like(masked_BL)
        for row in range(len(tokens_BL)):
            quota = StepBudget(size.steps - step).quotas(int(masked_BL[row].sum()))[0]
            chosen_BL[row, confidence_BL[row].topk(quota).indices] = True
        tokens_BL = torch.where(chosen_BL, best_BL, tokens_BL)
    return tokens_BL


def side_by_side(bench: Bench, size: Size, name: str) -> None:
    """How many times faster the loop is than the naive one, with outcomes compared first, in float64.

    Raises:
        RuntimeError: the two loops decode other tokens.
    """
    if bench.has(f"{name}/decoding/naive_over_ours"):
        return
    batch = size.batches[len(size.batches) // 2]
    rows = size.rows(batch, bench.device)
    where = {"batch": batch, "canvas": size.canvas, "steps": size.steps}
    denoiser = size.denoiser(bench.device, torch.float64)
    ours = decode(denoiser, TopProbability(), rows, size.space, steps=size.steps).tokens_BL
    for noise in (False, True):
        same = float((naive_decode(denoiser, rows, size, noise) == ours)[~rows.prompt_BL].double().mean())
        if same < 1.0:
            raise RuntimeError(f"{name}: the naive loop decodes {1 - same:.2%} of the tokens otherwise")
    bench.row(f"{name}/decoding/naive/same_tokens_in_float64", same, "share", target="=1", **where)
    half = size.denoiser(bench.device)
    decoder = Decoder(bench, size, half)
    rounds = bench.paired(
        lambda: decoder.decode(TopProbability(), rows, size.steps, half),
        lambda: naive_decode(half, rows, size, noise=False),
        lambda: naive_decode(half, rows, size, noise=True),
    )
    bench.row(f"{name}/decoding/naive_without_noise_over_ours", ratio(rounds, 1, 0), "ratio", **where)
    bench.row(f"{name}/decoding/naive_over_ours", ratio(rounds, 2, 0), "ratio", **where)
