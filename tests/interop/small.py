"""Small networks with random weights, as other projects keep them, and the commands in-process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ddpm_jax.config import Config
from ddpm_jax.interop import export_weights, import_weights
from ddpm_jax.interop.openai import torch_shapes
from ddpm_jax.models import build_network
from ddpm_jax.runtime.script import run_script

# ADM in little: what its code allows, so norms of 32 groups.
SMALL = """
from ddpm_jax.config import Config, DataConfig, DiffusionConfig, ModelConfig, SampleConfig

def get_config():
    return Config(
        data=DataConfig("digits", image_size=8, channels=1),
        model=ModelConfig(
            channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(4,),
            num_head_channels=32, num_classes=10, scale_shift_norm=True, resblock_updown=True,
        ),
        diffusion=DiffusionConfig(timesteps=20, schedule="cosine", variance="learned_range"),
        sample=SampleConfig(steps="5", num=4, batch_size=4),
    )
"""
# Of one level: made and compiled in half the time.
TINY = SMALL.replace("channel_mult=(1, 2)", "channel_mult=(1,)").replace("=(4,)", "=()")


def config_of(text: str) -> Config:
    """What the config file of this text gives."""
    names: dict = {}
    exec(text, names)
    return names["get_config"]()


def state_dict(config: Config, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under OpenAI's names."""
    pool = config.model.pool if config.model.kind == "classifier" else None
    shapes = torch_shapes(build_network(config).abstract, pool)
    return {name: normal(shape, seed + i) for i, (name, shape) in enumerate(shapes.items())}


def normal(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def command(
    main: Callable[[], None], options: list, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a script's main function, without starting a process."""
    before, sys.argv = sys.argv, ["script.py", *map(str, options)]
    capsys.readouterr()
    try:
        run_script(main)
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    return code, *capsys.readouterr()


def import_run(file: Path, out: Path, capsys: pytest.CaptureFixture[str], model: str = "") -> str:
    """What `import_weights` prints; it must succeed."""
    options = [file, "--out", out, *(["--model", model] if model else [])]
    code, stdout, stderr = command(import_weights.main, options, capsys)
    assert (code, stderr) == (0, "")
    return stdout


def export_run(workdir: Path, to: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--workdir", workdir, "--to", to]
    code, _, stderr = command(export_weights.main, options, capsys)
    assert (code, stderr) == (0, "")


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name].view(torch.int32), b[name].view(torch.int32)) for name in a
    )
