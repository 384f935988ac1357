r"""ImageNet from 128x128 to 512x512 by ADM-U (Dhariwal & Nichol 2021): 308,835,270 parameters.

    python train.py --config configs/upsampler_128_512_adm.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights 128_512_upsampler.pt \
        --model upsampler_128_512 --out runs/upsampler_128_512_adm
    python sample.py --workdir runs/imagenet128_adm --upsampler runs/upsampler_128_512_adm \
        --num 50000 --labels random

The second command makes a run of OpenAI's weights, instead of the first; the third draws.

Published, after imagenet128_adm.py: FID 9.96, sFID 5.62, IS 121.78, precision 0.75, recall 0.64;
after the same guided, in 250 and 250 steps: FID 3.85, sFID 5.86, IS 221.7, precision 0.84, recall
0.53; in 250 and then 25 steps of DDIM: FID 4.11, sFID 9.57, IS 219.3, precision 0.83, recall
0.55; in 25 and 25: FID 5.96, sFID 12.10, IS 187.9, precision 0.81, recall 0.54. This stage itself
is never guided.

1,050,000 steps of 256 images: some 1,353 V100-days at the paper's 2.3 images a V100-second (our
division); 1,914 for both stages and their classifier. `--train.grad-accumulation-steps N`
computes a batch in N parts. It computes in bfloat16, the original in float16, both with float32
parameters.

The paper's table lets it attend at 8 pixels too; its last level has 16, so that this makes no
difference. It enlarges the mean of each 4x4 pixels of its training images. DIR holds TFDS's
`imagenet2012` as ArrayRecord, whose archive you fetch by hand, as TFDS explains; its labels go by
WordNet id, as OpenAI's do. `--data.name folder:PATH --data.labels names` reads a folder prepared
for the original code.

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
            name="tfds:imagenet2012", image_size=512, channels=3, flip=True, low_res_size=128
        ),
        model=ModelConfig(
            channels=192,
            channel_mult=(1, 1, 2, 2, 4, 4),
            num_res_blocks=2,
            attention_resolutions=(32, 16),
            num_head_channels=64,
            num_classes=1000,
            scale_shift_norm=True,
            resblock_updown=True,
            dtype="bfloat16",
        ),
        diffusion=DiffusionConfig(
            timesteps=1000, schedule="linear", variance="learned_range", loss="mse"
        ),
        train=TrainConfig(
            steps=1_050_000,
            batch_size=256,
            learning_rate=1e-4,
            gradient_clip_norm=0.0,
            ema_decay=0.9999,
            ema_warmup=False,
            checkpoint_every_steps=5000,
            sample_every_steps=10_000,
        ),
        sample=SampleConfig(sampler="ddpm", steps="250", num=8, batch_size=8),
    )
