import hashlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bridge.request import Span
from onnx_export.evaluation.scoring import draw_bars
from plugin_host.files.pictures import draw_separation


def picture(samples=44100, rate=44100, channels=2, **options):
    t = np.arange(samples) / rate
    tone = np.tile(0.5 * np.sin(2 * np.pi * 1000 * t), (channels, 1)).astype(np.float32)
    return draw_separation("title", tone, {"tone": tone, "nothing": 0 * tone}, rate, **options)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_a_tone_is_bright_where_it_sounds_and_a_silent_stem_is_dark():
    image = pixels(picture())
    height, width, _ = image.shape
    middle = image[:, width // 2].sum(axis=1)
    # Three panels below a title: the mixture, the tone, the silence.
    panels = np.array_split(middle[50:-50], 3)
    assert panels[0].max() > 500
    assert panels[1].max() > 500
    assert panels[2][20:-20].max() < 100
    assert height < width * 1.2


def test_spans_and_notes_are_drawn():
    bare = picture()
    marked = picture(spans={"tone": [Span(0.2, 0.6), Span(0.7, 0.9, "-")]}, notes={"tone": "+9 dB"})
    green = np.all(np.abs(pixels(marked) - [0x5F, 0xD3, 0x8D]) < 4, axis=-1)
    assert green.any()
    assert not np.all(np.abs(pixels(bare) - [0x5F, 0xD3, 0x8D]) < 4, axis=-1).any()


def test_equal_audio_gives_equal_pictures():
    assert picture() == picture()


@pytest.mark.parametrize(
    ("samples", "rate", "channels"), [(1, 44100, 1), (100, 8000, 2), (200000, 192000, 8)]
)
def test_any_length_rate_and_number_of_channels_can_be_drawn(samples, rate, channels):
    assert picture(samples, rate, channels).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name",
    [
        "$x_",
        "a $ b $ c_^",
        "\\frac{",
        "絆 ☃ \U0001f941",
        "\udcfc",
        "\x1b[0m\n\u2028",
        "𝄞",
        "$$",
        "",
    ],
)
def test_any_name_can_be_written_into_a_picture(name):
    tone = np.full((1, 2000), 0.1, np.float32)
    png = draw_separation(name, tone, {name: tone}, 8000, notes={name: name})
    assert pixels(png).shape[2] == 3


DRAW = """
import hashlib
from tests.plugin_host.test_pictures import draw_bars, picture
print(hashlib.sha256(picture()).hexdigest(), hashlib.sha256(draw_bars("t", [])).hexdigest())
"""


@pytest.mark.slow
def test_settings_of_the_current_folder_do_not_count(tmp_path):
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\naxes.facecolor: red\nfont.size: 30\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", DRAW],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    here = [hashlib.sha256(drawn).hexdigest() for drawn in (picture(), draw_bars("t", []))]
    assert done.stdout.split() == here
