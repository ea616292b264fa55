"""What the loop spares: logits of positions that are given, rows that are finished, looks at the device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from decoding.reference import instances, label, with_ends
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.policies import Autoregressive, Blocks, ConfidenceThreshold, GivenOrder, Oracle, TopMargin
from lightning_mdm.decoding.policy import RankedPolicy, UnmaskingPolicy
from lightning_mdm.decoding.state import Begun, DecodingState, Prediction, Rows
from lightning_mdm.decoding.tokens import Temperature
from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.selector import Selector, SelectorConfig
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.output import DenoiserOutput
from lightning_mdm.vocabulary import TokenSpace
from toys import Mixing, Recording, random_rows

SPACE = TokenSpace(40, eos_id=3, pad_id=0, forbidden=(0, 7, 8))
# What makes the host wait for a GPU, whichever way it is asked for.
WAITS = ("_local_scalar_dense", "nonzero.default", "masked_select", "unique", "lift_fresh", "equal.default")


class Looks(TorchDispatchMode):
    """Counts denoiser calls and, between the first and the last of them, what would make the host wait."""

    def __init__(self, denoiser: object, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.calls = 0
        self.events: list[tuple[int, str]] = []
        plain = Tensor.tolist

        def tolist(tensor: Tensor) -> Any:
            self.events.append((self.calls, "tolist"))
            return plain(tensor)

        monkeypatch.setattr(Tensor, "tolist", tolist)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = args[1] if "index" in str(func) and len(args) > 1 and isinstance(args[1], Sequence) else ()
        by_mask = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)
        if by_mask or any(name in str(func) for name in WAITS):
            self.events.append((self.calls, str(func)))
        return func(*args, **(kwargs or {}))

    def __call__(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        with torch.utils._python_dispatch._disable_current_modes():
            out = self.denoiser(tokens_BL, valid_BL, query_BQ)  # type: ignore[operator]
        self.calls += 1
        return out

    def inside(self) -> list[str]:
        """What happened after the first denoiser call and before the last."""
        return [name for calls, name in self.events if 0 < calls < self.calls]


@contextmanager
def counted(denoiser: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Looks]:
    with monkeypatch.context() as patch:
        looks = Looks(denoiser, patch)
        with looks:
            yield looks


def net() -> TransformerDenoiser:
    torch.manual_seed(0)
    return TransformerDenoiser(40, TransformerConfig(layers=1, width=32, heads=2, mlp_width=32)).eval()


def selector() -> Selector:
    torch.manual_seed(1)
    return Selector(32, SelectorConfig(width=16, heads=2, mlp_width=16)).eval()


ORACLES = (GivenOrder, Oracle)  # what the task knows of its problems lies on the host
WITH_NET = [Learned(rule).bound(selector()) for rule in ("greedy", "sampled")]
POLICIES = [p for p in [*instances(), *WITH_NET] if not isinstance(p, ORACLES)]


@pytest.mark.parametrize(("policy", "end_of_sequence"), with_ends(POLICIES), ids=label)
def test_the_loop_looks_at_the_device_at_most_once_a_step(
    policy: UnmaskingPolicy, end_of_sequence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvas = random_rows(6, vocab_size=40, pad=0, longest=12, seed=1, row_token=True, least=5)
    with counted(net() if policy in WITH_NET else Mixing(40), monkeypatch) as looks:
        decode(looks, policy, canvas, SPACE, steps=4, token_sampler=Temperature(), end_of_sequence=end_of_sequence)
    # How many an even quota takes is known on the host, without a look.
    looks_a_step = 0 if isinstance(policy, (RankedPolicy, Autoregressive)) else 1
    looks_a_step += policy.revises  # how many it has masked again is known to itself alone
    # Where the end of a sequence closes rows, how many are closed is known only when its tokens are.
    looks_a_step += end_of_sequence == "close"
    assert looks.inside() == ["tolist"] * (looks_a_step * (looks.calls - 1))
    assert looks.calls >= 1


@pytest.mark.parametrize("policy", instances(), ids=label)
def test_a_policy_takes_what_it_says(policy: UnmaskingPolicy) -> None:
    """In every row, also where rows have budgets of their own."""
    said: list[list[int]] = []

    def compare(state: DecodingState, prediction: Prediction, chosen_AL: Tensor) -> None:
        numbers = state.masked_BL.sum(-1).tolist(), state.steps_left_B.tolist()
        takes = policy.takes(*numbers)
        if takes is not None:
            said.append(takes)
            assert takes == chosen_AL.sum(-1).tolist()

    canvas = random_rows(30, vocab_size=40, pad=0, longest=12, seed=2)
    budgets = torch.tensor([1 + row % 7 for row in range(30)])
    begun = Begun(torch.zeros_like(canvas.prompt_BL), budgets)
    decode(Mixing(40), policy, canvas, SPACE, steps=7, begun=begun, observers=[compare])
    assert bool(said) == isinstance(policy, (RankedPolicy, Autoregressive))


@pytest.mark.parametrize("everything", [True, False], ids=["more", "fewer"])
def test_a_policy_that_takes_another_number_than_it_says_is_refused(everything: bool) -> None:
    class Wrong(ConfidenceThreshold):
        def takes(self, left: Sequence[int], steps_left: Sequence[int]) -> list[int]:
            return [2 if steps > 1 else n for n, steps in zip(left, steps_left, strict=True)]

        def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
            return state.masked_BL if everything else super().select(state, prediction)

    canvas = random_rows(6, vocab_size=40, pad=0, longest=12, seed=1, row_token=True, least=8)
    with pytest.raises(RuntimeError, match="or not as many as it takes"):
        decode(Mixing(40), Wrong(1.0), canvas, SPACE, steps=4)


def test_what_makes_the_host_wait_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = [
        lambda x: bool(x.any()), lambda x: x.sum().item(), lambda x: x.nonzero(), lambda x: x[x > 0],
        lambda x: x.tolist(), lambda x: torch.tensor([1, 2]), lambda x: x.unique(dim=0),
        lambda x: torch.masked_select(x, x > 0),
    ]  # fmt: skip
    for way in ways:
        with counted(Mixing(40), monkeypatch) as looks:
            looks.calls = 1
            way(torch.ones(3))
            looks.calls = 2
        assert looks.inside(), way


@pytest.mark.parametrize("policy", [TopMargin(), ConfidenceThreshold(0.3), Blocks(TopMargin(), 3)], ids=label)
def test_logits_are_asked_for_only_where_something_is_masked_and_finished_rows_leave(policy: UnmaskingPolicy) -> None:
    canvas = random_rows(16, vocab_size=40, pad=0, longest=14, seed=2, row_token=True)
    asked: list[tuple[int, int, int]] = []  # rows, queries per row, most masked in a row
    recording = Recording(Mixing(40), SPACE.mask_id)  # refuses finished rows, and queries that no row needs

    def denoiser(tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        masked_BL = tokens_BL == SPACE.mask_id
        asked_for_BQ = masked_BL.gather(1, query_BQ)
        assert asked_for_BQ.sum(-1).equal(masked_BL.sum(-1)), "a masked position was not asked for"
        asked.append((len(tokens_BL), query_BQ.shape[1], int(masked_BL.sum(-1).max())))
        return recording(tokens_BL, valid_BL, query_BQ)

    trace = decode(denoiser, policy, canvas, SPACE, steps=6)
    assert all(queries == most for _, queries, most in asked)
    rows_at = [int((trace.nfe_B >= step).sum()) for step in range(1, trace.forward_passes + 1)]
    assert [n for n, _, _ in asked] == rows_at
    assert asked[-1][0] < asked[0][0], "no row was finished early: the test shows nothing"


def test_the_head_runs_on_the_queried_positions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser, seen = net(), []
    denoiser.head.register_forward_hook(lambda module, inputs, out: seen.append(tuple(inputs[0].shape[:2])))
    canvas = random_rows(5, vocab_size=40, pad=0, longest=12, seed=3, row_token=True, least=6)
    trace = decode(denoiser, TopMargin(), canvas, SPACE, steps=3)
    left_B = (trace.order.step_BL > 0).sum(-1)
    for step, shape in enumerate(seen, start=1):
        still_B = (trace.order.step_BL >= step).sum(-1)
        assert shape == (int((still_B > 0).sum()), int(still_B.max()))
    assert len(seen) == trace.forward_passes
    assert int(left_B.max()) < canvas.tokens_BL.shape[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("policy", [TopMargin(), ConfidenceThreshold(0.3), WITH_NET[0]], ids=label)
def test_a_gpu_waits_at_most_once_a_step(policy: UnmaskingPolicy) -> None:
    canvas = random_rows(6, vocab_size=40, pad=0, longest=12, seed=1, row_token=True, least=5)
    gpu = Rows(*(value.cuda() for value in (canvas.tokens_BL, canvas.prompt_BL, canvas.valid_BL, canvas.index_B)))
    denoiser, bound = net().cuda(), policy.bound(selector().cuda()) if policy.learned else policy
    decode(denoiser, bound, gpu, SPACE, steps=4)  # first calls may allocate and load
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trace = decode(denoiser, bound, gpu, SPACE, steps=4)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "synchroniz" in str(warning.message)]
    outside = 8  # before the first step and after the last
    assert len(waits) <= outside + (0 if isinstance(policy, RankedPolicy) else trace.forward_passes)
