"""Latents and observations: the law as it is written, the posterior against brute force, grades and the best order."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from laws import assert_follows
from lightning_mdm.data.facts import SplitFacts
from lightning_mdm.data.nae_sat import NaeSatProblems
from lightning_mdm.decoding.likelihood import true_token_nats
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.oracles import Ties
from lightning_mdm.decoding.policies import POLICIES, GivenOrder, LeftToRight, TopMargin
from lightning_mdm.decoding.policy import RankedPolicy, UnmaskingPolicy
from lightning_mdm.decoding.state import Rows
from lightning_mdm.decoding.tokens import Temperature
from lightning_mdm.laws import nae_sat_posterior
from lightning_mdm.laws.nae_sat import NaeSat, Placing, nae
from lightning_mdm.laws.nae_sat_posterior import all_sequences, posterior_ones
from lightning_mdm.nets.laws import NaeSatDenoiser

LAWS = [NaeSat(4, 6), NaeSat(5, 8, placing="shuffled", seed=2), NaeSat(3, 1, padding=2), NaeSat(6, 0)]
MASK = 7  # whatever is no bit


def slow_sequence(law: NaeSat, latents: Sequence[int]) -> tuple[int, ...]:
    row = [0] * law.length
    for i, bit in enumerate(latents):
        row[law.places[i]] = bit
    for j, triple in enumerate(law.triples):
        row[law.places[law.latents + j]] = int(len({latents[i] for i in triple}) > 1)
    return tuple(row)


def slow_posterior(law: NaeSat, seen: Sequence[int]) -> list[float]:
    """Bayes' rule with every visible token flipped with a small probability."""
    flip, total, ones = 1e-9, 0.0, [0.0] * law.length
    for latents in itertools.product((0, 1), repeat=law.latents):
        row = slow_sequence(law, latents)
        wrong = sum(token != MASK and token != bit for token, bit in zip(seen, row, strict=True))
        weight = flip**wrong
        total += weight
        ones = [one + weight * bit for one, bit in zip(ones, row, strict=True)]
    return [one / total for one in ones]


def canvas(law: NaeSat, n: int, split: str = "test") -> tuple[NaeSatProblems, Rows]:
    data = NaeSatProblems(law, n_test=n, n_validation=n, eval_batch_size=n)
    batch = next(iter(data.test_dataloader() if split == "test" else data.val_dataloader()))
    return data, Rows(batch.tokens_BL, batch.prompt_BL, batch.valid_BL, batch.index_B)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_law_as_it_is_written(law: NaeSat) -> None:
    assert all(len(set(triple)) == 3 and max(triple) < law.latents for triple in law.triples)
    assert len(law.triples) == law.observations
    assert sorted(law.places) == list(range(law.length))
    assert (law.places == tuple(range(law.length))) == (law.placing == "latents_first")
    for k in range(50):
        drawn = law.draw("train", k)
        latents = [drawn.response[place] for place in law.places[: law.latents]]
        assert drawn.response == slow_sequence(law, latents)
        assert drawn == law.draw("train", k)
        assert drawn.prompt == (2,) * law.padding
        assert law.agreeing(drawn.response) == law.observations
    assert len(all_sequences(law)) == 2**law.latents
    rows = {tuple(row) for row in all_sequences(law).tolist()}
    assert rows == {slow_sequence(law, latents) for latents in itertools.product((0, 1), repeat=law.latents)}


def test_latents_are_fair_and_independent() -> None:
    law = NaeSat(4, 2)
    counts = Counter(law.draw("test", k).response[:4] for k in range(4000))
    assert_follows(counts, dict.fromkeys(itertools.product((0, 1), repeat=4), 1 / 16))


def test_triples_belong_to_the_law() -> None:
    assert NaeSat(seed=0).triples != NaeSat(seed=1).triples
    triples = [triple for seed in range(300) for triple in NaeSat(5, 10, seed=seed).triples]
    assert_follows(Counter(triples), dict.fromkeys(itertools.permutations(range(5), 3), 1 / 60))
    assert [nae(*bits) for bits in itertools.product((0, 1), repeat=3)] == [0, 1, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_posterior_is_that_of_bayes(law: NaeSat) -> None:
    """Half of the rows are of the law, half have visible tokens that no sequence may agree with."""
    rng = random.Random(0)
    seen = []
    for k in range(60):
        row = law.draw("test", k).response if k % 2 else [rng.randrange(2) for _ in range(law.length)]
        seen.append([MASK if rng.random() < k / 60 else bit for bit in row])
    one_BR = posterior_ones(torch.tensor(seen), all_sequences(law))
    wanted = torch.tensor([slow_posterior(law, row) for row in seen], dtype=torch.float64)
    torch.testing.assert_close(one_BR, wanted, rtol=1e-6, atol=1e-7)
    assert one_BR.dtype == torch.float64


def test_autocast_does_not_round_the_posterior() -> None:
    """Of the hundreds of sequences that agree with a few visible tokens 8 bits do not hold every number."""
    law, n = NaeSat(12, 60), 300
    drawn_BR = torch.tensor([law.draw("test", k).response for k in range(n)])
    rank_BR = torch.rand(drawn_BR.shape, generator=torch.Generator().manual_seed(0)).argsort(-1)
    visible_BR = rank_BR < 3 + torch.arange(n)[:, None] % 6
    tokens_BR = drawn_BR.masked_fill(~visible_BR, law.n_tokens)
    denoiser = NaeSatDenoiser(law)
    exact = denoiser(tokens_BR, None).logits_BQV
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = denoiser(tokens_BR, None).logits_BQV
    assert not bool(exact.isnan().any())
    assert torch.equal(found, exact)


def test_large_batches_are_enumerated_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    law = NaeSat(12, 4)
    rows = torch.full((9, law.length), MASK)
    rows[:, 0] = torch.arange(9) % 2
    monkeypatch.setattr(nae_sat_posterior, "CELLS_AT_ONCE", 2 * 2**12)
    one_BR = posterior_ones(rows, all_sequences(law))
    assert torch.equal(one_BR[:, 0], (torch.arange(9) % 2).double())
    torch.testing.assert_close(one_BR[:, 12:], torch.full((9, 4), 0.75, dtype=torch.float64))
    with pytest.raises(ValueError, match="latents=17: the exact posterior enumerates at most 16"):
        NaeSatDenoiser(NaeSat(17, 2))


HEURISTICS = [policy for policy in (kind() for kind in POLICIES) if not policy.learned and not policy.revises]


@pytest.mark.parametrize("policy", HEURISTICS, ids=lambda policy: policy.name)
@pytest.mark.parametrize("placing", ["latents_first", "shuffled"])
def test_the_chain_rule(policy: UnmaskingPolicy, placing: Placing) -> None:
    """Token by token, the exact posterior gives every sequence its probability 2^-N, whatever the order."""
    law = NaeSat(5, 9, padding=1, placing=placing)
    data, rows = canvas(law, 12)
    policy = policy.informed(SplitFacts(data, "test"))
    entropy = law.latents * math.log(2.0)
    for steps in (3, law.length):
        nats_B, trace = true_token_nats(NaeSatDenoiser(law), policy, rows, data.token_space, steps=steps)
        single_B = trace.nfe_B == law.length
        if steps == law.length and isinstance(policy, RankedPolicy):
            assert bool(single_B.all())
        torch.testing.assert_close(nats_B[single_B], torch.full_like(nats_B[single_B], entropy), rtol=1e-5, atol=1e-5)


def test_the_optimum() -> None:
    """Latents first: with as many of them as observations, left to right with two steps is the best order."""
    law = NaeSat(8, 8)
    data, rows = canvas(law, 30)
    denoiser = NaeSatDenoiser(law)
    nats_B, _ = true_token_nats(denoiser, LeftToRight(), rows, data.token_space, steps=2)
    torch.testing.assert_close(nats_B, torch.full_like(nats_B, law.optimum_nats(2)), rtol=1e-6, atol=1e-6)
    assert law.optimum_nats(2) == law.optimum_nats(16) == pytest.approx(8 * math.log(2.0))
    # Of all sequences, the mean over the whole law.
    whole = all_sequences(law).long()
    yes = torch.ones_like(whole, dtype=torch.bool)
    every = Rows(whole, ~yes, yes, torch.arange(256))
    means = []
    for steps in (1, 2, 4):
        nats_B, _ = true_token_nats(denoiser, TopMargin(), every, data.token_space, steps=steps)
        means.append(float(nats_B.mean()))
    assert means[0] == pytest.approx(law.optimum_nats(1), rel=1e-6)
    assert means[1] > law.optimum_nats(2) + 0.5, "observations first cost more"
    assert means[0] > means[2] - 1e-9 > law.optimum_nats(4)
    with pytest.raises(ValueError, match="steps=0"):
        law.optimum_nats(0)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_task_knows_that_latents_come_first(law: NaeSat) -> None:
    data = NaeSatProblems(law, n_test=1)
    ranks = data.order(data.problems("test")[0])
    assert ranks is not None
    assert [ranks[place] for place in law.places] == [0] * law.latents + [1] * law.observations


@pytest.mark.parametrize("ties", ["random", "margin"])
def test_the_order_that_the_task_knows_is_the_best(ties: Ties) -> None:
    """In parts of three or of six: with six latents, wherever they stand, one of them ends with the latents."""
    law = NaeSat(6, 12, padding=1, placing="shuffled")
    data, rows = canvas(law, 30)
    policy = GivenOrder(ties).informed(SplitFacts(data, "test"))
    for steps in (3, 6, law.length):
        nats_B, _ = true_token_nats(NaeSatDenoiser(law), policy, rows, data.token_space, steps=steps)
        torch.testing.assert_close(nats_B, torch.full_like(nats_B, law.optimum_nats(steps)), rtol=1e-6, atol=1e-6)
    in_places_B, _ = true_token_nats(NaeSatDenoiser(law), LeftToRight(), rows, data.token_space, steps=3)
    assert float(in_places_B.mean()) > law.optimum_nats(3) + 0.5


def test_generation_follows_the_law() -> None:
    """Token by token with the exact posterior, every sequence comes out equally often."""
    law = NaeSat(3, 4)
    data, rows = canvas(law, 1600)
    trace = decode(
        NaeSatDenoiser(law), TopMargin(), rows, data.token_space, steps=law.length, token_sampler=Temperature(1.0)
    )
    assert_follows(
        Counter(map(tuple, trace.tokens_BL.tolist())), {tuple(row): 1 / 8 for row in all_sequences(law).tolist()}
    )


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_grades(law: NaeSat) -> None:
    data = NaeSatProblems(law, n_test=3)
    problem = data.problems("test")[0]
    right = data.grade(problem, data.problems("test")[2].response)
    assert (right.correct, right.score) == (True, 1.0)
    words = problem.response.split()
    for j in range(law.observations):
        place = law.places[law.latents + j]
        changed = [*words]
        changed[place] = "1" if words[place] == "0" else "0"
        grade = data.grade(problem, " ".join(changed))
        assert not grade.correct
        assert grade.score == pytest.approx(1 - 1 / law.observations)
    # Other latents are as good, together with their observations.
    other = " ".join(map(str, slow_sequence(law, [1 - int(words[place]) for place in law.places[: law.latents]])))
    assert other != problem.response
    assert data.grade(problem, other).correct
    for text in ("", " ".join(words[1:]), " ".join(["_", *words[1:]]), " ".join(["2", *words[1:]])):
        assert (data.grade(problem, text).answer, data.grade(problem, text).score) == (None, 0.0)


@pytest.mark.parametrize(
    "options", [{"latents": 2}, {"observations": -1}, {"padding": -1}, {"placing": "observations_first"}], ids=str
)
def test_wrong_options(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        NaeSat(**options)  # type: ignore[arg-type]
