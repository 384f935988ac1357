"""Digits of 8x8 pixels without their labels: what a classifier can then guide.

    python train.py --config configs/digits_unconditional.py

As `digits.py`, but the model is never told which digit it draws. Under three minutes on two CPU
cores.
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
        data=DataConfig(name="digits", image_size=8, channels=1),
        model=ModelConfig(
            channels=32,
            channel_mult=(1, 2),
            num_res_blocks=1,
            attention_resolutions=(),
            scale_shift_norm=True,
            norm_groups=8,
        ),
        diffusion=DiffusionConfig(schedule="cosine"),
        train=TrainConfig(
            steps=3600,
            batch_size=32,
            learning_rate=2e-3,
            learning_rate_decay="cosine",
            warmup_steps=100,
            ema_decay=0.995,
            checkpoint_every_steps=600,
            sample_every_steps=600,
        ),
        sample=SampleConfig(sampler="ddim", steps="50", num=100, batch_size=100),
    )
