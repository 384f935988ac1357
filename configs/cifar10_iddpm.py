r"""CIFAR-10 by Improved DDPM (Nichol & Dhariwal 2021), L_hybrid: 52,546,438 parameters.

    python train.py --config configs/cifar10_iddpm.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights cifar10_uncond_50M_500K.pt \
        --model cifar10_iddpm --out runs/cifar10_iddpm
    python sample.py --workdir runs/cifar10_iddpm --num 50000

The second command makes a run of OpenAI's weights, instead of the first; the third draws.

Published, by 50,000 samples of all 4,000 steps: FID 3.19 and 3.17 bits per dimension; `--steps
100` draws nearly as well. These are of 500,000 steps of 128 images; we found no training time.

The setting is that of the README of openai/improved-diffusion: a learned variance with T/1000 of
the bound in the loss, the cosine schedule, t rescaled to 0..1000. Its code does not flip. DIR
holds TFDS's `cifar10` as ArrayRecord.

Not run by us: it needs a GPU. Tests build the network and read a record of this kind.
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
        data=DataConfig(name="tfds:cifar10", image_size=32, channels=3),
        model=ModelConfig(
            channels=128,
            channel_mult=(1, 2, 2, 2),
            num_res_blocks=3,
            attention_resolutions=(16, 8),
            num_heads=4,
            dropout=0.3,
            scale_shift_norm=True,
        ),
        diffusion=DiffusionConfig(
            timesteps=4000,
            schedule="cosine",
            rescale_timesteps=True,
            variance="learned_range",
            loss="rescaled_mse",
        ),
        train=TrainConfig(
            steps=500_000,
            batch_size=128,
            learning_rate=1e-4,
            gradient_clip_norm=0.0,
            ema_decay=0.9999,
            ema_warmup=False,
            checkpoint_every_steps=5000,
            sample_every_steps=10_000,
        ),
        sample=SampleConfig(sampler="ddpm", num=64, batch_size=64),
    )
