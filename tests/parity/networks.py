"""The networks of the reference runs: their settings and weights as ours."""

from functools import cache

from ddpm_jax.config import Config, DataConfig, DiffusionConfig, ModelConfig
from ddpm_jax.interop.openai import import_state_dict
from ddpm_jax.models import Network, Params, build_network, count_parameters
from tests.parity.golden import FOLDER, GoldenFile, load

KINDS = {"UNetModel": "unet", "SuperResModel": "unet", "EncoderUNetModel": "classifier"}
NETWORKS = [
    path.name
    for path in sorted(FOLDER.glob("*.npz"))
    if load(path.name).meta.get("cls") in KINDS and load(path.name).keys("w/")
]


def model_config(cls: str, kwargs: dict) -> ModelConfig:
    """Our settings of the original's class `cls`, made with `kwargs`; theirs are the defaults."""
    classes = kwargs["out_channels"] if cls == "EncoderUNetModel" else kwargs.get("num_classes")
    return ModelConfig(
        kind=KINDS[cls],
        channels=kwargs["model_channels"],
        channel_mult=tuple(kwargs.get("channel_mult", (1, 2, 4, 8))),
        num_res_blocks=kwargs["num_res_blocks"],
        # Theirs are factors of downsampling, ours the sides that they lead to.
        attention_resolutions=tuple(
            kwargs["image_size"] // factor for factor in kwargs["attention_resolutions"]
        ),
        num_heads=kwargs.get("num_heads", 1),
        num_heads_upsample=max(kwargs.get("num_heads_upsample", -1), 0),
        num_head_channels=max(kwargs.get("num_head_channels", -1), 0),
        num_classes=classes or 0,
        dropout=kwargs.get("dropout", 0),
        scale_shift_norm=kwargs.get("use_scale_shift_norm", False),
        resblock_updown=kwargs.get("resblock_updown", False),
        resample_with_conv=kwargs.get("conv_resample", True),
        attention_order="new" if kwargs.get("use_new_attention_order") else "legacy",
        pool=kwargs.get("pool", "adaptive"),
        remat=kwargs.get("use_checkpoint", False),
    )


def config_of(file: GoldenFile) -> Config:
    """The settings of the network of a file, which `meta` gives as the original's."""
    cls, kwargs = file.meta["cls"], file.meta["config"]
    low_res = cls == "SuperResModel"
    learned = cls != "EncoderUNetModel" and kwargs["out_channels"] == 2 * kwargs["in_channels"]
    return Config(
        data=DataConfig(
            image_size=kwargs["image_size"],
            channels=kwargs["in_channels"],
            low_res_size=file.array("in/A_low_res").shape[-1] if low_res else 0,
        ),
        model=model_config(cls, kwargs),
        diffusion=DiffusionConfig(variance="learned_range" if learned else "fixed_small"),
    )


@cache
def network_of(filename: str) -> tuple[Network, Params, Config]:
    """The network of a file, with its weights."""
    file = load(filename)
    config = config_of(file)
    network = build_network(config)
    shapes = {name: tuple(shape) for name, shape in file.meta["state_dict"].items()}
    pool = config.model.pool if config.model.kind == "classifier" else None
    params = import_state_dict(shapes, lambda name: file.array(f"w/{name}"), network.abstract, pool)
    assert count_parameters(params) == file.meta["param_count"]
    return network, params, config
