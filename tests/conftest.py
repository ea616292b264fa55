"""Settings of every test run."""

import torch

# The tensors here are small: a second thread gains nothing, and on a busy machine waiting for it costs tenfold.
torch.set_num_threads(1)
