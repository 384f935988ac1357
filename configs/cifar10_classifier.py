"""A classifier of noisy CIFAR-10 images, to guide models of `cifar10.py`: 1,216,970 parameters.

    python train.py --config configs/cifar10_classifier.py --data.dir DIR

Small enough for a CPU: 3,000 steps at 300 images a second, 21 minutes on two idle cores. It then
knows 61 % of the test images in the first quarter of t, 47 % in the second, 25 % in the third and
12 % in the last, where hardly anything is left to see. DIR holds TFDS's `cifar10` as ArrayRecord.

    python sample.py --workdir runs/cifar10 --classifier runs/cifar10_classifier \\
        --guidance-scale 0,1,4

On a GPU a larger one would see more: `--model.channels 64 --model.num-res-blocks 2 --model.dropout
0.1 --train.steps 50000 --train.early-stop-validations 5`, not run by us. docs/guidance.md shows
what this one does.
"""

from ddpm_jax.config import Config, DataConfig, DiffusionConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            name="tfds:cifar10",
            image_size=32,
            channels=3,
            flip=True,
            random_crop=True,
            held_out="test",
        ),
        model=ModelConfig(
            kind="classifier",
            channels=16,
            channel_mult=(1, 2, 4, 8),
            num_res_blocks=1,
            attention_resolutions=(8,),
            num_head_channels=32,
            num_classes=10,
            scale_shift_norm=True,
            resblock_updown=True,
            norm_groups=8,
        ),
        diffusion=DiffusionConfig(timesteps=1000, schedule="linear"),
        train=TrainConfig(
            steps=3000,
            batch_size=128,
            learning_rate=1e-3,
            learning_rate_decay="linear",
            warmup_steps=100,
            weight_decay=0.05,
            gradient_clip_norm=0.0,
            ema_decay=0.0,
            checkpoint_every_steps=500,
            log_every_steps=50,
            validate_every_steps=500,
        ),
    )
