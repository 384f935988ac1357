r"""Your own folder of images, at 64x64 in colour, with its classes if it has some.

    python train.py --config configs/folder.py --data.name folder:PATH

On one large GPU a wider network: 92 million parameters, and batches of 128 in bfloat16:

    python train.py --config configs/folder.py --data.name folder:PATH --model.channels 128 \
        --model.num-res-blocks 2 --train.batch-size 128 --model.dtype bfloat16

On a CPU a small one, of 1.2 million parameters at 32x32, a twentieth of the work per image:

    python train.py --config configs/folder.py --data.name folder:PATH --data.image-size 32 \
        --model.channels 32 --model.channel-mult 1 2 2 --model.norm-groups 8 \
        --model.attention-resolutions 16 --model.num-head-channels 32

PATH holds PNG, JPEG or WebP files of any size; a few thousand are a good start. If each lies in a
sub-folder, the sub-folders are the classes and the model learns them; else it is unconditional.
Images are mirrored at random: `--data.flip False` for text and the like. `--data.held-out 5%`
keeps some for validation, which shows when the model begins to memorise.

Ours, sized for a laptop: 15,766,851 parameters, and 256 more for each class. By XLA's count, which
`--dry-run` prints, an image takes 30 GFLOP in training, so 50,000 steps of 32 images take 49
PFLOP: some three hours on a GPU that sustains 5 TFLOP/s. Two CPU devices need 1.9 GB each. Not
trained to its end by us, so no result to expect yet. Tests build the network and read such a
folder.
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
