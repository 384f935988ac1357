"""LSUN bedrooms at 256x256 by DDPM (Ho et al. 2020, appendix B): 113,673,219 parameters.

    python train.py --config configs/lsun_bedroom_256.py --data.dir DIR --model.dtype bfloat16

DIR holds TFDS's `lsun/bedroom` as ArrayRecord. The paper flips every LSUN set but this one. Its
FID is 6.36 (4.90 for a larger net of about 256 M parameters, 1.15 M steps).

The paper trains 2.4 M steps of 64 images at 2.2 steps a second on a TPU v3-8. The same network
reaches FID 7.89 on churches (`--data.name tfds:lsun/church_outdoor --data.flip True --train.steps
1200000`) and 19.75 on cats (`--data.name tfds:lsun/cat --train.steps 1800000`; with flips by the
paper, without by the header of its script). The network is DDPM's to the detail; for its training
see cifar10.py. Not run by us: it needs the data and a large GPU or a TPU. Tests build the network
and read a record of this kind.
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
        data=DataConfig(name="tfds:lsun/bedroom", image_size=256, channels=3, flip=False),
        model=ModelConfig(
            channels=128,
            channel_mult=(1, 1, 2, 2, 4, 4),
            num_res_blocks=2,
            attention_resolutions=(16,),
            num_heads=1,
            norm_epsilon=1e-6,
            downsample_padding="after",
            timestep_embedding="sin_cos",
        ),
        diffusion=DiffusionConfig(timesteps=1000, schedule="linear", variance="fixed_small"),
        train=TrainConfig(
            steps=2_400_000,
            batch_size=64,
            learning_rate=2e-5,
            warmup_steps=5000,
            gradient_clip_norm=1.0,
            ema_decay=0.9999,
            checkpoint_every_steps=5000,
            sample_every_steps=10_000,
        ),
        sample=SampleConfig(sampler="ddpm", num=16, batch_size=16),
    )
