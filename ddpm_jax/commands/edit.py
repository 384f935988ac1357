"""Edits images by a trained run: as noise and back, between two, filled in, varied, on film.

    python edit.py invert --workdir runs/digits --images data --num 8 --steps 50,100,250
    python edit.py interpolate --workdir runs/digits --images 3.png 7.png --labels 3,7
    python edit.py inpaint --workdir runs/digits --images data --num 8 --half right
    python edit.py vary --workdir runs/digits --images data --num 8 --strength 0.3,0.5,0.7
    python edit.py film --workdir runs/digits --num 16

IMAGES are files, folders, a samples.npz, or "data": the first of the run's data set. They are
cropped and resized as in training. Labels are those of the images, or --labels; a model that was
trained without labels too needs none. Kill a command whenever you like: it goes on where it was.
`python edit.py COMMAND --help` has the options of one.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from ddpm_jax.commands.pretrained_runs import open_run, with_companions
from ddpm_jax.config import command_line, data_shape
from ddpm_jax.config.option_names import naming_options
from ddpm_jax.data.input_images import read_mask
from ddpm_jax.errors import UserError
from ddpm_jax.generation import GenerationOptions, Run, output_folder
from ddpm_jax.generation.edited_batch import EditedBatch
from ddpm_jax.generation.editing import METHODS, by_ancestral_sampling, by_ddim
from ddpm_jax.generation.film import PANEL_PIXELS, film_frames, save_film
from ddpm_jax.generation.options import as_floats
from ddpm_jax.generation.reconstruction import MEASURES, Measure, by_lpips
from ddpm_jax.interop.lpips_weights import find_lpips, read_lpips
from ddpm_jax.models.lpips import MIN_SIZE
from ddpm_jax.runs.partial_results import create_results_folder
from ddpm_jax.runtime import devices
from ddpm_jax.runtime.files import replacing
from ddpm_jax.runtime.script import start_logging
from ddpm_jax.sampling.resampling import Resampling
from ddpm_jax.visualization.grids import grid

NUM_FILMED = 16
INVERSIONS = "50", "100", "250"  # lengths of the chain

logger = logging.getLogger("ddpm_jax")


@dataclass(frozen=True)
class Common:
    """Options that every command has: the run, its chain and what guides it."""

    workdir: Path | None = None  # the run folder that train.py wrote
    pretrained: str | None = None  # instead, a published model, as in sample.py
    num: int | None = None  # how many of the images; None: all, or 64 of the data
    seed: int = 0  # of the noise
    labels: str = ""  # of the images, in turn: 3,7 or class names; empty: those they have
    checkpoint: str = "best"  # step of the checkpoint, newest, or best, if any is known to be
    ema: float | None = None  # rate of the averaged weights; 0: those being trained
    sampler: str | None = None  # as in sample.py, and so for those below
    steps: str | None = None  # of the chain; of invert also several, as 50,100,250
    spacing: str | None = None  # respaced, trailing, leading, log_snr or karras
    eta: float | None = None  # DDIM's noise, 0 to 1
    batch_size: int | None = None  # images at once
    classifier: Path | None = None  # run, or published model, whose gradient guides
    guidance_scale: str | None = None  # of that gradient; None: 1
    cfg_scale: str | None = None  # of classifier-free guidance; 1: the model itself
    guidance_interval: str | None = None  # part of t/T that is guided, as 0.2,0.8; None: all of it
    out: Path | None = None  # None: WORKDIR/COMMAND, or pretrained/NAME/COMMAND

    @property
    def options(self) -> GenerationOptions:
        names = {field.name for field in fields(GenerationOptions)}
        return GenerationOptions(
            **{
                field.name: getattr(self, field.name)
                for field in fields(self)
                if field.name in names
            }
        )


@dataclass(frozen=True)
class OfImages(Common):
    """A command that takes images."""

    images: tuple[str, ...] = ()  # files, folders, a samples.npz, or data: the run's own

    def read(self) -> Sequence[str]:
        if not self.images:
            raise UserError("images=: give files, a folder, a samples.npz, or data, the run's own")
        return self.images


@dataclass(frozen=True)
class Invert(OfImages):
    """Image -> noise by DDIM's chain inverted, and back: PSNR, SSIM, LPIPS (docs/editing.md)."""

    corrections: int = 1  # evaluations a step besides the first, each of which makes it more exact
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None  # edited.npz, to draw from


@dataclass(frozen=True)
class Interpolate(OfImages):
    """From each image to the next one."""

    count: int = 9  # images of a row, with both ends
    method: str = "slerp"  # slerp: of noise; noised: pixels, denoised from --strength; pixels
    strength: float = 0.5  # of noised: the part of the chain to go back


@dataclass(frozen=True)
class Inpaint(OfImages):
    """Fills in pixels, so that they fit the others."""

    mask: Path | None = None  # PNG of the size of the model's images; white is to be filled
    box: tuple[int, ...] = ()  # x,y,w,h in pixels, to be filled
    half: str = ""  # left, right, top or bottom, to be filled
    resample: int = 10  # how often each jump is taken (RePaint); 1: known pixels are put back alone
    jump: int = 10  # steps that a jump goes back


@dataclass(frozen=True)
class Vary(OfImages):
    """Images like these (SDEdit)."""

    strength: str = "0.3,0.5,0.7"  # parts of the chain to go back, above 0 to 1, a row each


@dataclass(frozen=True)
class Film(OfImages):
    """A chain as GIF and MP4, x_t beside the predicted x_0; from noise if there are no images."""

    strength: float = 0.6  # with --images: the part of the chain to go back
    frames: int = 100  # moments of the chain
    seconds: float = 4.0  # that they take


def invert(run: Run, args: Invert, out: Path) -> list[Path]:
    if args.source is not None:
        return draw_again(run, args, args.source, out)
    metrics, folders, measures = {}, [], measures_of(run)
    header = f"{'steps':>8} {'PSNR dB':>8} {'least':>6} {'SSIM':>6}"
    print(header + f" {'LPIPS':>8}" * ("lpips" in measures))
    total = run.config.diffusion.timesteps
    default = [steps for steps in INVERSIONS if int(steps) <= total] or [str(total)]
    for steps in dict.fromkeys(args.steps.split(",") if args.steps else default):
        options = by_ddim(replace(args.options, steps=steps), total)
        editor, images = run.editor(args.read(), options, out / output_folder.UNFINISHED)
        edited = editor.invert(images, args.corrections, measures)
        found = {name: edited.arrays[name] for name in measures}
        psnr, ssim, *lpips = found.values()
        row = f"{steps:>8} {psnr.mean():8.2f} {psnr.min():6.2f} {ssim.mean():6.4f}"
        print(row + "".join(f" {each.mean():8.6f}" for each in lpips))
        metrics[steps] = {name: values.tolist() for name, values in found.items()}
        folders.append(out / f"steps_{steps}")
        edited.save(folders[-1])
    with replacing(out / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n")
    return [folder / "grid.png" for folder in folders]


def measures_of(run: Run) -> Mapping[str, Measure]:
    """PSNR and SSIM, and LPIPS if its weights are at hand."""
    if (files := find_lpips()) is None:
        return MEASURES
    if (side := run.config.data.image_size) < MIN_SIZE:
        logger.warning(
            "LPIPS is left out: AlexNet needs images of %d pixels a side, not %d", MIN_SIZE, side
        )
        return MEASURES
    return {**MEASURES, "lpips": partial(by_lpips, read_lpips(files))}


def draw_again(run: Run, args: Invert, source: Path, out: Path) -> list[Path]:
    """Images of the noise that an earlier `invert` saved."""
    try:
        with np.load(source) as file:
            noise, labels, steps = file["x_T"], file["labels"], str(file["steps"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"from={source}: must be the edited.npz of an inversion: {error}"
        ) from error
    total = run.config.diffusion.timesteps
    options = by_ddim(replace(args.options, num=None, steps=args.steps or steps), total)
    if not args.labels and labels[0] >= 0:
        options = replace(options, labels=labels)
    shape = data_shape(run.config)
    if noise.shape[1:] != shape:
        raise UserError(f"from={source}: its noise is {noise.shape[1:]}, the model's {shape}")
    editor, _ = run.editor(np.zeros(noise.shape, np.uint8), options, out / output_folder.UNFINISHED)
    EditedBatch(editor.from_noise(noise)[None], ["drawn"]).save(out)
    return [out / "grid.png"]


def interpolate(run: Run, args: Interpolate, out: Path) -> list[Path]:
    if args.method not in METHODS:
        known = "; ".join(f"{name}: {about}" for name, about in METHODS.items())
        raise UserError(f"method={args.method}: there are {known}")
    if args.count < 2:
        raise UserError(f"count={args.count}: must be at least 2, the ends")
    total = run.config.diffusion.timesteps
    options = by_ddim(args.options, total) if args.method == "slerp" else args.options
    editor, images = run.editor(args.read(), options, out / output_folder.UNFINISHED)
    if len(images) < 2:
        raise UserError("images=: give two or more to go between")
    edited = editor.interpolate(images, args.count, args.method, args.strength)
    edited.save(out)
    frames = np.concatenate(list(edited.images))
    pages = np.stack([grid(frame[None], min_pixels=PANEL_PIXELS) for frame in frames])
    return [out / "grid.png", *save_film(pages, out)]


def inpaint(run: Run, args: Inpaint, out: Path) -> list[Path]:
    mask = read_region(run, args)
    if args.resample < 1 or args.jump < 1:
        raise UserError(f"resample={args.resample} jump={args.jump}: must be at least 1")
    resampling = Resampling(args.resample, args.jump) if args.resample > 1 else None
    options = by_ancestral_sampling(args.options, run.config.diffusion.timesteps)
    editor, images = run.editor(args.read(), options, out / output_folder.UNFINISHED)
    editor.inpaint(images, mask, resampling).save(out)
    return [out / "grid.png"]


def read_region(run: Run, args: Inpaint) -> np.ndarray:
    """bool [side, side], true where pixels are to be filled; raises UserError."""
    side = run.config.data.image_size
    if (args.mask is not None) + bool(args.box) + bool(args.half) != 1:
        raise UserError("mask=, box= or half=: give one of them, which says what to fill")
    if args.mask is not None:
        mask = read_mask(args.mask, side)
    elif args.box:
        if len(args.box) != 4 or not all(0 <= n <= side for n in args.box):
            raise UserError(f"box={args.box}: must be x,y,w,h in pixels of the {side}x{side} image")
        x, y, width, height = args.box
        mask = np.zeros((side, side), bool)
        mask[y : y + height, x : x + width] = True
    else:
        rows, columns = np.mgrid[:side, :side] * 2 >= side
        halves = {"left": ~columns, "right": columns, "top": ~rows, "bottom": rows}
        if args.half not in halves:
            raise UserError(f"half={args.half}: must be {', '.join(halves)}")
        mask = halves[args.half]
    if not mask.any() or mask.all():
        raise UserError("the mask fills all pixels or none: nothing is left to fit, or to fill")
    return mask


def vary(run: Run, args: Vary, out: Path) -> list[Path]:
    try:
        strengths = as_floats(args.strength)
    except ValueError as error:
        raise UserError(f"strength={args.strength}: must be numbers, as 0.3,0.5") from error
    editor, images = run.editor(args.read(), args.options, out / output_folder.UNFINISHED)
    editor.vary(images, strengths).save(out)
    return [out / "grid.png"]


def film(run: Run, args: Film, out: Path) -> list[Path]:
    if args.images:
        editor, images = run.editor(args.images, args.options, frames=args.frames)
        batch = editor.variation(images, args.strength)
    else:
        options = replace(args.options, num=args.num or NUM_FILMED, frames=args.frames)
        batch = run.plan(options).generate(out / output_folder.UNFINISHED, 0)
    if batch.chain is None or batch.images.ndim == 2:
        raise UserError("a film is of images; sample.py --frames draws points on film")
    return save_film(film_frames(batch.chain, batch.images), out, args.seconds)


COMMANDS: dict[str, tuple[type[Common], Callable[..., list[Path]]]] = {
    "invert": (Invert, invert),
    "interpolate": (Interpolate, interpolate),
    "inpaint": (Inpaint, inpaint),
    "vary": (Vary, vary),
    "film": (Film, film),
}


def main() -> None:
    name, argv = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if name not in COMMANDS:
        if name in ("", "-h", "--help"):
            print(command_line.wrapped(__doc__))
            sys.exit(0 if name else 2)
        raise UserError(f"{name}: the commands are {', '.join(COMMANDS)}")
    kind, command = COMMANDS[name]
    args = command_line.parse(kind, argv, description=kind.__doc__ or "")
    start_logging()
    with naming_options(kind, {"source": "--from", "from": "--from"}):
        run = open_run(args.workdir, args.pretrained, args.checkpoint, args.ema)
        found = with_companions(args)
        devices.use_every_core()
        out = args.out or run.results / name
        asked = {field.name: getattr(args, field.name) for field in fields(args)}
        if args.pretrained is None:
            del asked["pretrained"]  # a folder of an earlier version has no such setting
        settings = {key: str(value) for key, value in asked.items() if key != "batch_size"}
        was_there = (out / "settings.json").exists()
        create_results_folder(out, settings)
        try:
            pictures = command(run, found, out)
        except UserError:
            if not was_there:  # a refused command leaves the folder to the right one
                (out / "settings.json").unlink()
                with contextlib.suppress(OSError):  # there may be files of others
                    out.rmdir()
            raise
        output_folder.drop_unfinished(out)
    print("\n".join(str(path) for path in pictures))
