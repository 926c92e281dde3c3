"""How the page can be seen and reached: sizes, themes, contrast, labels, the order of the focus."""

from importlib import resources

import numpy as np
import pytest
import soundfile

from plugin_host.panel.drawing import loudest_stretch, spectrogram_tile
from tests.plugin_host.test_video_files import write_clip
from tests.support import tiny_bundle
from tests.support.host_audio import RATE, music
from tests.support.panels import running_panel

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.slow]

WIDTHS = (1280, 640)
MOST_BYTES = 150_000


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """A panel with everything on it: spans, a selection, a clip, a preview and a take."""
    folder = tmp_path_factory.mktemp("seeing")
    bundle = tiny_bundle.build(folder / "tiny", tiny_bundle.Tiny(video=True))
    clip = write_clip(folder / "clip.mkv", [np.full((90, 160, 3), 90, np.uint8)] * 15)
    path = tmp_path_factory.mktemp("looks") / "a song with a rather long name, for the title.wav"
    soundfile.write(path, music().T, RATE, subtype="PCM_16")
    with running_panel(path, "--model", bundle, "-p", "half", "-p", "nothing") as running:
        spans = [{"start_s": 0.2, "end_s": 0.6}, {"start_s": 0.9, "end_s": 1.2, "polarity": "-"}]
        running.do("edit", {"do": "set-spans", "id": "p1", "spans": spans})
        running.do("select", {"stretch": [0.3, 0.9]})
        running.do("clip/p2/clip.mkv", clip.read_bytes())
        for whole in (False, True):
            running.do("run", {"whole": whole})
            running.finished()
        yield running


@pytest.mark.parametrize("dark", [True, False], ids=["dark", "light"])
@pytest.mark.parametrize("width", WIDTHS)
def test_contrast_labels_and_structure_pass_axe(panel, open_page, width, dark):
    axe = resources.files("axe_playwright_python") / "axe.min.js"
    page = open_page(panel, width=width, height=900, dark=dark)
    page.wait_for_selector(".lane.residual")
    for dialog in (None, "#save", "#help", '.lane[data-key="p2"] .film'):
        if dialog:
            page.click(dialog)
        page.evaluate(axe.read_text("utf-8"))
        found = page.evaluate("() => axe.run()")
        assert found["passes"]
        told = [
            (each["id"], node["html"], node["failureSummary"])
            for each in found["violations"]
            for node in each["nodes"]
        ]
        assert told == []
        page.keyboard.press("Escape")


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_or_lies_upon_another(panel, open_page, width):
    page = open_page(panel, width=width, height=900)
    page.wait_for_selector(".lane.residual")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    clashes = page.evaluate(
        """() => {
          const seen = [...document.querySelectorAll('button, input, select, a, summary')]
            .filter((one) => one.checkVisibility() && !one.closest('dialog, .spans'))
            .map((one) => [one, one.getBoundingClientRect()]);
          const clash = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
            && a.top < b.bottom - 1 && b.top < a.bottom - 1;
          const told = (one) => one.id || one.title || one.className;
          return seen.flatMap(([one, a], i) => seen.slice(i + 1)
            .filter(([other, b]) => !one.closest('.bar') === !other.closest('.bar') && clash(a, b))
            .map(([other]) => `${told(one)} / ${told(other)}`));
        }"""
    )
    assert clashes == []


def test_the_focus_goes_through_everything_in_the_order_of_reading(panel, open_page):
    page = open_page(panel, width=1280, height=900)
    page.wait_for_selector(".lane.residual")
    stops = []
    for _ in range(120):
        page.keyboard.press("Tab")
        stop = page.evaluate(
            """() => {
              const one = document.activeElement;
              if (one === document.body) return null;
              const name = one.getAttribute('aria-label') || one.labels?.[0]?.textContent
                || one.textContent || one.title;
              const lane = one.closest('.lane')?.dataset.key ?? one.closest('[id]')?.id;
              return [lane, name.trim(), getComputedStyle(one).outlineStyle];
            }"""
        )
        if stop is None:
            break
        stops.append(stop)
    assert all(name for _, name, _ in stops)
    # It can be seen where it is.
    assert {outline for _, _, outline in stops} == {"solid"}
    names = [name for _, name, _ in stops]
    for earlier, later in (
        ("To the start", "Play"),
        ("Play", "Preview"),
        ("Preview", "Zoom out"),
        ("Zoom out", "Prompt: half"),
        ("Prompt: half", "Solo: half"),
        ("Solo: half", "Gain: half"),
        ("Gain: half", "Here, 0:00.20 to 0:00.60"),
        ("Here, 0:00.20 to 0:00.60", "Not here, 0:00.90 to 0:01.20"),
        ("Not here, 0:00.90 to 0:01.20", "Prompt: nothing"),
        ("Prompt: nothing", "Solo: Everything else"),
        ("Solo: Everything else", "What do you want to hear?"),
        ("What do you want to hear?", "Queue"),
    ):
        places = [
            next(i for i, name in enumerate(names) if name.startswith(wanted))
            for wanted in (earlier, later)
        ]
        assert places[0] < places[1], (earlier, later)


def test_a_tone_is_drawn_when_and_where_it_sounds():
    rate, tone_hz = 44100, 1000.0
    time_s = np.arange(rate) / rate
    tone = np.where(time_s >= 0.5, np.sin(2 * np.pi * tone_hz * time_s), 0.0)
    for level in (0, 2):
        column_s = (256 << level) / rate
        count = int(1.0 / column_s)
        tiles = [
            spectrogram_tile(np.stack([tone] * 2).astype(np.float32), rate, level, index)
            for index in range(-(-count // 256))
        ]
        picture = np.concatenate(tiles)[:count]
        loud = picture.max(axis=1) > 200
        # To the length of a frame: 46 ms.
        assert np.argmax(loud) * column_s == pytest.approx(0.5, abs=0.05)
        assert loud[np.argmax(loud) : -10].all()
        assert not picture[: int(0.45 / column_s)].any()
        bands = np.geomspace(40.0, 20000.0, picture.shape[1] + 1)
        band = picture[int(0.75 / column_s)].argmax()
        assert bands[band - 1] <= tone_hz <= bands[band + 2]
        assert picture[int(0.75 / column_s), band] >= 250


def test_a_preview_is_of_the_loudest_fifteen_seconds():
    rate = 1000
    audio = 0.1 * np.ones((2, 60 * rate), np.float32)
    audio[:, 31 * rate : 46 * rate] = 0.2
    audio[:, 5 * rate] = 3.0  # a click is short
    assert loudest_stretch(audio, rate) == range(31 * rate, 46 * rate)
    assert loudest_stretch(audio[:, : 10 * rate], rate) == range(10 * rate)


def test_the_page_is_small_and_stands_alone():
    files = list(resources.files("plugin_host.panel").joinpath("page").iterdir())
    assert sum(len(file.read_bytes()) for file in files) < MOST_BYTES
    for file in files:
        text = file.read_text("utf-8")
        assert "https://" not in text, file.name
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", ""), file.name
        assert "innerHTML" not in text, file.name
