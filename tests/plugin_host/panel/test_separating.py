"""Takes in a real browser: previews, the whole song, and what goes wrong on the way."""

import os
import signal

import numpy as np
import pytest
import soundfile
from msgspec.structs import replace
from playwright.sync_api import expect

from bridge.bundles.bundle import load_manifest, write_manifest
from bridge.bundles.manifest import Level
from plugin_host.cli import main
from tests.support import tiny_bundle
from tests.support.host_audio import RATE, music
from tests.support.panels import running_panel
from tests.support.sidecars import wait_until

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.slow]


@pytest.fixture
def slow(bundle, tmp_path):
    """A panel whose takes take a while: three minutes of music in 1000 steps a window."""
    soundfile.write(tmp_path / "long.wav", music(180, 16000).T, 16000, subtype="FLOAT")
    (tmp_path / "slow.toml").write_text(
        'format = 1\nsteps = 1000\n[[prompts]]\ntext = "half"\n', encoding="utf-8"
    )
    options = ("--model", bundle, "--preset", tmp_path / "slow.toml")
    with running_panel(tmp_path / "long.wav", *options) as running:
        yield running


def samples(panel, key):
    """A stem of the current take as the page gets it, (channels, samples)."""
    take = panel.take()
    query = f"audio/{take['id']}/{key}?start={take['start']}&samples={take['samples']}"
    return np.frombuffer(panel.ask(query).body, "<f4").reshape(panel.state()["channels"], -1)


def test_a_preview_is_separated_and_played_at_once(panel, open_page):
    page = open_page(panel)
    panel.do("select", {"stretch": [0.5, 1.0]})
    page.locator("#preview").click()
    page.wait_for_selector(".take.done")
    take = panel.take()
    assert not take["whole"]
    assert (take["start"], take["samples"]) == (RATE // 2, RATE // 2)
    page.wait_for_selector('#play[title^="Pause"]')
    expect(page.locator("#hear-stems")).to_have_attribute("aria-checked", "true")
    # It plays the stretch, again and again, and never leaves it.
    heard = [page.evaluate("stembridge.player.position") for _ in range(30)]
    assert all(
        take["start"] - 1 <= position <= take["start"] + take["samples"] for position in heard
    )


def test_the_whole_song_is_what_separate_writes(panel, open_page, bundle, song, tmp_path):
    page = open_page(panel)
    page.locator("#separate").click()
    page.wait_for_selector(".take.done")
    arguments = ["separate", str(song), "--model", str(bundle), "-p", "half", "-p", "nothing"]
    assert main([*arguments, "--in-process", "-o", str(tmp_path / "out")]) == 0
    for key, name in (("p1", "half"), ("p2", "nothing"), ("residual", "residual")):
        written = tmp_path / "out" / "song" / f"{name}.wav"
        assert np.array_equal(samples(panel, key), soundfile.read(written, dtype="float32")[0].T)
        with page.expect_download() as loading:
            page.locator(f'.lane[data-key="{key}"] a').click()
        assert loading.value.suggested_filename == f"song {name}.wav"
        loading.value.save_as(tmp_path / "loaded.wav")
        assert (tmp_path / "loaded.wav").read_bytes() == written.read_bytes()


def test_asking_again_for_the_same_computes_nothing(panel):
    first = panel.do("run", {"whole": True})
    assert panel.do("run", {"whole": True}) == first
    panel.finished()
    assert panel.do("run", {"whole": True}) == first
    panel.do("seed", {"seed": 7})
    assert panel.do("run", {"whole": True}) != first


def test_a_take_is_cancelled_and_another_follows(slow, open_page):
    page = open_page(slow)
    page.locator("#separate").click()
    page.wait_for_selector(".take.running progress")
    page.locator(".take [data-what=cancel]").click()
    page.wait_for_selector(".take.cancelled")
    assert slow.take()["state"] == "cancelled"
    wait_until(lambda: " running " not in slow.run("jobs").stdout)
    # Nothing of it is left, and the escape key does the same.
    page.locator(".take [data-what=discard]").click()
    wait_until(lambda: slow.state()["takes"] == [])
    page.locator("#separate").click()
    page.wait_for_selector(".take.running")
    page.keyboard.press("Escape")
    page.wait_for_selector(".take.cancelled")


def test_a_page_that_is_reloaded_in_the_middle_finds_its_job_again(slow, open_page):
    page = open_page(slow)
    page.locator("#separate").click()
    page.wait_for_selector(".take.running progress[value]")
    before = slow.take()["progress"]["done"]
    page.reload()
    page.wait_for_selector(".take.running progress[value]")
    assert slow.take()["id"] == "t1"
    wait_until(lambda: slow.take()["progress"] and slow.take()["progress"]["done"] > before)
    # Also with no page at all for a while.
    page.goto("about:blank")
    wait_until(lambda: slow.state()["takes"][0]["state"] != "queued")
    page.goto(slow.address)
    page.wait_for_selector(".take.running")
    expect(page.locator(".take small").first).to_contain_text("s left")


def test_a_sidecar_that_is_killed_in_the_middle_is_started_again(slow, open_page):
    page = open_page(slow)
    page.locator("#separate").click()
    page.wait_for_selector(".take.running progress[value]")
    pid = slow.sidecar_pid()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: slow.sidecar_pid() not in (None, pid))
    page.wait_for_selector(".take.running progress[value]")
    assert slow.take()["id"] == "t1"
    expect(page.locator("#failed")).to_be_empty()


def test_stems_are_drawn_while_they_come(bundle, tmp_path):
    soundfile.write(tmp_path / "long.wav", music(120, 16000).T, 16000, subtype="FLOAT")
    with running_panel(tmp_path / "long.wav", "--model", bundle, "-p", "half") as running:
        running.do("run", {"whole": True})
        for state in running.states():
            (take,) = state["takes"]
            if take["stems"][0]["version"]:
                break
        # Not done yet, and what is there already is at the front. (It may still change.)
        assert take["state"] == "running"
        tile = np.frombuffer(running.ask("peaks/t1/p1/5/0").body, "<i2").reshape(-1, 2)
        assert tile[:8, 1].all()
        running.finished()
        whole = np.frombuffer(running.ask("peaks/t1/p1/5/0").body, "<i2").reshape(-1, 2)
        assert np.count_nonzero(whole[:, 1]) == -(-120 * 16000 // (64 * 32))


@pytest.fixture
def drafting(tmp_path):
    """A model whose draft takes a while, and half a minute and a little more of music."""
    bundle = tiny_bundle.build(tmp_path / "drafting")
    levels = {"draft": Level(solver="euler", steps=60)}
    write_manifest(replace(load_manifest(bundle), qualities=levels), bundle)
    path = tmp_path / "long.wav"
    soundfile.write(path, music(31, 16000).T, 16000, subtype="FLOAT")
    return path, bundle


def in_steps(tmp_path, steps):
    """A preset with the prompt "half" and so many steps."""
    path = tmp_path / f"{steps}.toml"
    path.write_text(f'format = 1\nsteps = {steps}\n[[prompts]]\ntext = "half"\n', encoding="utf-8")
    return path


def by_command(drafting, tmp_path, *options):
    """The stem that ``separate`` writes."""
    path, bundle = drafting
    arguments = ["separate", str(path), "--model", str(bundle), "-p", "half", "--in-process"]
    folder = tmp_path / "by command"
    assert main([*arguments, *options, "-o", str(folder)]) == 0
    return soundfile.read(folder / path.stem / "half.wav", dtype="float32")[0].T


def test_a_draft_of_a_long_song_is_seen_and_heard_first(drafting, tmp_path, open_page):
    path, bundle = drafting
    # In so many steps that the stems are not there before the draft was looked at.
    options = ("--model", bundle, "--preset", in_steps(tmp_path, 1000))
    with running_panel(path, *options) as panel:
        page = open_page(panel)
        panel.do("run", {"whole": True})
        page.wait_for_selector(".take.running .choose small:has-text('draft: ')")
        page.wait_for_selector('.lane[data-key="p1"] .empty:has-text("draft · ")')
        assert panel.take()["state"] == "running"
        expect(page.locator("#hear-stems")).to_be_enabled()
        heard = samples(panel, "p1")
        page.locator("#play").click()
        page.wait_for_function("() => stembridge.player.level('p1') > 0")
        page.locator("#play").click()
        # It is no stem yet: nothing can be written or dragged out.
        assert panel.ask("stems", {}).status == 400
        expect(page.locator('.lane[data-key="p1"] a')).to_be_hidden()
        page.locator(".take [data-what=cancel]").click()
        page.wait_for_selector(".take.cancelled")
        page.close()
    assert np.array_equal(heard, by_command(drafting, tmp_path, "--quality", "draft"))


def test_stems_take_the_place_of_their_draft(drafting, tmp_path):
    path, bundle = drafting
    options = ("--model", bundle, "--preset", in_steps(tmp_path, 4))
    with running_panel(path, *options) as panel:
        panel.do("run", {"whole": True})
        take = panel.finished()
        assert (take["state"], take["draft"]) == ("done", False)
        stem = samples(panel, "p1")
    assert np.array_equal(stem, by_command(drafting, tmp_path, "--steps", "4"))


def test_without_a_prompt_there_is_nothing_to_separate(panel, open_page):
    page = open_page(panel)
    for key in ("p1", "p2"):
        page.locator(f'.lane[data-key="{key}"] [title="Remove this prompt"]').click()
    page.wait_for_selector("#separate:disabled")
    assert panel.state()["prompts"] == []
    answer = panel.ask("run", {"whole": True})
    assert answer.status == 400
    assert "say what to extract" in answer.json["error"]
    page.fill("#new-prompt", "half")
    page.locator("#separate").click()
    page.wait_for_selector(".take.done")
    assert [stem["stem"] for stem in panel.take()["stems"]] == ["half", "residual"]


def test_ctrl_c_ends_it_at_once_and_the_page_says_so(panel, open_page):
    page = open_page(panel)
    panel.process.send_signal(signal.SIGINT)
    _, err = panel.process.communicate()
    assert panel.process.returncode == 0
    assert err.splitlines() == ["stembridge: panel closed"]
    page.wait_for_selector("#failed:has-text('The panel does not answer')")
    open_page.complaints.clear()  # The browser notes that nobody is there.
