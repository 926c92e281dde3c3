"""What is heard, measured in a real browser at the node that everything goes through."""

import base64

import numpy as np
import pytest
import soundfile
from playwright.sync_api import expect

from bridge.bundles.manifest import Sound
from plugin_host.panel.drawing import loudness_lufs
from tests.support import tiny_bundle
from tests.support.host_audio import music
from tests.support.panels import running_panel
from tests.support.sidecars import wait_until

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.slow]

RATE = 44100
#: Samples that an AnalyserNode gives at a time.
SEEN = 32768
LENGTH_S = 12
PLAIN = {"gain_db": 0.0, "pan": 0.0, "mute": False, "solo": False}

#: Makes ``record(seconds)``: once so much has been played since, the last SEEN samples of each side
#: and the level of every stem at that moment. All of it happens in the page, which is in time.
LISTEN = """() => {
  const {context, node} = stembridge.player.output;
  const split = new ChannelSplitterNode(context, {numberOfOutputs: 2});
  node.connect(split);
  const sides = [0, 1].map((channel) => {
    const analyser = new AnalyserNode(context, {fftSize: 32768});
    split.connect(analyser, channel);
    return analyser;
  });
  globalThis.record = async ([from, seconds]) => {
    if (from !== null) stembridge.seek(from);
    await stembridge.player.play();
    const first = stembridge.player.position;
    while (stembridge.player.position === first) await new Promise((go) => setTimeout(go, 20));
    const begun = context.currentTime;
    while (context.currentTime - begun < seconds) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const samples = sides.map((analyser) => {
      const seen = new Float32Array(analyser.fftSize);
      analyser.getFloatTimeDomainData(seen);
      return Array.from(new Uint8Array(seen.buffer), (byte) => String.fromCharCode(byte)).join('');
    });
    const keys = ['p1', 'p2', 'p3', 'residual'];
    const levels = Object.fromEntries(keys.map((key) => [key, stembridge.player.level(key)]));
    return {samples: samples.map(btoa), levels, gaps: stembridge.player.gaps};
  };
}"""

#: Starts noise at many frames of an offline context; how many times could not be told as frame by
#: rate in a double, and how many were not played to the bit.
START = """async ([rate, size, count]) => {
  const {startOf} = await import(new URL('schedule.js', document.baseURI));
  const frames = Array.from({length: count}, (_, n) => 1000 + n * 3 * size + (37 * n * n) % size);
  const context = new OfflineAudioContext(1, frames.at(-1) + size, rate);
  const noise = Float32Array.from({length: size}, () => Math.random() - 0.5);
  const buffer = new AudioBuffer({numberOfChannels: 1, length: size, sampleRate: rate});
  buffer.copyToChannel(noise, 0);
  for (const frame of frames) {
    const node = new AudioBufferSourceNode(context, {buffer});
    node.connect(context.destination);
    node.start(startOf(frame, rate));
  }
  const played = (await context.startRendering()).getChannelData(0);
  const changed = frames.filter((frame) => noise.some((one, at) => played[frame + at] !== one));
  const rounded = frames.filter((frame) => (frame / rate) * rate !== frame);
  return [rounded.length, changed.length];
}"""


@pytest.fixture
def listening(bundle, tmp_path, open_page):
    """A panel with a finished take of a quiet song, and a page that listens to it."""
    path = tmp_path / "song.wav"
    left, right = music(LENGTH_S, RATE)
    soundfile.write(path, np.stack([0.6 * left, 0.3 * right]).T, RATE, subtype="FLOAT")
    prompts = ("-p", "half", "-p", "nothing", "-p", "more=everything")
    with running_panel(path, "--model", bundle, *prompts) as panel:
        panel.do("run", {"whole": True})
        panel.finished()
        page = open_page(panel)
        page.wait_for_selector('#hear-stems[aria-checked="true"]')
        page.evaluate(LISTEN)
        yield panel, page
        page.close()


def stem(panel, key):
    """A stem, or the original, as the page gets it: float32 (2, samples)."""
    take = panel.take()["id"] if key != "original" else "original"
    body = panel.ask(f"audio/{take}/{key}?start=0&samples={LENGTH_S * RATE}").body
    return np.frombuffer(body, "<f4").reshape(2, -1)


def heard(page, from_s=0.0, seconds=1.2):
    """Play from a second on; return the last 0.74 s (2, SEEN) after so many, and all levels.

    A browser that gets no turn on a busy machine has a gap in what it plays, and knows: then it is
    played again.
    """
    for _ in range(10):
        before = page.evaluate("() => stembridge.player.gaps")
        found = page.evaluate("(asked) => record(asked)", [from_s, seconds])
        if found["gaps"] == before:
            break
    else:
        raise AssertionError("ten times a gap")
    sides = [np.frombuffer(base64.b64decode(side), "<f4") for side in found["samples"]]
    return np.stack(sides), found["levels"]


def find(whole, part, tolerance=0.0):
    """Where one channel lies in another; -1 if nowhere. (The sides are not seen at one moment.)"""
    starts = np.arange(len(whole) - len(part) + 1)
    for at in (0, len(part) // 3, len(part) - 1):
        starts = starts[np.abs(whole[starts + at] - part[at]) <= tolerance]
    for start in starts:
        if np.abs(whole[start : start + len(part)] - part).max() <= tolerance:
            return int(start)
    return -1


def test_what_is_soloed_is_heard_to_the_bit_and_nothing_else(listening):
    panel, page = listening
    page.locator('.lane[data-key="p1"] .solo').click()
    wait_until(lambda: panel.state()["strips"].get("p1", {}).get("solo"))
    sound, levels = heard(page)
    # An AnalyserNode on every stem: one sounds, the others are silent, not just soft.
    assert levels.pop("p1") > 0.01
    assert set(levels.values()) == {0}
    for side, expected in zip(sound, stem(panel, "p1"), strict=True):
        assert find(expected, side) >= 0
    # Without solo, muted: it is the one that is silent.
    page.locator('.lane[data-key="p1"] .solo').click()
    page.locator('.lane[data-key="p1"] .mute').click()
    wait_until(lambda: panel.state()["strips"]["p1"] == {**PLAIN, "mute": True})
    _, levels = heard(page)
    assert levels["p1"] == 0
    assert levels["p3"] > 0.01


def test_a_piece_starts_on_a_sample_not_beside_it(panel, open_page):
    page = open_page(panel)
    for rate in (22050, 44100, 48000, 96000):
        rounded, changed = page.evaluate(START, [rate, 2000, 300])
        assert rounded > 20
        assert changed == 0


def test_stems_are_locked_to_the_sample(listening):
    """The stems of this model sum to the song: what is played does at every sample."""
    panel, page = listening
    sound = heard(page, 0.5)[0].astype(np.float64)
    song = stem(panel, "original").astype(np.float64)
    # Four float32 stems, added in the browser.
    for side, expected in zip(sound, song, strict=True):
        assert find(expected, side, 1e-6) >= 0
    # It could not be met by chance.
    assert find(song[0], sound[1], 1e-3) == -1


def test_original_and_stems_are_compared_at_one_loudness(listening):
    panel, page = listening
    # A mix that is 12 dB softer, and off centre.
    for key in ("p1", "p2", "p3", "residual"):
        strip = {"gain_db": -12.0, "pan": 0.3, "mute": False, "solo": False}
        panel.do("mix", {"key": key, "strip": strip})
    # Measured with all of them.
    matched = "() => document.body.dataset.matched ?? ''"
    wait_until(lambda: page.evaluate(matched).count('"gain_db":-12') == 4)
    levels = {}
    for mode in ("heard", "original"):
        if mode == "original":
            page.keyboard.press("a")
        levels[mode] = loudness_lufs(heard(page, 1.0)[0], RATE)
        page.evaluate("() => stembridge.player.pause()")
    assert levels["heard"] == pytest.approx(levels["original"], abs=0.5)
    # It is not by chance: as it is, the original is louder by far.
    assert loudness_lufs(stem(panel, "original"), RATE) > levels["original"] + 6
    expect(page.locator("#hear-original")).to_have_attribute("aria-checked", "true")
    page.keyboard.press("a")
    expect(page.locator("#hear-stems")).to_have_attribute("aria-checked", "true")


def test_the_mix_as_heard_is_exported(listening, tmp_path):
    panel, page = listening
    # Nothing changed: the mix is the sum of the stems, so the song.
    for name, expected in (("plain", None), ("changed", True)):
        if expected:
            page.locator('.lane[data-key="p2"] .mute').click()
            page.locator('.lane[data-key="p1"] .gain').fill("-6")
            page.locator('.lane[data-key="p3"] .pan').fill("1")
            wait_until(lambda: panel.state()["strips"].get("p3", {}).get("pan") == 1)
        page.locator("#save").click()
        with page.expect_download() as loading:
            page.locator("#save-mix").click()
        loading.value.save_as(tmp_path / f"{name}.wav")
        page.keyboard.press("Escape")
    assert loading.value.suggested_filename == "song mix.wav"
    stems = {key: stem(panel, key).astype(np.float64) for key in ("p1", "p2", "p3", "residual")}
    plain = soundfile.read(tmp_path / "plain.wav", dtype="float32")[0].T
    assert np.abs(plain - sum(stems.values())).max() < 1e-6
    assert np.abs(plain - stem(panel, "original")).max() < 1e-6
    changed, rate = soundfile.read(tmp_path / "changed.wav", dtype="float32")
    right_only = np.array([[0.0], [1.0]])
    expected = 10 ** (-6 / 20) * stems["p1"] + right_only * stems["p3"] + stems["residual"]
    assert rate == RATE
    assert np.abs(changed.T - expected).max() < 1e-6
    # And it is what the browser plays.
    sound, _ = heard(page)
    for side, expected in zip(sound, changed.T, strict=True):
        assert find(expected, side, 1e-6) >= 0


def test_the_selection_is_played_again_and_again(listening):
    panel, page = listening
    panel.do("select", {"stretch": [1.0, 1.4]})
    wait_until(lambda: page.evaluate("() => stembridge.state.selection !== null"))
    page.locator('.lane[data-key="p1"] .solo').click()
    wait_until(lambda: panel.state()["strips"].get("p1", {}).get("solo"))
    sound, _ = heard(page, 1.2, seconds=2.0)
    period = round(0.4 * RATE)
    # Without a gap or a sample too many: 0.4 s later it is the same, and it is the selection.
    for side, expected in zip(sound, stem(panel, "p1"), strict=True):
        assert np.array_equal(side[period:], side[:-period])
        turn = np.concatenate([expected[RATE : RATE + period]] * 2)
        assert find(turn, side[:period]) >= 0
    page.keyboard.press("l")
    wait_until(lambda: page.evaluate("() => stembridge.seconds") > 1.6)


def test_takes_are_compared_named_kept_and_thrown_away_by_key(listening, open_page):
    panel, page = listening
    panel.do("seed", {"seed": 3})
    page.keyboard.press("Shift+P")
    wait_until(lambda: len(panel.state()["takes"]) == 2)
    assert panel.finished()["seed"] == 3
    page.wait_for_selector('.take.done.current[data-id="t2"]')
    page.keyboard.press(" ")
    page.wait_for_selector('#play[title^="Pause"]')
    page.keyboard.press("[")
    page.wait_for_selector('.take.current[data-id="t1"]')
    # It goes on playing, from the stems of the other take.
    assert page.evaluate("() => stembridge.player.playing")
    page.keyboard.press("]")
    page.wait_for_selector('.take.current[data-id="t2"]')
    page.keyboard.press("r")
    page.keyboard.type("the good one")
    page.keyboard.press("Enter")
    wait_until(lambda: panel.take()["name"] == "the good one")
    page.keyboard.press("k")
    page.wait_for_selector('.current [data-what="keep"][aria-pressed="true"]')
    assert panel.take()["kept"]
    page.keyboard.press("Shift+Delete")
    page.wait_for_selector("#failed:has-text('unmark it first')")
    assert len(panel.state()["takes"]) == 2
    open_page.complaints.clear()  # The browser notes that it was refused.
    page.keyboard.press("k")
    page.wait_for_selector('.current [data-what="keep"][aria-pressed="false"]')
    page.keyboard.press("Shift+Delete")
    wait_until(lambda: [take["id"] for take in panel.state()["takes"]] == ["t1"])
    wait_until(lambda: panel.state()["current"] == "t1")


def test_a_lane_says_what_the_bundle_makes_of_its_stem(open_page, song, tmp_path):
    known = (Sound("half", ("half",), 4.0), Sound("dog", ("dog barking",), 1.2))
    bundle = tiny_bundle.build(tmp_path / "own", tiny_bundle.Tiny(judge=True, sounds=known))
    (tmp_path / "judged.toml").write_text(
        'format = 1\njudge = true\n[[prompts]]\ntext = "half"\n[[prompts]]\ntext = "helicopter"\n',
        encoding="utf-8",
    )
    with running_panel(song, "--model", bundle, "--preset", tmp_path / "judged.toml") as panel:
        page = open_page(panel, width=640)
        panel.do("run", {"whole": True})
        panel.finished()
        page.wait_for_selector(".take.done")
        half, new = (
            page.locator(f'.lane[data-key="{key}"] .empty').inner_text() for key in ("p1", "p2")
        )
        first, second = panel.take()["stems"][:2]
        assert f"{abs(first['level_db']):.1f} dB below the original" in half
        assert f"judge {first['scores']['overall']:.1f} of 5" in half
        assert "was not trained on" not in half
        assert "own was not trained on 'helicopter'; nearest: " in new
        assert second["note"] in new
        # All of it can be read, also where the page is narrow.
        for box in page.locator(".lane .empty").all():
            sizes = "(one) => [one.scrollWidth - one.clientWidth, one.offsetLeft]"
            beyond, left = box.evaluate(sizes)
            assert beyond <= 0
            assert left >= 0
        page.close()
