r"""ImageNet from 64x64 to 256x256, Improved DDPM (Nichol & Dhariwal 2021): 279,792,390 parameters.

    python train.py --config configs/upsampler_64_256_iddpm.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights upsample_cond_500K.pt \
        --model upsampler_64_256_iddpm --out runs/upsampler_64_256_iddpm
    python sample.py --workdir runs/imagenet64_iddpm_cond --upsampler runs/upsampler_64_256_iddpm \
        --num 50000 --labels random

The second command makes a run of OpenAI's weights, instead of the first; the third draws.

Published, after imagenet64_iddpm_cond.py and by ADM's evaluator: FID 12.26, sFID 5.42, precision
0.70, recall 0.62. The steps of this stage are not in our notes: 250 is the base's. 500,000 steps
of 256 images; we found no training time. `--train.grad-accumulation-steps N` computes a batch in
N parts.

It enlarges the mean of each 4x4 pixels of its training images. DIR holds TFDS's `imagenet2012` as
ArrayRecord, whose archive you fetch by hand, as TFDS explains; its labels go by WordNet id, as
OpenAI's do. `--data.name folder:PATH --data.labels names` reads a folder prepared for the
original code. The original code does not flip.

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
        data=DataConfig(name="tfds:imagenet2012", image_size=256, channels=3, low_res_size=64),
        model=ModelConfig(
            channels=192,
            channel_mult=(1, 1, 2, 2, 4, 4),
            num_res_blocks=2,
            attention_resolutions=(16, 8),
            num_heads=4,
            num_classes=1000,
            scale_shift_norm=True,
        ),
        diffusion=DiffusionConfig(
            timesteps=4000, schedule="linear", variance="learned_range", loss="mse"
        ),
        train=TrainConfig(
            steps=500_000,
            batch_size=256,
            learning_rate=3e-4,
            gradient_clip_norm=0.0,
            ema_decay=0.9999,
            ema_warmup=False,
            checkpoint_every_steps=5000,
            sample_every_steps=10_000,
        ),
        sample=SampleConfig(sampler="ddpm", steps="250", num=16, batch_size=16),
    )
