"""CelebA at 32x32, as in the annotated DDPM of labml.ai (experiment.py).

    python train.py --config configs/celeba_32.py --data.dir DIR

The multiples there are cumulative, so 64 channels become 64, 128, 256, 1024; attention on the
last level alone; 100 epochs of 162,770 images in batches of 64. Where the original squeezes
images and keeps no average of the weights, we crop them and do. DIR holds TFDS's `celeb_a` as
ArrayRecord. Not run by us: it needs the data and a GPU. Tests build the network and read a record
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
        data=DataConfig(name="tfds:celeb_a", image_size=32, channels=3),
        model=ModelConfig(
            channels=64,
            channel_mult=(1, 2, 4, 16),
            num_res_blocks=2,
            attention_resolutions=(4,),
            num_heads=1,
            dropout=0.1,
        ),
        diffusion=DiffusionConfig(timesteps=1000, schedule="linear", variance="fixed_large"),
        train=TrainConfig(
            steps=254_000,
            batch_size=64,
            learning_rate=2e-5,
            gradient_clip_norm=0.0,
            checkpoint_every_steps=5000,
            sample_every_steps=5000,
        ),
        sample=SampleConfig(sampler="ddpm", num=16, batch_size=16),
    )
