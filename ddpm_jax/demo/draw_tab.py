"""The tab that draws from noise, while one looks on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ddpm_jax.demo import markup
from ddpm_jax.demo.controls import (
    AT_ONCE,
    buttons,
    chain_controls,
    chain_shown,
    chain_values,
    classes,
    download_buttons,
    downloads,
    new_folder,
    seed_control,
    text,
    wire,
)
from ddpm_jax.demo.narration import narrated, sentence
from ddpm_jax.demo.requests import Requests
from ddpm_jax.demo.settings import DrawSettings, query_of, sample_command, settings_of
from ddpm_jax.demo.studio import Studio, draw
from ddpm_jax.errors import UserError
from ddpm_jax.generation.sample_batch import save_arrays


def draw_tab(
    page: gr.Blocks, studio: Studio, start: DrawSettings, folder: Path, requests: Requests
) -> None:
    """The tab's controls and what they call; `start` is what they say at first."""
    config, limits = studio.run.config, studio.limits
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            labels = gr.Dropdown(
                [("all, in turn", ""), ("random", "random"), *classes(studio)],
                value=start.labels,
                label="Class",
                visible=config.model.num_classes > 0 or studio.classifier is not None,
                allow_custom_value=True,
                elem_id="draw-class",
            )
            num = gr.Slider(1, limits.num, start.num, step=1, label="Samples", elem_id="draw-num")
            seed = seed_control(start, "draw")
            go, stop = buttons("Draw", "draw")
            chain = [seed, *chain_controls(studio, start, "as the run has it", "draw")]
        with gr.Column(scale=2, min_width=480):
            stage = gr.HTML(markup.EMPTY, elem_id="draw-stage")
            files = download_buttons("draw", ["samples.npz", "grid.png"])
            command = gr.Textbox(
                label="The same files from a terminal",
                buttons=["copy"],
                interactive=False,
                lines=2,
                elem_id="draw-command",
            )
            link = gr.Textbox(
                label="A link to these settings",
                buttons=["copy"],
                interactive=False,
                elem_id="draw-link",
            )

    def drawn(request: gr.Request, labels: Any, num: Any, *chain: Any) -> Iterator[list[Any]]:
        stopped = requests.begin((request.session_hash, "draw"))
        settings = DrawSettings(**chain_values(chain), labels=text(labels), num=num)
        for shown, batch in narrated(draw(studio, settings, stopped)):
            if batch is None:
                yield [shown, *[gr.skip()] * 4]
                continue
            out = new_folder(folder)
            save_arrays(batch, out)
            batch.save_grid(out / "grid.png")
            options = studio.draw_options(settings)
            same = sample_command(options, studio.loading)
            address = f"{_address(request)}?{query_of(settings)}".rstrip("?")
            yield [shown, same, address, *downloads(files, out)]

    outputs = [stage, command, link, *files]
    wire(requests, "draw", go, stop, outputs, drawn, [labels, num, *chain])

    def from_link(request: gr.Request) -> list[Any]:
        query = list(request.query_params.items())
        try:
            found = settings_of(query, start)
        except UserError as error:
            return [markup.refused(sentence(error)), *[gr.skip()] * (2 + len(chain))]
        if found is start:  # as shown: a visitor may have changed it by now
            return [gr.skip()] * (3 + len(chain))
        return [gr.skip(), found.labels, found.num, *chain_shown(found)]

    page.load(from_link, None, [stage, labels, num, *chain], **AT_ONCE)


def _address(request: gr.Request) -> str:
    return f"http://{request.headers.get('host', 'localhost')}/"
