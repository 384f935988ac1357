r"""CIFAR-10 by Improved DDPM (Nichol & Dhariwal 2021), L_vlb: 52,546,438 parameters.

    python train.py --config configs/cifar10_iddpm_vlb.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights cifar10_uncond_vlb_50M_500K.pt \
        --model cifar10_iddpm_vlb --out runs/cifar10_iddpm_vlb
    python sample.py --workdir runs/cifar10_iddpm_vlb --num 50000

The second command makes a run of OpenAI's weights, instead of the first; the third draws.

For likelihood: published are 2.94 bits per dimension, with FID 11.47 by 50,000 samples of all
4,000 steps, after 500,000 steps of 128 images; we found no training time.

As cifar10_iddpm.py but for the loss, the whole bound, and for t, drawn more often where that loss
is large. DIR holds TFDS's `cifar10` as ArrayRecord.

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
            loss="rescaled_kl",
            timestep_sampler="loss_second_moment",
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
