"""Rows of papers' tables: what was measured of published models, and how it was drawn.

One row is one protocol of `evaluate.py --published NAME`. All are of 50,000 samples; ADM's rows are
by the evaluator that ours equals to rounding. Where a paper's classes are random, so are ours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ddpm_jax.errors import UserError, suggestion
from ddpm_jax.evaluation.markdown import markdown_table
from ddpm_jax.interop import published
from ddpm_jax.interop.download import download
from ddpm_jax.runtime.files import cache_folder, replacing

NUM = 50_000
# The largest distance that chance and rounding may explain: seed ranges of one model differ by some
# 2 % in FID, and ADM's evaluator computes precision and recall in float16. A share of the published
# value, or for values from 0 to 1 a difference.
TOLERANCES = {"fid": 0.05, "sfid": 0.05, "is": 0.05, "precision": 0.02, "recall": 0.02}
ABSOLUTE = ("precision", "recall")

# Real images by OpenAI, below jul-2021/ref_batches: statistics of all of them, and 10,000 of them.
BATCHES = {
    "imagenet64": "imagenet/64/VIRTUAL_imagenet64_labeled.npz",
    "imagenet128": "imagenet/128/VIRTUAL_imagenet128_labeled.npz",
    "imagenet256": "imagenet/256/VIRTUAL_imagenet256_labeled.npz",
    "imagenet512": "imagenet/512/VIRTUAL_imagenet512.npz",
    "bedroom": "lsun/bedroom/VIRTUAL_lsun_bedroom256.npz",
    "cat": "lsun/cat/VIRTUAL_lsun_cat256.npz",
    "horse": "lsun/horse/VIRTUAL_lsun_horse256.npz",
}
BATCHES_ADDRESS = "jul-2021/ref_batches"

Options = dict[str, str]  # of sample.py and evaluate.py


class PublishedResult(NamedTuple):
    """A row of a paper's table."""

    model: str  # of --pretrained
    values: Mapping[str, float]  # by the names of --metrics
    source: str
    reference: str  # one of BATCHES, or a data set
    options: Options  # how the samples are drawn

    @property
    def command(self) -> str:
        """The command that draws such samples."""
        words = (f" --{name.replace('_', '-')} {value}" for name, value in self.options.items())
        return f"python sample.py --pretrained {self.model}{''.join(words)}"


def _drawn(steps: str = "250", sampler: str = "ddpm", labels: str = "random") -> Options:
    options = {"sampler": sampler, "steps": steps}
    return options | {"labels": labels} if labels else options


def _guided(side: int, scale: str, options: Options | None = None) -> Options:
    by = {"classifier": f"imagenet{side}", "guidance_scale": scale}
    return by | (_drawn() if options is None else options)


def _adm(
    model: str, table: int, scores: Sequence[float], reference: str, options: Options
) -> PublishedResult:
    """A row of ADM's paper; scores: FID, sFID, precision, recall, and perhaps Inception Score."""
    values = dict(zip(("fid", "sfid", "precision", "recall", "is"), scores, strict=False))
    source = f"Dhariwal and Nichol 2021, table {table}"
    return PublishedResult(model, values, source, reference, options)


def _iddpm(model: str, table: int, fid: float, data: str) -> PublishedResult:
    source = f"Nichol and Dhariwal 2021, table {table}, by an evaluator of their own"
    return PublishedResult(model, {"fid": fid}, source, data, _drawn("4000", labels=""))


_DDIM25, _UNLABELLED, _LSUN = _drawn("ddim25", "ddim"), _drawn(labels=""), _drawn("1000", labels="")
_TO_256 = {"upsampler": "64_256", "upsampler_steps": "250"}
_TO_512 = {"upsampler": "128_512", "upsampler_steps": "250"}
_CIFAR10, _SMALL = "tfds:cifar10:train", "tfds:downsampled_imagenet/64x64:train"
ROWS = {
    "imagenet64": _adm("imagenet64", 5, (2.07, 4.29, 0.74, 0.63), "imagenet64", _drawn()),
    "imagenet128": _adm("imagenet128", 5, (5.91, 5.09, 0.70, 0.65), "imagenet128", _drawn()),
    "imagenet128_guided": _adm(
        "imagenet128", 5, (2.97, 5.09, 0.78, 0.59), "imagenet128", _guided(128, "0.5")
    ),
    "imagenet128_guided_25_steps": _adm(
        "imagenet128", 5, (5.98, 7.04, 0.78, 0.51), "imagenet128", _guided(128, "1.25", _DDIM25)
    ),
    "imagenet256": _adm(
        "imagenet256", 5, (10.94, 6.02, 0.69, 0.63, 100.98), "imagenet256", _drawn()
    ),
    "imagenet256_guided": _adm(
        "imagenet256", 5, (4.59, 5.25, 0.82, 0.52, 186.7), "imagenet256", _guided(256, "1")
    ),
    "imagenet256_guided_10": _adm(
        "imagenet256", 4, (9.11, 10.93, 0.88, 0.32, 283.9), "imagenet256", _guided(256, "10")
    ),
    "imagenet256_guided_25_steps": _adm(
        "imagenet256", 5, (5.44, 5.32, 0.81, 0.49), "imagenet256", _guided(256, "2.5", _DDIM25)
    ),
    "imagenet256_upsampled": _adm(
        "imagenet64", 6, (7.49, 5.13, 0.72, 0.63, 127.49), "imagenet256", _drawn() | _TO_256
    ),
    "imagenet256_guided_upsampled": _adm(
        "imagenet64", 6, (3.94, 6.14, 0.83, 0.53, 215.84), "imagenet256", _guided(64, "1") | _TO_256
    ),
    "imagenet256_uncond": _adm(
        "imagenet256_uncond", 4, (26.21, 6.35, 0.61, 0.63, 39.7), "imagenet256", _UNLABELLED
    ),
    "imagenet256_uncond_guided_1": _adm(
        "imagenet256_uncond", 4, (33.03, 6.99, 0.56, 0.65, 32.9), "imagenet256", _guided(256, "1")
    ),
    "imagenet256_uncond_guided_10": _adm(
        "imagenet256_uncond", 4, (12.00, 10.40, 0.76, 0.44, 95.4), "imagenet256", _guided(256, "10")
    ),
    "imagenet512": _adm(
        "imagenet512", 5, (23.24, 10.19, 0.73, 0.60, 58.06), "imagenet512", _drawn()
    ),
    "imagenet512_guided": _adm(
        "imagenet512", 5, (7.72, 6.57, 0.87, 0.42, 172.71), "imagenet512", _guided(512, "4")
    ),
    "imagenet512_guided_25_steps": _adm(
        "imagenet512", 5, (8.41, 9.67, 0.83, 0.47), "imagenet512", _guided(512, "9", _DDIM25)
    ),
    "imagenet512_upsampled": _adm(
        "imagenet128", 6, (9.96, 5.62, 0.75, 0.64, 121.78), "imagenet512", _drawn() | _TO_512
    ),
    "lsun_bedroom": _adm("lsun_bedroom", 5, (1.90, 5.59, 0.66, 0.51), "bedroom", _LSUN),
    "lsun_cat": _adm("lsun_cat", 5, (5.57, 6.69, 0.63, 0.52), "cat", _LSUN),
    "lsun_horse": _adm("lsun_horse", 5, (2.57, 6.81, 0.71, 0.55), "horse", _LSUN),
    "imagenet64_iddpm_cond": _adm(
        "imagenet64_iddpm_cond", 5, (2.92, 3.79, 0.74, 0.62), "imagenet64", _drawn()
    ),
    "cifar10_iddpm": _iddpm("cifar10_iddpm", 2, 3.19, _CIFAR10),
    "cifar10_iddpm_vlb": _iddpm("cifar10_iddpm_vlb", 2, 11.47, _CIFAR10),
    "imagenet64_iddpm": _iddpm("imagenet64_iddpm", 1, 19.2, _SMALL),
    "imagenet64_iddpm_vlb": _iddpm("imagenet64_iddpm_vlb", 1, 40.1, _SMALL),
    "google/ddpm-cifar10-32": PublishedResult(
        "google/ddpm-cifar10-32",
        {"fid": 3.17, "is": 9.46},
        "Ho et al. 2020, table 1, by TF-GAN's evaluator on samples that were not rounded",
        _CIFAR10,
        _drawn("1000", labels=""),
    ),
}


def row_of(name: str) -> PublishedResult:
    """The row of that name; raises UserError with the closest one, and all."""
    if name not in ROWS:
        what = "no row of it is known to us" if name in published.MODELS else "unknown"
        raise UserError(f"published={name}: {what}; {suggestion(name, ROWS)}")
    return ROWS[name]


def find_reference(row: PublishedResult) -> str:
    """What a row was compared with, as of --reference: a data set, or a file that is fetched once.

    Raises UserError, also if it cannot be fetched; the message says where to put it.
    """
    if row.reference not in BATCHES:
        return row.reference
    place = BATCHES[row.reference]
    path = cache_folder() / "references" / place.rpartition("/")[2]
    download(published.url(f"{BATCHES_ADDRESS}/{place}"), path)
    return str(path)


def comparison(row: PublishedResult, measured: Mapping[str, float], num: int) -> str:
    """A Markdown table of the published and the measured values, and a verdict in a line."""
    columns = list(row.values)
    lines = [
        ["published", f"{NUM:,}", *(f"{row.values[name]:g}" for name in columns)],
        ["measured", f"{num:,}", *(f"{measured[name]:.4g}" for name in columns)],
        ["may differ by", "", *(_allowed(name) for name in columns)],
    ]
    table = markdown_table(["", "samples", *columns], lines)
    return f"{table}\npublished: {row.source}\n{verdict(row, measured, num)}"


def write(text: str, out: Path) -> None:
    """Writes published.md."""
    with replacing(out / "published.md") as temporary:
        temporary.write_text(f"{text}\n")


def verdict(row: PublishedResult, measured: Mapping[str, float], num: int) -> str:
    """What the comparison says, by TOLERANCES; nothing for another number of samples."""
    if num != NUM:
        return f"verdict: no comparison, for {num:,} samples are not {NUM:,}: FID depends on it"
    far = [name for name in row.values if not _near(name, row.values[name], measured[name])]
    if far:
        return f"verdict: not reproduced: {', '.join(far)} differ by more than chance explains"
    return "verdict: reproduced, all values within what chance and rounding explain"


def _near(name: str, expected: float, found: float) -> bool:
    unit = 1.0 if name in ABSOLUTE else expected
    return abs(found - expected) <= TOLERANCES[name] * unit + 1e-9


def _allowed(name: str) -> str:
    tolerance = TOLERANCES[name]
    return f"{tolerance:g}" if name in ABSOLUTE else f"{100 * tolerance:g} %"
