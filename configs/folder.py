"""A folder of images, at 64x64.

    python train.py --config configs/folder.py --data.name folder:PATH

Sub-folders are classes; their number is taken from the data, and without them the model is
unconditional. Labels are dropped in a tenth of the examples, so that `sample.py --cfg-scale 2`
works. 15.8 M parameters, 10 GFLOP for an evaluation of the network: a laptop's CPU does a step of
32 images in some ten seconds, enough to see that the data are read as they should be. On a GPU:

    ... --model.channels 128 --train.batch-size 128 --train.steps 200000 --model.dtype bfloat16

A few thousand images are enough for a start; with fewer, watch the loss on --data.held-out 10%.
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
        data=DataConfig(name="folder:PATH", image_size=64, channels=3, flip=True),
        model=ModelConfig(
            channels=64,
            channel_mult=(1, 2, 3, 4),
            num_res_blocks=1,
            attention_resolutions=(16, 8),
            num_head_channels=64,
            num_classes=-1,
            dropout=0.1,
            scale_shift_norm=True,
        ),
        diffusion=DiffusionConfig(schedule="cosine", label_dropout=0.1),
        train=TrainConfig(
            steps=50_000,
            batch_size=32,
            learning_rate=2e-4,
            warmup_steps=500,
            ema_decay=0.999,
            checkpoint_every_steps=1000,
            sample_every_steps=1000,
        ),
        sample=SampleConfig(sampler="ddim", steps="50", num=64, batch_size=64),
    )
