"""MNIST at its own 28x28 pixels, class-conditional.

    python train.py --config configs/mnist.py --data.dir DIR

Ours: no paper's settings. DIR holds TFDS's `mnist` as ArrayRecord; without it, it is prepared
once (the extra `prepare`). For one GPU; on two CPU cores it is slow, and `digits.py` shows the
same. Not run by us to its end: no result to expect yet. Tests build the network and read a record
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
        data=DataConfig(name="tfds:mnist", image_size=28, channels=1),
        model=ModelConfig(
            channels=64,
            channel_mult=(1, 2, 2),
            num_res_blocks=2,
            attention_resolutions=(14,),
            num_head_channels=32,
            num_classes=10,
            dropout=0.1,
            scale_shift_norm=True,
        ),
        diffusion=DiffusionConfig(schedule="cosine", label_dropout=0.1),
        train=TrainConfig(steps=30_000, learning_rate=4e-4, warmup_steps=1000, ema_decay=0.999),
        sample=SampleConfig(sampler="ddim", steps="100", num=100, batch_size=100),
    )
