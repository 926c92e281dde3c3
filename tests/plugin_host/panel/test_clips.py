"""Clips that show what is meant: dropped, painted and clicked on, seen, and kept in presets."""

import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import expect

from bridge.video import decode_video, probe_video, read_frame
from plugin_host.cli import main
from tests.plugin_host.panel.test_marking import drop
from tests.plugin_host.test_video_files import write_clip
from tests.support import sam2, tiny_bundle
from tests.support.panels import running_panel
from tests.support.sidecars import wait_until

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.slow]

WIDTH, HEIGHT, RATE, FRAMES = 64, 36, 10, 15
#: For the first click, which loads PyTorch.
LOADING_MS = 900_000


def shade(number):
    """The grey of a frame; they differ, so that it can be told which one is shown."""
    return 60 + 10 * number


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """A model that adds the mean brightness of what it sees to the share of "half"."""
    options = tiny_bundle.Tiny(video=True, input_rms_db=None)
    return tiny_bundle.build(tmp_path_factory.mktemp("seeing") / "sees", options)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip as long as the song, which becomes brighter."""
    frames = [np.full((HEIGHT, WIDTH, 3), shade(number), np.uint8) for number in range(FRAMES)]
    return write_clip(tmp_path_factory.mktemp("clips") / "the <band>.mkv", frames)


def with_square(path, count):
    """A clip like that, in which a yellow square moves to the right."""
    frames = [
        np.full((HEIGHT, WIDTH, 3), shade(number % FRAMES), np.uint8) for number in range(count)
    ]
    for number, frame in enumerate(frames):
        left = 8 + 2 * (number % FRAMES)
        frame[10:26, left : left + 16] = (250, 200, 30)
    return write_clip(path, frames)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sam2")
    sam2.build(directory)
    return directory


@pytest.fixture
def following(seeing, song, network):
    """A panel on the same song that has a small SAM 2."""
    options = ("--model", seeing, "-p", "half", "-p", "two=half", "--network", network)
    with running_panel(song, *options) as running:
        yield running


@pytest.fixture
def panel(seeing, song):
    """A panel with a model that sees, on a song of 1.5 s with two prompts."""
    with running_panel(song, "--model", seeing, "-p", "half", "-p", "two=half") as running:
        yield running


def dropped(page, clip, key="p1"):
    """Drop the clip on a lane and wait until its first frame is there."""
    drop(page, f'.lane[data-key="{key}"] .view', clip.name, clip.read_bytes())
    page.wait_for_selector("#clip-dialog[open]")
    shows(page, shade(0))


def shows(page, grey):
    """Wait until the middle of the right edge, where nobody paints, has this grey."""
    page.wait_for_function(
        """(grey) => {
          const canvas = document.querySelector('#clip-frame');
          const { data } = canvas.getContext('2d')
            .getImageData(canvas.width - 2, canvas.height / 2, 1, 1);
          return [0, 1, 2].every((channel) => Math.abs(data[channel] - grey) <= 2);
        }""",
        arg=grey,
    )


def paint(page, *points, button="left"):
    """Drag over the frame along points, as shares of its width and height."""
    area = page.locator("#clip-frame").bounding_box()
    at = lambda x, y: (area["x"] + x * area["width"], area["y"] + y * area["height"])  # noqa: E731
    page.mouse.move(*at(*points[0]))
    page.mouse.down(button=button)
    for point in points[1:]:
        page.mouse.move(*at(*point), steps=3)
    page.mouse.up(button=button)


def masks(panel, key=0):
    """When masks begin, and which part of the columns of each is painted from top to bottom."""
    found = panel.state()["prompts"][key]["shown"]["masks"]
    painted = {}
    for mask in found:
        pixels = np.frombuffer(panel.ask(f"mask/{mask['sha256']}").body, np.uint8)
        painted[mask["at_s"]] = pixels.reshape(HEIGHT, WIDTH).all(axis=0)
    return painted


def slide(page, number):
    """Move the slider of time to a frame."""
    page.locator("#clip-time").evaluate(
        "(slider, to) => { slider.value = to; slider.dispatchEvent(new Event('input')); }",
        (number + 0.2) / RATE,
    )
    page.wait_for_selector(f"#clip-at:has-text('0:{number / RATE:05.2f}')")


def to_frame(page, number):
    """Move there, and see that it is shown where nobody paints."""
    slide(page, number)
    shows(page, shade(number))


def test_a_clip_is_dropped_and_painted_on_and_the_mask_holds_over_time(panel, open_page, clip):
    page = open_page(panel)
    dropped(page, clip)
    expect(page.locator("#clip-title")).to_have_text("the <band>.mkv shows half")
    assert masks(panel) == {}
    page.locator("#clip-brush").evaluate("(slider) => { slider.value = 20; }")
    paint(page, (0.1, 0.0), (0.1, 1.0))
    wait_until(lambda: 0.0 in masks(panel))
    # From a brush of a fifth of the width: a fifth of the columns, at the left.
    middle = slice(2, WIDTH // 5 - 2)
    columns = masks(panel)[0.0]
    assert columns[middle].all()
    assert not columns[WIDTH // 5 + 2 :].any()
    # It holds on a later frame, and what is painted there holds from there on.
    to_frame(page, 8)
    paint(page, (0.5, 0.0), (0.5, 1.0))
    wait_until(lambda: len(masks(panel)) == 2)
    first, second = masks(panel).values()
    assert list(masks(panel)) == [0.0, 0.8]
    assert np.array_equal(first, columns)
    assert (first & second).sum() == first.sum()
    assert second[WIDTH // 2]
    # Erasing, with the other button, and undo.
    paint(page, (0.1, 0.0), (0.1, 1.0), button="right")
    wait_until(lambda: not masks(panel)[0.8][middle].any())
    page.keyboard.press("Control+z")
    wait_until(lambda: bool(masks(panel)[0.8][middle].all()))
    # What the model sees is black there.
    page.check("#clip-seen")
    page.wait_for_function(
        """() => { const canvas = document.querySelector('#clip-frame');
          const pixel = canvas.getContext('2d').getImageData(3, canvas.height / 2, 1, 1).data;
          return String([...pixel]) === '0,0,0,255'; }"""
    )
    # The page can be closed in between.
    page.reload()
    page.wait_for_selector(".lane.prompt")
    page.locator('.lane[data-key="p1"] .film').click()
    page.wait_for_selector("#clip-masks:has-text('0:00.00, 0:00.80')")
    page.locator("#clip-remove").click()
    page.wait_for_selector("#clip-dialog:not([open])", state="attached")
    assert panel.state()["prompts"][0]["shown"] is None


def test_a_mask_is_painted_with_the_keyboard_alone(panel, open_page, clip):
    page = open_page(panel)
    dropped(page, clip)
    page.locator("#clip-frame").focus()
    for key in (*["ArrowLeft"] * 40, "Enter", *["ArrowUp"] * 3, "Enter"):
        page.keyboard.press(key)
    wait_until(lambda: len(panel.state()["prompts"][0]["shown"]["masks"]) == 1)
    (mask,) = panel.state()["prompts"][0]["shown"]["masks"]
    pixels = np.frombuffer(panel.ask(f"mask/{mask['sha256']}").body, np.uint8)
    pixels = pixels.reshape(HEIGHT, WIDTH)
    assert pixels[HEIGHT // 2, 0]
    assert not pixels[:, WIDTH // 4 :].any()
    page.keyboard.press("Escape")
    page.wait_for_selector("#clip-dialog:not([open])", state="attached")


def test_what_is_seen_goes_to_the_model_as_the_command_sends_it(
    panel, open_page, clip, song, seeing, tmp_path
):
    page = open_page(panel)
    dropped(page, clip)
    paint(page, (0.05, 0.0), (0.05, 1.0), (0.3, 1.0), (0.3, 0.0))
    wait_until(lambda: masks(panel))
    with page.expect_download() as loading:
        page.locator("#clip-mask").click()
    loading.value.save_as(tmp_path / "mask.mkv")
    page.keyboard.press("Escape")
    page.locator("#separate").click()
    page.wait_for_selector(".take.done")
    arguments = ["separate", str(song), "-p", "half", "-p", "two=half", "--model", str(seeing)]
    shown = ["--video", f"half@{clip}", "--mask", f"half@{tmp_path / 'mask.mkv'}"]
    stems = {}
    for name, options in (("masked", shown), ("bare", shown[:2]), ("blind", [])):
        folder = tmp_path / name
        assert main([*arguments, *options, "--in-process", "-o", str(folder)]) == 0
        stems[name] = soundfile.read(folder / "song" / "half.wav", dtype="float32")[0].T
    take = panel.take()
    ours = np.frombuffer(
        panel.ask(f"audio/{take['id']}/p1?start=0&samples={take['samples']}").body, "<f4"
    ).reshape(2, -1)
    assert np.array_equal(ours, stems["masked"])
    assert not np.array_equal(ours, stems["bare"])
    assert not np.array_equal(ours, stems["blind"])
    # Another mask is another take, and the lane says that this one was made without it.
    panel.do("undo")
    page.wait_for_selector(".empty.stale:has-text('changed since this take')")
    assert panel.do("run", {"whole": True})["take"] != take["id"]
    assert panel.finished()["state"] == "done"


def saved(folder, page, name, where="user"):
    """Save a preset on the page, and return what its file below a folder says of the clips."""
    page.keyboard.press("Control+s")
    page.fill("#preset-name", name)
    page.select_option("#preset-where", where)
    page.locator("#save-preset button").click()
    page.wait_for_selector(f"#told:has-text('Preset {name} saved')")
    (file,) = folder.rglob(f"{name}.toml")
    return [stem.get("video") for stem in tomllib.loads(file.read_text())["prompts"]]


def test_a_preset_brings_clip_and_mask_back(
    panel, open_page, clip, song, seeing, tmp_path, monkeypatch
):
    page = open_page(panel)
    dropped(page, clip)
    paint(page, (0.05, 0.0), (0.05, 1.0), (0.3, 1.0), (0.3, 0.0))
    wait_until(lambda: masks(panel))
    page.keyboard.press("Escape")
    panel.do("run", {"whole": True})
    first = panel.finished()
    half, two = saved(panel.root, page, "seen")
    assert two is None
    assert Path(half["clip"]).name == "the -band-.mkv"
    assert Path(half["clip"]).read_bytes() == clip.read_bytes()
    # Once more, for all work too: the files are not kept twice.
    assert saved(panel.root, page, "again")[0] == half
    assert len([p for p in Path(half["clip"]).parents[1].rglob("*") if p.is_file()]) == 2

    # Read back after something else was there, by the page: the same stems.
    panel.do("edit", {"do": "remove-clip", "id": "p1"})
    page.select_option("#load-preset", "seen")
    wait_until(lambda: (panel.state()["prompts"][0]["shown"] or {}).get("mask_clip"))
    page.wait_for_selector('.film[aria-label^="Its clip"]')
    panel.do("run", {"whole": True})
    second = panel.finished()
    assert second["id"] != first["id"]
    sounds = [
        panel.ask(f"audio/{take['id']}/{take['stems'][0]['key']}?start=0&samples={take['samples']}")
        for take in (first, second)
    ]
    assert sounds[0].body == sounds[1].body
    # And by the command, with the panel's own file of it.
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, panel.environment[name])
    arguments = ["separate", str(song), "--preset", "seen", "--model", str(seeing), "--in-process"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 0
    theirs = soundfile.read(tmp_path / "out" / "song" / "half.wav", dtype="float32")[0].T
    assert np.array_equal(np.frombuffer(sounds[0].body, "<f4").reshape(2, -1), theirs)


def test_a_preset_whose_clip_is_gone_or_changed_says_so(panel, open_page, clip, song):
    page = open_page(panel)
    dropped(page, clip)
    page.keyboard.press("Escape")
    kept = Path(saved(song.parent, page, "seen", "project")[0]["clip"])
    assert kept.is_relative_to(song.parent)
    before = panel.state()["prompts"]
    content = kept.read_bytes()
    for broken, message in (
        (content + b" ", "saved with another video or mask of 'half'"),
        (None, "cannot be read (No such file or directory); the preset shows 'half' by it"),
    ):
        kept.unlink()
        if broken is not None:
            kept.write_bytes(broken)
        refused = panel.ask("preset/load", {"name": "seen"})
        assert refused.status == 400
        assert str(kept) in refused.json["error"]
        assert message in refused.json["error"]
        assert "save the preset again" in refused.json["error"]
        assert panel.state()["prompts"] == before
    kept.write_bytes(content)
    panel.do("preset/load", {"name": "seen"})
    assert panel.state()["prompts"][0]["shown"] is not None
    shutil.rmtree(song.parent / ".stembridge")


def followed(panel, key="p1"):
    """What became of the clicks on the clip of a prompt."""
    return panel.state()["followed"].get(key, {"state": "none"})


def click(page, x, y, **options):
    """Click on the frame, at shares of its width and height."""
    area = page.locator("#clip-frame").bounding_box()
    position = {"x": x * area["width"], "y": y * area["height"]}
    page.locator("#clip-frame").click(position=position, **options)


@pytest.mark.timeout(1200)
def test_what_is_clicked_on_is_followed_as_the_command_does(
    following, open_page, song, seeing, network, tmp_path
):
    panel, page = following, open_page(following)
    clip = with_square(tmp_path / "square.mkv", FRAMES)
    dropped(page, clip)
    click(page, 0.25, 0.5)
    # At once another one, which is not it: neither is lost.
    click(page, 0.9, 0.1, button="right")
    slide(page, 8)
    click(page, 0.5, 0.5)
    click(page, 0.9, 0.9, modifiers=["Alt"])
    wait_until(lambda: len(panel.state()["prompts"][0]["shown"]["clicks"]) == 4)
    page.wait_for_selector(
        "#clip-masks:has-text('Followed through the clip from 4 clicks')", timeout=LOADING_MS
    )
    clicks = panel.state()["prompts"][0]["shown"]["clicks"]
    told = [(one["x"], one["y"], one["at_s"], one["on"]) for one in clicks]
    expected = [(16, 18, 0, True), (57.6, 3.6, 0, False), (32, 18, 0.8, True)]
    expected += [(57.6, 32.4, 0.8, False)]
    for found, meant in zip(told, expected, strict=True):
        assert found == pytest.approx(meant, abs=0.2)
    # The same bytes as the command's.
    with page.expect_download() as loading:
        page.locator("#clip-mask").click()
    assert loading.value.suggested_filename == "mask.mp4"
    loading.value.save_as(tmp_path / "panel.mp4")
    command = ["mask", str(clip), "--network", str(network), "-o", str(tmp_path / "command.mp4")]
    for x, y, at_s, on in told:
        command += ["--click" if on else "--not-click", f"{x:g},{y:g}@{at_s:g}"]
    assert main(command) == 0
    assert (tmp_path / "panel.mp4").read_bytes() == (tmp_path / "command.mp4").read_bytes()
    # What is seen is that mask, on every frame.
    expected = [frame[..., 0] > 127 for _, frame in decode_video(tmp_path / "command.mp4")]
    assert len(expected) == FRAMES
    assert 0.02 < np.mean(expected) < 0.98
    page.check("#clip-seen")
    for number in (2, 11):
        slide(page, number)
        page.mouse.move(0, 0)
        # But for the point of the mouse, which lies on the frame.
        page.wait_for_function(
            """(mask) => { const canvas = document.querySelector('#clip-frame');
              const { data } = canvas.getContext('2d')
                .getImageData(0, 0, canvas.width, canvas.height);
              const wrong = mask.filter((masked, at) => masked !== (data[4 * at] === 0));
              return wrong.length < 0.02 * mask.length; }""",
            arg=expected[number].ravel().tolist(),
        )
    # And it goes to the model as the command sends it.
    page.keyboard.press("Escape")
    page.locator("#separate").click()
    page.wait_for_selector(".take.done")
    arguments = ["separate", str(song), "-p", "half", "-p", "two=half", "--model", str(seeing)]
    arguments += ["--video", f"half@{clip}", "--mask", f"half@{tmp_path / 'command.mp4'}"]
    assert main([*arguments, "--in-process", "-o", str(tmp_path / "out")]) == 0
    theirs = soundfile.read(tmp_path / "out" / "song" / "half.wav", dtype="float32")[0].T
    take = panel.take()
    ours = panel.ask(f"audio/{take['id']}/p1?start=0&samples={take['samples']}").body
    assert np.array_equal(np.frombuffer(ours, "<f4").reshape(2, -1), theirs)
    # A preset keeps the mask that was made.
    half, _ = saved(panel.root, page, "clicked")
    assert Path(half["mask"]).read_bytes() == (tmp_path / "command.mp4").read_bytes()
    # Undo goes back a click, whose mask is there already or made anew; a brush takes its place.
    panel.do("undo")
    wait_until(lambda: followed(panel)["state"] == "done")
    assert len(panel.state()["prompts"][0]["shown"]["clicks"]) == 3
    page.locator('.lane[data-key="p1"] .film').click()
    page.select_option("#clip-by", "brush")
    paint(page, (0.9, 0.5), (0.95, 0.5))
    wait_until(lambda: masks(panel))
    assert panel.state()["prompts"][0]["shown"]["clicks"] == []


@pytest.mark.timeout(1200)
def test_following_is_cancelled_begun_again_and_waited_for(following, open_page, tmp_path):
    panel, page = following, open_page(following)
    dropped(page, with_square(tmp_path / "long.mkv", 20 * FRAMES))
    page.locator("#clip-frame").focus()
    page.keyboard.press("Space")
    page.wait_for_selector("#clip-masks:has-text('of 300 frames')", timeout=LOADING_MS)
    # The page can be closed in between, and comes back to it.
    page.reload()
    page.wait_for_selector(".lane.prompt")
    page.locator('.lane[data-key="p1"] .film').click()
    page.wait_for_selector("#clip-masks:has-text('of 300 frames')")
    page.locator("#clip-cancel").click()
    page.wait_for_selector("#clip-masks:has-text('Cancelled')")
    assert followed(panel)["state"] == "cancelled"
    assert followed(panel)["mask"] is None
    # A take needs the mask, and says so.
    panel.do("run", {"whole": False})
    take = panel.finished()
    assert take["state"] == "failed"
    assert "long.mkv: what was clicked on has no mask" in take["error"]
    page.locator("#clip-cancel").click()
    page.wait_for_selector("#clip-masks:has-text('of 300 frames')")
    assert followed(panel)["state"] == "runs"
    # With other clicks it begins anew; without any there is nothing to do.
    page.keyboard.press("Escape")
    panel.do("edit", {"do": "set-clicks", "id": "p1", "clicks": []})
    assert followed(panel) == {"state": "none"}
    # A click outside of the clip is refused in words, and nothing is followed.
    far = [{"x": 640.0, "y": 1.0, "at_s": 0.0}]
    panel.do("edit", {"do": "set-clicks", "id": "p1", "clicks": far})
    wait_until(lambda: followed(panel)["state"] == "failed")
    assert "long.mkv: 640,1 to 640,1 is not within its 64 x 36 pixels" in followed(panel)["error"]


def test_without_sam_2_there_is_the_brush_and_what_to_install_is_said(panel, open_page, clip):
    page = open_page(panel)
    dropped(page, clip)
    assert not page.locator("#clip-tool").is_visible()
    assert page.locator("#clip-brush").is_visible()
    assert "stembridge models fetch" in page.locator("#clip-hint").inner_text()
    clicks = [{"x": 1.0, "y": 1.0, "at_s": 0.0}]
    panel.do("edit", {"do": "set-clicks", "id": "p1", "clicks": clicks})
    wait_until(lambda: followed(panel)["state"] == "failed")
    assert "stembridge[masks]" in followed(panel)["error"]


def test_a_video_masks_a_clip_until_something_is_painted(
    panel, open_page, clip, song, seeing, tmp_path
):
    page = open_page(panel)
    dropped(page, clip)
    # White on the left, further in every frame.
    frames = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[:, : 4 * number] = 255
    moving = write_clip(tmp_path / "moving.mkv", list(frames))
    page.set_input_files("#clip-mask-file", moving)
    page.wait_for_selector("#clip-masks:has-text('A video masks it')")
    page.check("#clip-seen")
    # Seen in black where it is by then, and the clip beside it.
    for number in (2, 9):
        to_frame(page, number)
        page.wait_for_function(
            """(edge) => {
              const canvas = document.querySelector('#clip-frame');
              const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, 1);
              return data[4 * (edge - 1)] === 0 && data[4 * edge] > 0;
            }""",
            arg=4 * number,
        )
    panel.do("run", {"whole": True})
    take = panel.finished()
    ours = np.frombuffer(
        panel.ask(f"audio/{take['id']}/p1?start=0&samples={take['samples']}").body, "<f4"
    ).reshape(2, -1)
    arguments = ["separate", str(song), "-p", "half", "-p", "two=half", "--model", str(seeing)]
    arguments += ["--video", f"half@{clip}", "--mask", f"half@{moving}", "--in-process"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 0
    theirs = soundfile.read(tmp_path / "out" / "song" / "half.wav", dtype="float32")[0].T
    np.testing.assert_array_equal(ours, theirs)
    paint(page, (0.9, 0.5), (0.95, 0.5))
    wait_until(lambda: panel.state()["prompts"][0]["shown"]["mask_clip"] is None)
    (mask,) = panel.state()["prompts"][0]["shown"]["masks"]
    assert mask["at_s"] == pytest.approx(0.9, abs=2e-3)
    narrow = write_clip(tmp_path / "narrow.mkv", list(frames[:, :, :32]))
    refused = panel.ask("mask-clip/p1/narrow.mkv", narrow.read_bytes())
    assert "give a mask of the same size" in refused.json["error"]
    assert panel.ask("mask-clip/p2/narrow.mkv", narrow.read_bytes()).status == 400


def test_a_preview_sees_the_clip_where_it_is_in_the_song(panel, clip, song, seeing, tmp_path):
    panel.ask("clip/p1/clip.mkv", clip.read_bytes())
    panel.do("select", {"stretch": [0.9, 1.4]})
    panel.do("run", {"whole": False})
    take = panel.finished()
    ours = np.frombuffer(
        panel.ask(f"audio/{take['id']}/p1?start={take['start']}&samples={take['samples']}").body,
        "<f4",
    ).reshape(2, -1)
    # The same of the stretch and the frames from there on, cut by hand.
    cut, rate = soundfile.read(song, start=take["start"], frames=take["samples"])
    soundfile.write(tmp_path / "cut.wav", cut, rate, "PCM_16")
    frames = [read_frame(clip, number / RATE + 0.01, (WIDTH, HEIGHT))[1] for number in range(9, 15)]
    later = write_clip(tmp_path / "later.mkv", frames)
    arguments = ["separate", str(tmp_path / "cut.wav"), "-p", "half", "-p", "two=half"]
    arguments += ["--video", f"half@{later}", "--quality", "draft", "--model", str(seeing)]
    assert main([*arguments, "--in-process", "-o", str(tmp_path / "out")]) == 0
    theirs = soundfile.read(tmp_path / "out" / "cut" / "half.wav", dtype="float32")[0].T
    np.testing.assert_array_equal(ours, theirs)


def test_a_model_that_does_not_see_says_so(bundle, song, open_page, clip):
    with running_panel(song, "--model", bundle, "-p", "half") as blind:
        page = open_page(blind)
        expect(page.locator(".film").first).to_be_hidden()
        expect(page.locator("#model")).to_contain_text("hears and does not see")
        drop(page, '.lane[data-key="p1"] .view', clip.name, clip.read_bytes())
        page.wait_for_selector("#failed:has-text('does not see')")
        refused = blind.ask("clip/p1/clip.mkv", clip.read_bytes())
        assert refused.status == 400
        assert "no vision encoder" in refused.json["error"]
        assert blind.state()["prompts"][0]["shown"] is None
        page.close()


def test_what_is_no_video_is_refused_in_words(panel, open_page, clip):
    page = open_page(panel)
    drop(page, '.lane[data-key="p1"] .view', "no.mp4", b"no video at all")
    page.wait_for_selector("#failed:has-text('no.mp4: cannot be read as a video')")
    assert panel.state()["clips"] == {}
    panel.ask("clip/p1/clip.mkv", clip.read_bytes())
    for path, body in (
        ("clip/p9/clip.mkv", b"x"),
        ("mask/p1?at=0", b"\1" * 7),
        ("mask/p2?at=0", b"\1" * WIDTH * HEIGHT),
        ("mask/p1?at=-1", b"\1" * WIDTH * HEIGHT),
        ("mask/no-such-mask", None),
        ("mask/p1/mask.mkv", None),
        ("clip/..%2f..%2fetc%2fpasswd/frame?at=0", None),
    ):
        answer = panel.ask(path, body)
        assert answer.status in (400, 404, 405), path
    assert panel.state()["prompts"][0]["shown"]["masks"] == []
    open_page.complaints.clear()


def test_a_frame_is_the_one_that_is_shown_at_its_time(clip):
    assert probe_video(clip).duration_s == pytest.approx(FRAMES / RATE, abs=2e-3)
    for number in range(FRAMES):
        time_s, picture = read_frame(clip, (number + 0.5) / RATE, (WIDTH, HEIGHT))
        assert time_s == pytest.approx(number / RATE, abs=2e-3)
        assert np.abs(picture.astype(int) - shade(number)).max() <= 1
