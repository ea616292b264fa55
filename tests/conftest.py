"""Settings of every test run."""

import pytest
import torch

# The tensors here are small: a second thread gains nothing, and on a busy machine waiting for it costs tenfold.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _few_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Token frequencies are those of a few problems: to make thousands takes seconds wherever all policies run."""
    monkeypatch.setattr("lightning_mdm.data.facts.COUNTED", 100)
