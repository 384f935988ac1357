"""A run folder: its config, its lock, and whether it holds another run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddpm_jax.config import Config, resuming, serialization
from ddpm_jax.diffusion.process import VARIANCES
from ddpm_jax.errors import UserError
from ddpm_jax.runs import lock
from ddpm_jax.runs.saved_steps import only_imported
from ddpm_jax.runtime import processes
from ddpm_jax.runtime.files import replacing


@contextmanager
def run_folder(workdir: Path, config: Config) -> Iterator[None]:
    """A run folder that no other training may enter during the block; see `create_run_folder`.

    Raises:
      UserError: another training has it, it holds another run, or it cannot be written.
    """
    with lock.locked(workdir):
        processes.on_main_process(lambda: create_run_folder(workdir, config))
        yield


def create_run_folder(workdir: Path, config: Config) -> None:
    """Writes the config into a new run folder; raises UserError if it holds another run.

    A folder of imported weights takes any config of the same network, until training saves its
    first checkpoint there.
    """
    path = workdir / "config.json"
    if path.exists():
        old = serialization.read_config(path)
        changed = resuming.differences(config, old)
        notices = resuming.consequences(config, old)
        wanted = f"give the settings it was started with; {resuming.ways_out(str(workdir), old)}"
        if only_imported(workdir / "checkpoints"):
            changed, notices = network_differences(config, old), []
            wanted = "import its weights anew with --model CONFIG"
        if changed:
            raise UserError(
                f"{workdir} holds a run of another config ({', '.join(changed)}): choose another "
                f"--workdir, or {wanted}"
            )
        for line in notices:
            print(line)
    try:
        with replacing(path) as temporary:
            temporary.write_text(serialization.to_json(config))
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error.strerror}") from error


def network_differences(new: Config, old: Config) -> list[str]:
    """A phrase for each setting of `new` that weights imported under `old` do not fit."""
    learned = [VARIANCES[config.diffusion.variance].learned for config in (new, old)]
    free = {"model.dropout", "model.dtype", "model.remat"}
    fixed = {"data.image_size", "data.channels", "data.low_res_size"}
    fixed |= {"diffusion.variance"} if learned[0] != learned[1] else set()
    names = {phrase: phrase.split()[0] for phrase in resuming.differences(new, old)}
    return [
        phrase
        for phrase, name in names.items()
        if name in fixed or (name.startswith("model.") and name not in free)
    ]
