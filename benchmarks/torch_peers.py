"""The same steps in PyTorch, with diffusers' U-Net or with the one in torch_adm.py, for run.py.

Written as for speed: channels_last, fused Adam, averages by foreach, nothing copied to the host.
"torch_compiled" adds torch.compile; a dtype of bfloat16, autocast.
"""

import copy
import os
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import cases, torch_adm
from benchmarks.cases import Measured, Work
from benchmarks.torch_diffusion import Tables, losses, reverse_step
from ddpm_jax.config import Config, build_diffusion
from ddpm_jax.models import build_network


def build(work: Work, kind: str) -> Measured:
    """The peer "diffusers", "torch_adm" or "torch_compiled"."""
    device = torch.device("cuda" if work.device == "gpu" else "cpu")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = cases.load(work.case).model
    network = (_Diffusers if kind == "diffusers" else _adm)(config)
    network.to(device, memory_format=torch.channels_last)
    make = _train_step if work.step == "train_step" else _sample_step
    measured = make(work, config, network, device, kind == "torch_compiled")
    count = sum(parameter.numel() for parameter in network.parameters())
    peak = torch.cuda.max_memory_allocated if work.device == "gpu" else lambda: None
    return measured._replace(parameters=count, peak_bytes=peak)


def _weights(config: Config) -> dict[str, np.ndarray]:
    return cases.network_weights(build_network(config))


def _adm(config: Config) -> nn.Module:
    network = torch_adm.build(config)
    torch_adm.load(network, _weights(config))
    return network


class _Diffusers(nn.Module):
    """A UNet2DModel that is called as ours is."""

    def __init__(self, config: Config):
        from diffusers import UNet2DModel

        from ddpm_jax.interop.diffusers import exported
        from ddpm_jax.interop.diffusers_settings import unet_settings

        super().__init__()
        self.unet = UNet2DModel.from_config(unet_settings(config))
        weights = exported(_weights(config), config.model)
        shapes = {name: parameter.shape for name, parameter in self.unet.named_parameters()}
        state = {name: torch.from_numpy(array).view(shapes[name]) for name, array in weights}
        self.unet.load_state_dict(state)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        told = labels if self.unet.config.num_class_embeds else None
        return self.unet(x, t, told, return_dict=False)[0].float()


def _examples(config: Config, work: Work, device: torch.device) -> dict[str, Tensor]:
    """Those of `cases.examples`, images as [B, C, H, W]."""

    def tensor(array: np.ndarray) -> Tensor:
        if array.ndim < 4:
            return torch.from_numpy(array).long().to(device)
        moved = torch.from_numpy(array).permute(0, 3, 1, 2)
        return moved.to(device, memory_format=torch.channels_last)

    return {name: tensor(a) for name, a in cases.examples(config, work.batch_size).items()}


def _autocast(work: Work, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=work.dtype == "bfloat16")


def _train_step(
    work: Work, config: Config, network: nn.Module, device: torch.device, compiled: bool
) -> Measured:
    train, tables = config.train, Tables(build_diffusion(config.diffusion), device)
    average = [parameter.detach().clone() for parameter in network.parameters()]
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(
        parameters,
        train.learning_rate,
        (train.adam_b1, train.adam_b2),
        weight_decay=train.weight_decay,
        fused=True,
    )
    examples = _examples(config, work, device)
    forward = torch.compile(network) if compiled else network

    def gradient(forward: nn.Module, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        x = examples["x"].float() / 127.5 - 1
        with _autocast(work, device):
            output = forward(tables.q_sample(x, t, noise), t, examples["label"])
        loss = losses(tables, output, x, t, noise).mean()
        loss.backward()
        grads = [parameter.grad for parameter in parameters]
        return loss.detach(), torch.nn.utils.get_total_norm(grads)

    def run() -> None:
        network.train()
        for _ in range(work.count):
            t = torch.randint(tables.num_timesteps, (work.batch_size,), device=device)
            noise = torch.randn_like(examples["noise"])
            optimizer.zero_grad(set_to_none=True)
            _, norm = gradient(forward, t, noise)
            if train.gradient_clip_norm:
                nn.utils.clip_grads_with_norm_(parameters, train.gradient_clip_norm, norm)
            optimizer.step()
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - train.ema_decay)
        _wait(device)

    def check() -> Mapping[str, np.ndarray]:
        same = copy.deepcopy(network.state_dict())
        fresh = network.eval()  # no dropout
        loss, norm = gradient(fresh, examples["t"], examples["noise"])
        assert all(torch.equal(same[name], value) for name, value in fresh.state_dict().items())
        return {"loss": loss.cpu().numpy(), "grad_norm": norm.cpu().numpy()}

    return Measured(run, check)


def _sample_step(
    work: Work, config: Config, network: nn.Module, device: torch.device, compiled: bool
) -> Measured:
    network.eval().requires_grad_(False)
    tables = Tables(build_diffusion(config.diffusion, str(work.count)), device)
    examples = _examples(config, work, device)
    labels, guided = examples["label"], work.step == "guided_step"
    forward = torch.compile(network) if compiled else network
    judge = _adm(cases.load(work.case).classifier).eval().requires_grad_(False)
    judge.to(device, memory_format=torch.channels_last)
    classify = torch.compile(judge) if compiled else judge

    def guidance_gradient(x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            with _autocast(work, device):
                logits = classify(x, t)
            chosen = F.log_softmax(logits, dim=-1)[range(len(x)), labels]
            return torch.autograd.grad(chosen.sum(), x)[0]

    def evaluate(x: Tensor, t: Tensor) -> Tensor:
        with _autocast(work, device):
            return forward(x, t, labels)

    @torch.no_grad()
    def run() -> None:
        x = torch.randn_like(examples["noise"])
        for i in reversed(range(tables.num_timesteps)):
            told = torch.full((len(x),), tables.timestep_map[i], device=device)
            gradient = guidance_gradient(x, told) if guided else None
            x = reverse_step(tables, evaluate(x, told), x, i, gradient)
        x.cpu()

    @torch.no_grad()
    def check() -> Mapping[str, np.ndarray]:
        x, t = examples["noise"], examples["t"]
        found = {"output": evaluate(x, t)} | (
            {"gradient": guidance_gradient(x, t)} if guided else {}
        )
        return {name: value.permute(0, 2, 3, 1).cpu().numpy() for name, value in found.items()}

    return Measured(run, check)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
