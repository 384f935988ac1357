r"""ImageNet from 64x64 to 256x256 by ADM-U (Dhariwal & Nichol 2021): 311,795,910 parameters.

    python train.py --config configs/upsampler_64_256_adm.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights 64_256_upsampler.pt \
        --model upsampler_64_256 --out runs/upsampler_64_256_adm
    python sample.py --workdir runs/imagenet64_adm --upsampler runs/upsampler_64_256_adm \
        --num 50000 --labels random

The second command makes a run of OpenAI's weights, instead of the first; the third draws.

Published, after imagenet64_adm.py: FID 7.49, sFID 5.13, IS 127.49, precision 0.72, recall 0.63;
after the same guided by imagenet64_classifier.py: FID 3.94, sFID 6.14, IS 215.84, precision 0.83,
recall 0.53. This stage itself is never guided. Our notes do not say in how many steps it draws;
250 are the README's.

500,000 steps of 256 images: some 156 V100-days at the paper's 9.5 images a V100-second (our
division). `--train.grad-accumulation-steps N` computes a batch in N parts. It computes in
bfloat16, the original in float16, both with float32 parameters.

It enlarges the mean of each 4x4 pixels of its training images. DIR holds TFDS's `imagenet2012` as
ArrayRecord, whose archive you fetch by hand, as TFDS explains; its labels go by WordNet id, as
OpenAI's do. `--data.name folder:PATH --data.labels names` reads a folder prepared for the
original code.

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
        data=DataConfig(
            name="tfds:imagenet2012", image_size=256, channels=3, flip=True, low_res_size=64
        ),
        model=ModelConfig(
            channels=192,
            channel_mult=(1, 1, 2, 2, 4, 4),
            num_res_blocks=2,
            attention_resolutions=(32, 16, 8),
            num_heads=4,
            num_classes=1000,
            scale_shift_norm=True,
            resblock_updown=True,
            dtype="bfloat16",
        ),
        diffusion=DiffusionConfig(
            timesteps=1000, schedule="linear", variance="learned_range", loss="mse"
        ),
        train=TrainConfig(
            steps=500_000,
            batch_size=256,
            learning_rate=1e-4,
            gradient_clip_norm=0.0,
            ema_decay=0.9999,
            ema_warmup=False,
            checkpoint_every_steps=5000,
            sample_every_steps=10_000,
        ),
        sample=SampleConfig(sampler="ddpm", steps="250", num=16, batch_size=16),
    )
