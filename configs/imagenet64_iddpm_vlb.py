r"""ImageNet at 64x64 by Improved DDPM (Nichol & Dhariwal 2021), L_vlb: 121,063,942 parameters.

    python train.py --config configs/imagenet64_iddpm_vlb.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights imagenet64_uncond_vlb_100M_1500K.pt \
        --model imagenet64_iddpm_vlb --out runs/imagenet64_iddpm_vlb
    python sample.py --workdir runs/imagenet64_iddpm_vlb --num 50000

The second command makes a run of OpenAI's weights, instead of the first; the third draws.

For likelihood: published are 3.53 bits per dimension, with FID 40.1 of 4,000 steps, without
labels, after 1,500,000 steps of 128 images; we found no training time.

As imagenet64_iddpm.py but for the loss, the whole bound, and for t, drawn more often where that
loss is large.

DIR holds TFDS's `downsampled_imagenet/64x64` as ArrayRecord, the set of van den Oord et al.
(2016) that likelihoods are compared on; image-net.org may no longer serve it. `--data.name
tfds:imagenet2012` shrinks the whole images: another set. The original code does not flip.

Not run by us: it needs the data and many GPUs or a TPU. Tests build the network and read a record
of this kind.
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
        data=DataConfig(name="tfds:downsampled_imagenet/64x64", image_size=64, channels=3),
        model=ModelConfig(
            channels=128,
            channel_mult=(1, 2, 3, 4),
            num_res_blocks=3,
            attention_resolutions=(16, 8),
            num_heads=4,
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
            steps=1_500_000,
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
