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
    weights_item: str = "ema",
    step: int | None = None,
) -> checkpoints.Loaded:
    """A run's averaged weights, or others of its checkpoints, on every device of the mesh.

    The result has them as its item "ema", whichever `weights_item` of the checkpoint they are.
    Without a `step`, the best checkpoint is read, or the newest. Raises UserError.
    """
    abstract = devices.replicated_abstract(network.abstract, mesh)
    return checkpoints.load_ema(workdir / "checkpoints", abstract, step, weights_item)


def weights_item(config: Config, ema: float | None) -> str:
    """The name, in a run's checkpoints, of the weights averaged at the rate `ema`.

    0 means the weights that are trained, without any average; None the rate `train.ema_decay`.
    Raises UserError.
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
        f"ema={ema}: the run keeps weights averaged at {rates}, and 0, those that are trained"
    )
