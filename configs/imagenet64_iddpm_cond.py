r"""ImageNet at 64x64 with labels by Improved DDPM (Nichol & Dhariwal 2021): 273,049,350 parameters.

    python train.py --config configs/imagenet64_iddpm_cond.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights imagenet64_cond_270M_250K.pt \
        --model imagenet64_iddpm_cond --out runs/imagenet64_iddpm_cond
    python sample.py --workdir runs/imagenet64_iddpm_cond --num 50000 --labels random

The second command makes a run of OpenAI's weights, instead of the first; the third draws.

Published, of 250 steps, by ADM's evaluator: FID 2.92, sFID 3.79, precision 0.74, recall 0.62,
after 250,000 steps of 2,048 images; we found no training time. `--train.grad-accumulation-steps
N` computes a batch in N parts.

DIR holds TFDS's `imagenet2012` as ArrayRecord, whose archive you fetch by hand, as TFDS explains;
its labels go by WordNet id, as OpenAI's do. `--data.name folder:PATH --data.labels names` reads a
folder prepared for the original code. The original code does not flip.

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
        data=DataConfig(name="tfds:imagenet2012", image_size=64, channels=3),
        model=ModelConfig(
            channels=192,
            channel_mult=(1, 2, 3, 4),
            num_res_blocks=3,
            attention_resolutions=(16, 8),
            num_heads=4,
            num_classes=1000,
            scale_shift_norm=True,
        ),
        diffusion=DiffusionConfig(
            timesteps=4000, schedule="cosine", variance="learned_range", loss="mse"
        ),
        train=TrainConfig(
            steps=250_000,
            batch_size=2048,
            learning_rate=3e-4,
            gradient_clip_norm=0.0,
            ema_decay=0.9999,
            ema_warmup=False,
            checkpoint_every_steps=5000,
            sample_every_steps=10_000,
        ),
        sample=SampleConfig(sampler="ddpm", steps="250", num=64, batch_size=64),
    )
