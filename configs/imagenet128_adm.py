r"""ImageNet at 128x128 by ADM (Dhariwal & Nichol 2021), with labels: 421,529,606 parameters.

    python train.py --config configs/imagenet128_adm.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights 128x128_diffusion.pt \
        --model imagenet128 --out runs/imagenet128_adm
    python sample.py --workdir runs/imagenet128_adm --num 50000 --labels random

The second command makes a run of OpenAI's weights, instead of the first; the third draws.

Published, of 250 steps: FID 5.91, sFID 5.09, precision 0.70, recall 0.65. Guided by
imagenet128_classifier.py at scale 0.5: FID 2.97, sFID 5.09, precision 0.78, recall 0.59; at 1.0:
FID 3.09, sFID 5.59, precision 0.82, recall 0.54, and on the way there FID 7.97 after 250,000
steps, 5.31 after 500,000, 4.10 after 1 M, 3.42 after 2 M. 25 steps of DDIM (`--sampler ddim
--steps ddim25`) at 1.25: FID 5.98, sFID 7.04, precision 0.78, recall 0.51.

4,360,000 steps of 256 images: 521 V100-days. `--train.grad-accumulation-steps N` computes a batch
in N parts. It computes in bfloat16, the original in float16, both with float32 parameters.

DIR holds TFDS's `imagenet2012` as ArrayRecord, whose archive you fetch by hand, as TFDS explains;
its labels go by WordNet id, as OpenAI's do. `--data.name folder:PATH --data.labels names` reads a
folder prepared for the original code.

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
        data=DataConfig(name="tfds:imagenet2012", image_size=128, channels=3, flip=True),
        model=ModelConfig(
            channels=256,
            channel_mult=(1, 1, 2, 3, 4),
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
            steps=4_360_000,
            batch_size=256,
            learning_rate=1e-4,
            gradient_clip_norm=0.0,
            ema_decay=0.9999,
            ema_warmup=False,
            checkpoint_every_steps=5000,
            sample_every_steps=10_000,
        ),
        sample=SampleConfig(sampler="ddpm", steps="250", num=32, batch_size=32),
    )
