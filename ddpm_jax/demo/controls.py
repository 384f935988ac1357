"""What the tabs of the page share: the controls of a chain, its two buttons, its downloads."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gradio as gr

from ddpm_jax.demo import markup
from ddpm_jax.demo.requests import Requests
from ddpm_jax.demo.settings import ChainSettings
from ddpm_jax.demo.studio import Studio
from ddpm_jax.errors import UserError
from ddpm_jax.sampling.samplers import SAMPLERS

KEPT_RESULTS = 100  # that can still be downloaded
# One chain at a time, whoever asked for it.
ONE_CHAIN = {"concurrency_id": "chains", "concurrency_limit": 1, "show_progress": "hidden"}
AT_ONCE = {"queue": False, "show_progress": "hidden"}

Choices = list[tuple[str, str]]


def seed_control(start: ChainSettings, name: str) -> gr.Number:
    """The seed of the noise."""
    most = 2**32 - 1
    return gr.Number(
        start.seed, label="Seed", precision=0, minimum=0, maximum=most, elem_id=f"{name}-seed"
    )


def chain_controls(studio: Studio, start: ChainSettings, usual: str, name: str) -> list[Any]:
    """Sampler, steps, guidance, its scale, others side by side, and when it guides."""
    sampler = gr.Dropdown(
        [(usual, ""), *((each, each) for each in SAMPLERS)],
        value=start.sampler,
        label="Sampler",
        elem_id=f"{name}-sampler",
    )
    steps = gr.Slider(
        0,
        min(studio.limits.steps, studio.run.config.diffusion.timesteps),
        start.steps,
        step=1,
        label="Steps (0: as suits the sampler)",
        elem_id=f"{name}-steps",
    )
    guided = len(studio.guidance) > 1
    with gr.Accordion("Guidance", open=name == "draw", visible=guided):
        guidance = gr.Radio(
            studio.guidance, value=start.guidance, label="By", elem_id=f"{name}-guidance"
        )
        scale = gr.Slider(0, 10, 1, step=0.1, label="Scale", elem_id=f"{name}-scale")
        row = gr.Textbox(
            "",
            label="Several scales side by side",
            info="As 0,1,2,4; a row of the same noise each. Empty: the scale above.",
            max_length=100,
            visible=name == "draw",
            elem_id=f"{name}-scales",
        )
        first = gr.Slider(0, 1, start.start, step=0.05, label="Guides from t/T")
        last = gr.Slider(0, 1, start.end, step=0.05, label="to t/T")
    return [sampler, steps, guidance, scale, row, first, last]


def chain_values(values: Sequence[Any]) -> dict[str, Any]:
    """The fields of ChainSettings, from the values of the seed and of `chain_controls`."""
    seed, sampler, steps, guidance, scale, row, first, last = values
    chain = {"seed": seed, "sampler": text(sampler), "steps": steps}
    if guidance == "none":
        return chain
    scales = text(row).strip() or f"{scale or 0:g}"
    return chain | {"guidance": guidance, "scales": scales, "start": first, "end": last}


def chain_shown(settings: ChainSettings) -> list[Any]:
    """The other way: the values of the controls, for these settings."""
    try:
        single, several = float(settings.scales or 1), ""
    except ValueError:
        single, several = 1.0, settings.scales
    return [
        settings.seed,
        settings.sampler,
        settings.steps,
        settings.guidance,
        single,
        several,
        settings.start,
        settings.end,
    ]


def buttons(name: str, kind: str) -> tuple[gr.Button, gr.Button]:
    """What starts a request, and what stops it."""
    with gr.Row():
        go = gr.Button(name, variant="primary", min_width=80, elem_id=f"{kind}-go")
        stop = gr.Button(
            "Stop", variant="stop", interactive=False, min_width=80, elem_id=f"{kind}-stop"
        )
    return go, stop


def classes(studio: Studio) -> Choices:
    """The classes by name, with their labels."""
    config = studio.run.config
    names = studio.run.class_names
    count = config.model.num_classes
    return [(names[i] if names else str(i), str(i)) for i in range(count)]


def wire(
    requests: Requests,
    kind: str,
    go: gr.Button,
    stop: gr.Button,
    outputs: Sequence[Any],
    work: Any,
    inputs: Sequence[Any],
) -> None:
    """The button that starts a request of this kind, the one that stops it, and what shows it."""
    stage, *others = outputs

    def pressed(request: gr.Request) -> list[Any]:
        try:
            requests.wait((request.session_hash, kind))
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        note = "Waiting for its turn. The first chain of its kind is compiled before it moves."
        return [markup.waiting(note), gr.update(interactive=False), gr.update(interactive=True)]

    def released(request: gr.Request) -> list[Any]:
        requests.end((request.session_hash, kind))
        return [gr.update(interactive=True), gr.update(interactive=False)]

    def halt(request: gr.Request) -> None:
        requests.stop((request.session_hash, kind))

    # Errors reach the page through the queue alone.
    waiting = go.click(
        pressed, None, [stage, go, stop], concurrency_limit=None, show_progress="hidden"
    )
    working = waiting.success(work, inputs, [stage, *others], **ONE_CHAIN)
    working.then(released, None, [go, stop], **AT_ONCE)
    stop.click(halt, None, None, **AT_ONCE)


def new_folder(folder: Path) -> Path:
    """A folder for a result; of all results the last KEPT_RESULTS stay."""
    old = sorted(folder.glob("result_*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in old[KEPT_RESULTS - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
    return Path(mkdtemp(prefix="result_", dir=folder))


def download_buttons(tab: str, names: Sequence[str]) -> list[gr.DownloadButton]:
    """Buttons side by side, which hand out nothing yet."""
    with gr.Row():
        return [
            gr.DownloadButton(name, interactive=False, elem_id=f"{tab}-{Path(name).stem}")
            for name in names
        ]


def downloads(buttons: Sequence[gr.DownloadButton], folder: Path) -> list[Any]:
    """What makes the buttons hand out the files of their names in the folder."""
    return [gr.update(value=str(folder / each.label), interactive=True) for each in buttons]


def text(value: Any) -> str:
    """A control's text; "" for one that was cleared."""
    return "" if value is None else str(value)
