r"""LSUN bedrooms at 256x256 by Improved DDPM (Nichol & Dhariwal 2021): 113,676,678 parameters.

    python train.py --config configs/lsun_bedroom_iddpm.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights lsun_uncond_100M_1200K_bs128.pt \
        --model lsun_bedroom_iddpm --out runs/lsun_bedroom_iddpm
    python sample.py --workdir runs/lsun_bedroom_iddpm --num 50000

The second command makes a run of OpenAI's weights, instead of the first; the third draws.

We have no published figures to quote with certainty; ADM's paper, we believe, finds FID 4.24.
1,200,000 steps of 128 images; we found no training time. lsun_uncond_100M_2400K_bs64.pt is the
same network by `--train.learning-rate 2e-5 --train.batch-size 64 --train.steps 2400000` (the
README says batches of 128, the name 64).

DDPM's widths and single head, with a learned variance. The original code does not flip. DIR holds
TFDS's `lsun/bedroom` as ArrayRecord; `--data.name folder:PATH` reads any folder.

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
        data=DataConfig(name="tfds:lsun/bedroom", image_size=256, channels=3),
        model=ModelConfig(
            channels=128,
            channel_mult=(1, 1, 2, 2, 4, 4),
            num_res_blocks=2,
            attention_resolutions=(16,),
            num_heads=1,
        ),
        diffusion=DiffusionConfig(
            timesteps=1000, schedule="linear", variance="learned_range", loss="mse"
        ),
        train=TrainConfig(
            steps=1_200_000,
            batch_size=128,
            learning_rate=1e-4,
            gradient_clip_norm=0.0,
            ema_decay=0.9999,
            ema_warmup=False,
            checkpoint_every_steps=5000,
            sample_every_steps=10_000,
        ),
        sample=SampleConfig(sampler="ddpm", num=16, batch_size=16),
    )
