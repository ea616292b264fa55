"""How a canvas is decoded apart from policy, budget and seed: the options that every row of results carries."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import nn

from lightning_mdm.decoding.graphs import graphed
from lightning_mdm.decoding.loop import EndOfSequence, check_closing, decode
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.search import search
from lightning_mdm.decoding.state import Canvas, Denoiser, Rows
from lightning_mdm.decoding.tokens import token_sampler
from lightning_mdm.decoding.trace import Trace
from lightning_mdm.vocabulary import TokenSpace


@dataclass(frozen=True)
class DecodingOptions:
    """Options of the loop.

    Args:
        end_of_sequence: ``as_tokens`` fills the canvas like any other text; ``close`` fills everything still
            masked after a committed end-of-sequence at no cost.
        token_temperature: 0 takes the likeliest token, above 0 tokens are drawn.
        guidance: weight of classifier-free guidance, at the cost of a second evaluation per step; 0 is none.
        search: spend what is left of the budget on a likelier sequence (``decoding/search.py``); policies that finish
            early have something left. Only with the likeliest tokens.
        isolate_rows: decode one row after the other, cut to its own length, so that the same kernels run on the same
            shapes whatever the batch: slower, and immune to rounding on any device.
        compile_statistics: compute statistics of the logits, and what a selector makes of them, through
            ``torch.compile``; for large vocabularies on a GPU.
        cuda_graphs: replay the denoiser's passes over at most 32 rows from CUDA graphs, where starting their kernels
            takes longer than running them. Seconds for the first pass of a shape, and memory for its results.
    """

    end_of_sequence: EndOfSequence = "as_tokens"
    token_temperature: float = 0.0
    guidance: float = 0.0
    search: bool = False
    isolate_rows: bool = False
    compile_statistics: bool = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.token_temperature < math.inf:
            raise ValueError(
                f"token_temperature={self.token_temperature}: a temperature is 0 (argmax) or a finite number above"
            )
        if not 0.0 <= self.guidance < math.inf:
            raise ValueError(f"guidance={self.guidance}: give 0 (none) or a finite number above")
        if self.search and self.token_temperature:
            raise ValueError(
                f"search=True, token_temperature={self.token_temperature}: what is searched for is the likeliest; give "
                "a temperature of 0"
            )

    @property
    def unmasked_stays(self) -> bool:
        """Whether nothing may be masked again: looking back follows an order, and what is closed is so for good."""
        return self.search or self.end_of_sequence == "close"

    def check(self, policy: UnmaskingPolicy) -> None:
        """Refuse a policy that they do not go with.

        Raises:
            ValueError: it knows the answer and tokens are drawn, or it masks tokens again that have to stay.
        """
        if self.token_temperature and "response" in policy.reads:
            raise ValueError(
                f"policy {type(policy).__name__}, token_temperature={self.token_temperature}: it trusts the likeliest "
                "tokens, and others would be drawn; give a temperature of 0"
            )
        if self.search and policy.revises:
            raise ValueError(
                f"policy {type(policy).__name__}, search=True: looking back follows an order in which what is unmasked "
                "stays, and it may mask that again; leave search out, or choose another policy"
            )
        check_closing(policy, self.end_of_sequence)

    def decode(
        self, denoiser: Denoiser, policy: UnmaskingPolicy, canvas: Canvas, space: TokenSpace, steps: int, seed: int
    ) -> Trace:
        """Decode with these options; see ``lightning_mdm.decoding.loop.decode``.

        Raises:
            ValueError: also for ``cuda_graphs`` of a denoiser that is no net on a GPU, and as ``check``.
        """
        self.check(policy)
        if self.cuda_graphs:
            if not isinstance(denoiser, nn.Module):
                raise ValueError("cuda_graphs=True: the denoiser is no net; leave it out")
            denoiser = graphed(denoiser)
        run = partial(
            decode, denoiser, policy, space=space, steps=steps, end_of_sequence=self.end_of_sequence, seed=seed,
            guidance=self.guidance, compile_statistics=self.compile_statistics,
        )  # fmt: skip
        if self.search:
            together = partial(search, run, steps=steps, adaptive=policy.adaptive, hurries=policy.hurries)
        else:
            together = partial(run, token_sampler=token_sampler(self.token_temperature))
        if not self.isolate_rows or not len(canvas.index_B):
            return together(canvas=canvas)
        apart = [together(canvas=Rows.alone(canvas, row)) for row in range(len(canvas.index_B))]
        return Trace.stacked(apart, canvas.tokens_BL)

    def adaptive(self, policy: UnmaskingPolicy) -> bool:
        """Whether the number of steps depends on the row: the policy decides it, or what is left is searched with."""
        return policy.adaptive or self.search

    def describe(self, policy: UnmaskingPolicy) -> dict[str, Any]:
        """Every option of a run that says what is computed, the policy's own among them, ready for JSON."""
        own = asdict(self)
        del own["compile_statistics"], own["cuda_graphs"]  # how fast, not what
        for name in ("guidance", "search"):  # said where there is any
            if not own[name]:
                del own[name]
        return {**policy.options, **own}
