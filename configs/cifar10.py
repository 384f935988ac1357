"""CIFAR-10 by DDPM (Ho et al. 2020, appendix B): 35,746,307 parameters.

    python train.py --config configs/cifar10.py --data.dir DIR

The paper reaches FID 3.17 against the training set, IS 9.46 and at most 3.75 bits per dimension
with 50,000 samples of the 1,000-step chain, after 800,000 steps: 10.6 hours on a TPU v3-8 at
2,688 images a second. DIR holds TFDS's `cifar10` as ArrayRecord.

The network is DDPM's to the detail: sines before cosines in the embedding, padding after the last
pixel at stride 2, group norm's epsilon 1e-6. Its training differs in two: there each TPU core clips
the gradient of its own 16 images, here that of all 128 is clipped; and here the average of the
weights warms up, so that short runs have one (`--train.ema-warmup False`: none).

Two CPU cores only smoke-test it (`--train.sample-every-steps 0`: a grid takes the full net
hours). `--model.channels 32 --train.batch-size 32 --train.steps 3000` shows colour and shape on
them in under an hour (docs/cifar10.md).
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
        data=DataConfig(name="tfds:cifar10", image_size=32, channels=3, flip=True),
        model=ModelConfig(
            channels=128,
            channel_mult=(1, 2, 2, 2),
            num_res_blocks=2,
            attention_resolutions=(16,),
            num_heads=1,
            dropout=0.1,
            norm_epsilon=1e-6,
            downsample_padding="after",
            timestep_embedding="sin_cos",
        ),
        diffusion=DiffusionConfig(timesteps=1000, schedule="linear", variance="fixed_large"),
        train=TrainConfig(
            steps=800_000,
            batch_size=128,
            learning_rate=2e-4,
            warmup_steps=5000,
            gradient_clip_norm=1.0,
            ema_decay=0.9999,
            checkpoint_every_steps=5000,
            sample_every_steps=10_000,
        ),
        sample=SampleConfig(sampler="ddpm", num=64, batch_size=64),
    )
