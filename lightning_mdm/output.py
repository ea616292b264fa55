"""What a denoiser returns. Knows nothing of models, policies or text.

Shapes: B rows, L positions, Q queried positions per row, D width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DenoiserOutput(NamedTuple):
    """One evaluation of a denoiser.

    Args:
        logits_BQV: logits of p(x_i | z) at the queried positions.
        hidden_BLD: what the denoiser computed on the way, for a selector to read; ``None`` where it offers nothing.
    """

    logits_BQV: Tensor
    hidden_BLD: Tensor | None = None
