"""The weights of a run, on the devices."""

from pathlib import Path

from jax.sharding import Mesh

from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.models import Network
from ddpm_jax.runs import checkpoints
from ddpm_jax.runtime import devices


def load_weights(
    workdir: Path,
    network: Network,
    mesh: Mesh,
    chosen: str = "ema",
    step: int | None = None,
) -> checkpoints.Loaded:
    """A run's averaged weights, item "ema", on every device of the mesh; raises UserError.

    `chosen`: which weights, by `weights_item`. `step`: of the checkpoint; None: the best or newest.
    """
    abstract = devices.replicated_abstract(network.abstract, mesh)
    return checkpoints.load_ema(workdir / "checkpoints", abstract, step, chosen)


def weights_item(config: Config, ema: float | None) -> str:
    """What checkpoints of a run call the weights averaged at the rate `ema`; raises UserError.

    0 are the weights that are trained, which follow no average; None is the run's `ema_decay`.
    """
    train = config.train
    if ema in (None, train.ema_decay):
        return "ema"
    if ema == 0:
        return checkpoints.TRAINED
    if ema in train.extra_ema_decays:
        return checkpoints.ema_item(ema)
    rates = ", ".join(map(str, (train.ema_decay, *train.extra_ema_decays)))
    raise UserError(
        f"--ema {ema}: the run keeps weights averaged at {rates}, and 0, those that are trained"
    )
