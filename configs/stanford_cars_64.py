"""Stanford Cars at 64x64: training and test images together, 16,185 of them, with flips.

    python train.py --config configs/stanford_cars_64.py --data.dir DIR --model.dtype bfloat16

Ours: no paper's settings, but a set that tutorials like. DIR holds TFDS's `cars196` as
ArrayRecord. Not run by us, so no result to expect yet: it needs the data and a GPU. Tests build
the network and read a record of this kind.
"""

from ddpm_jax.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    SampleConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=DataConfig(
            name="tfds:cars196", split="train+test", image_size=64, channels=3, flip=True
        ),
        model=ModelConfig(
            channels=128,
            channel_mult=(1, 2, 2, 2),
            num_res_blocks=2,
            attention_resolutions=(16,),
            num_head_channels=64,
            dropout=0.1,
            scale_shift_norm=True,
        ),
        diffusion=DiffusionConfig(timesteps=1000, schedule="cosine"),
        train=TrainConfig(
            steps=200_000,
            batch_size=128,
            learning_rate=2e-4,
            warmup_steps=5000,
            checkpoint_every_steps=5000,
            sample_every_steps=5000,
        ),
        sample=SampleConfig(sampler="ddim", steps="100", num=64, batch_size=64),
    )
