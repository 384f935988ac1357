r"""ImageNet at 256x256 by ADM (Dhariwal & Nichol 2021), with labels: 553,838,086 parameters.

    python train.py --config configs/imagenet256_adm.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights 256x256_diffusion.pt \
        --model imagenet256 --out runs/imagenet256_adm
    python sample.py --workdir runs/imagenet256_adm --num 50000 --labels random

The second command makes a run of OpenAI's weights, instead of the first; the third draws.

Published, of 250 steps: FID 10.94, sFID 6.02, IS 100.98, precision 0.69, recall 0.63. Guided by
imagenet256_classifier.py at scale 1.0: FID 4.59, sFID 5.25, IS 186.7, precision 0.82, recall
0.52, and on the way there FID 12.21 after 250,000 steps, 7.95 after 500,000, 5.74 after 1 M, 5.01
after 1.5 M; at 10.0: FID 9.11, sFID 10.93, IS 283.9, precision 0.88, recall 0.32. 25 steps of
DDIM (`--sampler ddim --steps ddim25`) at 2.5: FID 5.44, sFID 5.32, precision 0.81, recall 0.49.

1,980,000 steps of 256 images: 916 V100-days. `--train.grad-accumulation-steps N` computes a batch
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
        data=DataConfig(name="tfds:imagenet2012", image_size=256, channels=3, flip=True),
        model=ModelConfig(
            channels=256,
            channel_mult=(1, 1, 2, 2, 4, 4),
            num_res_blocks=2,
            attention_resolutions=(32, 16, 8),
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
            steps=1_980_000,
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
