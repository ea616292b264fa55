"""Weights from files: our layout, SMDM's, checkpoints, the hub; export; what is refused and how it is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_mdm import hub
from lightning_mdm.cli import main
from lightning_mdm.modules.autoregressive import AutoregressiveModule
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.modules.weights import export_denoiser, stored_options
from lightning_mdm.nets.order_net import OrderNetConfig
from lightning_mdm.nets.posterior_net import PosteriorConfig
from lightning_mdm.nets.selector import SelectorConfig
from lightning_mdm.nets.smdm import to_published
from lightning_mdm.nets.transformer import TransformerConfig
from runs import REPOSITORY, program, trainer

V = 11
NET = TransformerConfig(layers=2, width=16, heads=2, mlp_width=24)
FROM_CONFIDENCE = SelectorConfig(layers=1, width=16, heads=2, mlp_width=16, start="confidence")
SHIPPED = sorted((REPOSITORY / "experiments").glob("*/*.safetensors"))


@pytest.fixture(scope="module")
def trained() -> DenoiserModule:
    torch.manual_seed(0)
    return DenoiserModule(V, NET)


def checkpoint(module: Any, path: Path) -> Path:
    run = trainer(path.parent, max_steps=0)
    run.strategy.connect(module)
    run.save_checkpoint(path)
    return path


def state_of(module: Any) -> dict[str, Tensor]:
    return module.denoiser.state_dict()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def published(module: DenoiserModule, path: Path, **changes: Tensor | None) -> Path:
    state = {**to_published(state_of(module), NET), **changes}
    save_file({name: value.contiguous() for name, value in state.items() if value is not None}, path)
    return path


def test_every_kind_of_file_gives_the_same_denoiser(tmp_path: Path, trained: DenoiserModule) -> None:
    trained.save_weights(tmp_path / "own.safetensors")
    files = [
        tmp_path / "own.safetensors",
        published(trained, tmp_path / "smdm.safetensors"),
        checkpoint(trained, tmp_path / "last.ckpt"),
    ]
    for file in files:
        torch.manual_seed(1)
        assert not same(state_of(DenoiserModule(V, NET)), state_of(trained))
        assert same(state_of(DenoiserModule(V, NET, init_from=str(file))), state_of(trained)), file
        assert same(state_of(OrderModule(V, NET, denoiser_ckpt=str(file))), state_of(trained)), file


def test_what_shapes_do_not_tell_is_compared_where_the_file_says_it(tmp_path: Path, trained: DenoiserModule) -> None:
    trained.save_weights(tmp_path / "own.safetensors")
    for file in (tmp_path / "own.safetensors", checkpoint(trained, tmp_path / "last.ckpt")):
        for option, value in (("heads", 1), ("rope_base", 50.0), ("norm_eps", 1e-3)):
            other = replace(NET, **{option: value})
            message = (
                rf"model.net.{option}={value}, but .*{file.name} was trained with {getattr(NET, option)}: give the"
            )
            with pytest.raises(ValueError, match=message):
                DenoiserModule(V, other, init_from=str(file))
            with pytest.raises(ValueError, match=message):
                OrderModule(V, other, denoiser_ckpt=str(file))
    older = torch.load(file, weights_only=True)
    del older["hyper_parameters"]["net"]["rope_base"]
    torch.save(older, file)
    assert same(state_of(DenoiserModule(V, NET, init_from=str(file))), state_of(trained)), "an option it had not yet"


def test_an_order_is_that_of_its_selector(tmp_path: Path, trained: DenoiserModule) -> None:
    torch.manual_seed(0)
    order = OrderModule(V, NET, denoiser="joint", selector=FROM_CONFIDENCE)
    order.save_order(tmp_path / "order.safetensors")
    options = {"denoiser": "joint", "init_from": str(tmp_path / "order.safetensors")}
    again = OrderModule(V, NET, selector=FROM_CONFIDENCE, **options)
    assert same(again.selectors.state_dict(), order.selectors.state_dict())
    for changed in ({"start_cap": 0.5}, {"start_threshold": 0.9}, {"heads": 1}):
        ((option, value),) = changed.items()
        message = rf"model.selector.{option}={value}, but model.init_from=.* was trained with"
        with pytest.raises(ValueError, match=message):
            OrderModule(V, NET, selector=replace(FROM_CONFIDENCE, **changed), **options)
    posteriors = {
        "family=relative": PosteriorConfig("relative"),
        "net.heads=1": PosteriorConfig(net=OrderNetConfig(heads=1)),
    }
    for name, posterior in posteriors.items():
        with pytest.raises(ValueError, match=rf"model.posterior.{name}, but model.init_from=.* was trained with"):
            OrderModule(V, NET, selector=FROM_CONFIDENCE, posterior=posterior, **options)
    cooler = PosteriorConfig(order_temperature=0.1)
    assert OrderModule(V, NET, selector=FROM_CONFIDENCE, posterior=cooler, **options), "that is the training's"
    alone = OrderModule(V, NET, selector=FROM_CONFIDENCE, posterior=PosteriorConfig("selector"), **options)
    assert same(alone.selectors.state_dict(), order.selectors.state_dict()), "without a posterior none is taken"
    assert not list(alone.posteriors.parameters())
    alone.save_order(tmp_path / "alone.safetensors")
    with pytest.raises(ValueError, match=r"model.posterior.family=state_aware, .* was trained with selector"):
        OrderModule(V, NET, selector=FROM_CONFIDENCE, **{**options, "init_from": str(tmp_path / "alone.safetensors")})
    for name, content in (("empty", b""), ("cut", (tmp_path / "order.safetensors").read_bytes()[:-1])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"model.init_from=.*{name}: this file is no safetensors file, or a dam"):
            OrderModule(V, NET, selector=FROM_CONFIDENCE, denoiser="joint", init_from=str(tmp_path / name))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: "/".join(path.parts[-2:]))
def test_weights_that_ship_say_of_which_net_they_are(path: Path) -> None:
    assert set(stored_options(path)) in ({"net"}, {"selector", "posterior"})


def test_weights_of_the_hub(tmp_path: Path, trained: DenoiserModule, monkeypatch: pytest.MonkeyPatch) -> None:
    file = published(trained, tmp_path / "blob")  # the cache names files as it likes
    address = "hf://nieshen/SMDM/mdm_safetensors/mdm-170M-100e18-rsl-0.01.safetensors"
    monkeypatch.setattr(hub, "fetch", lambda given, option: {(address, "init_from"): file}[given, option])
    assert same(state_of(DenoiserModule(V, NET, init_from=address)), state_of(trained))
    with pytest.raises(ValueError, match=r"only .safetensors files are read, which hold no code"):
        DenoiserModule(V, NET, init_from=address.replace("safetensors", "pth"))


def test_an_exported_checkpoint_is_read_back(tmp_path: Path, trained: DenoiserModule) -> None:
    path = tmp_path / "out" / "weights.safetensors"
    printed = program("export", checkpoint(trained, tmp_path / "last.ckpt"), path)
    assert printed.strip() == f"{path}: 2 layers, width 16, 2 heads"
    state = load_file(path)
    assert state["transformer.wte.weight"].shape == (V + 1, 16)
    assert same(state, to_published(state_of(trained), NET))
    assert same(state_of(DenoiserModule(V, NET, init_from=str(path))), state_of(trained))
    with pytest.raises(ValueError, match=r"model.net.heads=4, but init_from=.* was trained with 2"):
        DenoiserModule(V, replace(NET, heads=4), init_from=str(path))
    order = OrderModule(V, NET, denoiser_ckpt=str(path))
    assert export_denoiser(checkpoint(order, tmp_path / "order.ckpt"), tmp_path / "of_order.safetensors") == NET
    assert same(load_file(tmp_path / "of_order.safetensors"), state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"transformer.ln_f.weight": None},
            r"transformer.ln_f.weight is missing; this net needs it with shape \(16,\)",
        ),
        ({"transformer.wte.weight": None}, r"transformer.wte.weight is missing"),
        (
            {"transformer.h.0.mlp.swiglu.w3.weight": torch.zeros(24, 16)},
            r".*w3.weight has shape \(24, 16\), this net's",
        ),
        ({"transformer.h.2.norm_1.weight": torch.ones(16)}, r"transformer.h.2.norm_1.weight has no place in this net"),
    ],
)
def test_published_weights_that_do_not_fit(
    tmp_path: Path, trained: DenoiserModule, changes: dict[str, Tensor | None], message: str
) -> None:
    path = published(trained, tmp_path / "smdm.safetensors", **changes)
    with pytest.raises(ValueError, match=rf"init_from={path}: {message}.*; give the net and the vocabulary"):
        DenoiserModule(V, NET, init_from=str(path))


def test_other_files_are_refused(tmp_path: Path, trained: DenoiserModule) -> None:
    path = published(trained, tmp_path / "smdm.safetensors")
    with pytest.raises(ValueError, match="these weights are a masked denoiser's, and this net is none"):
        AutoregressiveModule(V, NET, init_from=str(path))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"broken.safetensors: this file is no safetensors file, or a damaged one"):
        DenoiserModule(V, NET, init_from=str(broken))
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors: these are weights of something else \(weight\)"):
        DenoiserModule(V, NET, init_from=str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(tmp_path: Path, trained: DenoiserModule, dtype: torch.dtype) -> None:
    save_file({name: value.to(dtype) for name, value in state_of(trained).items()}, tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match=r"init_from=.*: its \S+ is of type torch.*quantised weights mean nothing"):
        DenoiserModule(V, NET, init_from=str(tmp_path / "small.safetensors"))


def test_what_cannot_be_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: DenoiserModule) -> None:
    causal = checkpoint(AutoregressiveModule(V, NET), tmp_path / "causal.ckpt")
    for args, message in (
        ([causal, tmp_path / "x.safetensors"], "the published layout is that of a masked denoiser; this is none"),
        ([tmp_path / "none.ckpt", tmp_path / "x.safetensors"], "none.ckpt: no such file"),
        ([causal, tmp_path / "x.pth"], "the weights are a .safetensors file; name it so"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["export", *map(str, args)])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()
    (folder := tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(OSError, match=r"folder\.safetensors: "):
        export_denoiser(checkpoint(trained, tmp_path / "trained.ckpt"), folder)
    with pytest.raises(OSError, match=r"folder\.safetensors: "):
        trained.save_weights(folder)
    with pytest.raises(OSError, match=r"folder\.safetensors: "):
        OrderModule(V, NET, denoiser="joint", selector=FROM_CONFIDENCE).save_order(folder)
