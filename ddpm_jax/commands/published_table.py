"""The published models as a table: `sample.py --list-pretrained`."""

from ddpm_jax.evaluation.published_results import ROWS
from ddpm_jax.interop.published import MODELS, Published

BYTES = 4  # of a parameter in the files, which are float32; names and shapes add 0.01 %
HEADING = "model", "images", "parameters", "file", "row", "FID", "command"


def published_table() -> str:
    """A line for each model and each published row of it. File sizes follow from the parameters."""
    lines: list[tuple[str, ...]] = [HEADING]
    for name, model in MODELS.items():
        about: tuple[str, ...] = (
            name,
            model.about,
            f"{model.parameters:,}",
            f"{BYTES * model.parameters / 1e9:.2f} GB",
        )
        results = [
            (row, f"{result.values['fid']:g}", result.command)
            for row, result in ROWS.items()
            if result.model == name
        ]
        for result in results or [("", "", command(name, model))]:
            lines.append((*about, *result))
            about = ("",) * len(about)
    others = [(row, result) for row, result in ROWS.items() if result.model not in MODELS]
    lines += [
        (
            row,
            result.source.partition(",")[0],
            "",
            "",
            row,
            f"{result.values['fid']:g}",
            result.command,
        )
        for row, result in others
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADING))]
    table = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return (
        f"{table}\n\nAny other UNet2DModel of the Hugging Face hub: --pretrained OWNER/NAME. "
        "Measured and compared with a row: python evaluate.py --published ROW"
    )


def command(name: str, model: Published) -> str:
    """How a model without a published row is used."""
    if name.endswith("_classifier"):
        base = name.removesuffix("_classifier")
        return f"python sample.py --pretrained {base} --classifier {base}"
    if name.startswith("upsampler_"):
        short = name.removeprefix("upsampler_")
        base = "imagenet64_iddpm_cond" if "iddpm" in name else f"imagenet{short.partition('_')[0]}"
        return f"python sample.py --pretrained {base} --upsampler {short}"
    return f"python sample.py --pretrained {name}"
