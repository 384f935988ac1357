"""Points of the plane on scikit-learn's S curve: 10,000 of them, within 0.2 of the origin.

    python train.py --config configs/s_curve.py
    python sample.py --workdir runs/s_curve --num 2000 --frames 100

A minute and a half on two CPU cores; the samples are then as near to real points as real points
are to each other, by the energy distance (docs/s_curve.md). The second command draws the forward
and the reverse process as rows of panels and as GIFs. The data are a tenth of the usual size, so
the betas start small (1e-5) and rise as a sigmoid; they end higher than the usual 5e-3, so that
1,000 steps end in noise.
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
        data=DataConfig(name="s_curve"),
        model=ModelConfig(kind="mlp", channels=128, num_res_blocks=5),
        diffusion=DiffusionConfig(
            schedule="sigmoid", beta_end=0.015, timestep_sampler="antithetic"
        ),
        train=TrainConfig(
            steps=5000,
            batch_size=512,
            learning_rate=2e-3,
            learning_rate_decay="cosine",
            warmup_steps=100,
            ema_decay=0.999,
            checkpoint_every_steps=1000,
            sample_every_steps=1000,
        ),
        sample=SampleConfig(clip=False, num=2000, batch_size=2000),
    )
