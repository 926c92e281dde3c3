"""Prompts and spans, written and painted in a real browser."""

import mido
import pytest
from playwright.sync_api import expect

from tests.support.sidecars import wait_until

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.slow]

LENGTH_S = 1.5
#: A pixel of a lane that is 1000 wide, and what rounds.
NEAR_S = 0.004


def box(page, key):
    """The picture of a lane, in pixels of the page."""
    lane = page.locator(f'.lane[data-key="{key}"] .view')
    lane.scroll_into_view_if_needed()
    return lane.bounding_box()


def drag(page, key, start_s, end_s, *, button="left", with_key=None, depth=0.7):
    """Drag over a lane from a second to another, as a hand does: in steps."""
    area = box(page, key)
    at = lambda second: area["x"] + second / LENGTH_S * area["width"]  # noqa: E731
    height = area["y"] + depth * area["height"]
    if with_key:
        page.keyboard.down(with_key)
    page.mouse.move(at(start_s), height)
    page.mouse.down(button=button)
    page.mouse.move(at((start_s + end_s) / 2), height)
    page.mouse.move(at(end_s), height)
    page.mouse.up(button=button)
    if with_key:
        page.keyboard.up(with_key)


def spans(panel, index=0):
    return [
        (span["start_s"], span["end_s"], span["polarity"])
        for span in panel.state()["prompts"][index]["spans"]
    ]


def near(found, expected):
    return len(found) == len(expected) and all(
        one[2] == other[2] and one[:2] == pytest.approx(other[:2], abs=NEAR_S)
        for one, other in zip(found, expected, strict=True)
    )


def painted(panel, *expected, index=0):
    """Wait for a prompt to have exactly these spans."""
    wait_until(lambda: near(spans(panel, index), expected))


def test_spans_are_painted_moved_cut_and_deleted_with_the_mouse(panel, open_page):
    page = open_page(panel)
    drag(page, "p1", 0.3, 0.6)
    painted(panel, (0.3, 0.6, "+"))
    drag(page, "p1", 0.8, 1.0, button="right")
    painted(panel, (0.3, 0.6, "+"), (0.8, 1.0, "-"))
    drag(page, "p1", 1.2, 1.4, with_key="Alt")
    painted(panel, (0.3, 0.6, "+"), (0.8, 1.0, "-"), (1.2, 1.4, "-"))
    expect(page.locator('.lane[data-key="p1"] .span')).to_have_count(3)
    expect(page.locator('.lane[data-key="p1"] .span.not')).to_have_count(2)
    # An edge, then all of it.
    drag(page, "p1", 0.6, 0.7)
    painted(panel, (0.3, 0.7, "+"), (0.8, 1.0, "-"), (1.2, 1.4, "-"))
    drag(page, "p1", 0.5, 0.4)
    painted(panel, (0.2, 0.6, "+"), (0.8, 1.0, "-"), (1.2, 1.4, "-"))
    # What says the opposite is cut where both would be.
    drag(page, "p1", 1.1, 1.3, depth=0.5)
    painted(panel, (0.2, 0.6, "+"), (0.8, 1.0, "-"), (1.1, 1.3, "+"), (1.3, 1.4, "-"))
    first = page.locator('.lane[data-key="p1"] .span').first
    first.hover()
    first.locator("button").click()
    painted(panel, (0.8, 1.0, "-"), (1.1, 1.3, "+"), (1.3, 1.4, "-"))
    assert spans(panel, 1) == []


def test_undo_and_redo_take_back_and_bring_again(panel, open_page):
    page = open_page(panel)
    drag(page, "p1", 0.3, 0.6)
    painted(panel, (0.3, 0.6, "+"))
    drag(page, "p2", 0.5, 0.9, button="right")
    painted(panel, (0.5, 0.9, "-"), index=1)
    page.keyboard.press("Control+z")
    painted(panel, index=1)
    page.locator("#undo").click()
    painted(panel)
    page.keyboard.press("Control+Shift+z")
    painted(panel, (0.3, 0.6, "+"))
    page.locator("#redo").click()
    painted(panel, (0.5, 0.9, "-"), index=1)
    assert not panel.state()["can_redo"]


def test_prompts_are_written_changed_and_removed(panel, open_page):
    page = open_page(panel)
    page.fill("#new-prompt", "dog = everything")
    page.keyboard.press("Enter")
    wait_until(lambda: len(panel.state()["prompts"]) == 3)
    row = panel.state()["prompts"][2]
    assert (row["text"], row["name"], row["stem"]) == ("everything", "dog", "dog")
    assert len({row["colour"] for row in panel.state()["prompts"]}) == 3
    page.wait_for_selector('.lane[data-key="p3"]')
    page.fill('.lane[data-key="p1"] .text', "everything")
    page.keyboard.press("Enter")
    wait_until(lambda: panel.state()["prompts"][0]["text"] == "everything")
    page.fill('.lane[data-key="p1"] .name', "../up")
    page.keyboard.press("Enter")
    page.wait_for_selector("#failed:has-text('cannot name a stem')")
    open_page.complaints.clear()  # The browser notes that the name was refused.
    assert panel.state()["prompts"][0]["name"] == ""
    page.locator('.lane[data-key="p2"] [title="Remove this prompt"]').click()
    wait_until(lambda: [r["id"] for r in panel.state()["prompts"]] == ["p1", "p3"])


def test_everything_is_marked_with_the_keyboard_alone(panel, open_page):
    page = open_page(panel)
    page.keyboard.press("n")
    page.keyboard.type("everything")
    page.keyboard.press("Enter")
    wait_until(lambda: len(panel.state()["prompts"]) == 3)
    page.keyboard.press("Escape")
    page.wait_for_selector('.lane.active[data-key="p3"]')
    page.keyboard.press("ArrowUp")
    page.wait_for_selector('.lane.active[data-key="p2"]')
    # From here to the end, in the marked lane: not here.
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("i")
    wait_until(lambda: panel.state()["selection"] == [1.0, 1.5])
    page.keyboard.press("-")
    painted(panel, (1.0, 1.5, "-"), index=1)
    # The span itself, as a control.
    page.locator('.lane[data-key="p2"] .span').focus()
    page.keyboard.press("ArrowLeft")
    painted(panel, (0.9, 1.4, "-"), index=1)
    page.keyboard.press("Shift+ArrowLeft")
    painted(panel, (0.9, 1.3, "-"), index=1)
    page.keyboard.press("x")
    painted(panel, (0.9, 1.3, "+"), index=1)
    page.keyboard.press("Delete")
    painted(panel, index=1)


def test_marks_and_selections_on_their_way_are_not_taken_back(panel, open_page):
    page = open_page(panel)
    drag(page, "p1", 0.3, 0.6)
    painted(panel, (0.3, 0.6, "+"))
    held, holding = [], True

    def hold(route):
        if holding:
            held.append(route)
        else:
            route.continue_()

    page.route("**/edit", hold)
    page.route("**/select", hold)
    page.locator('.lane[data-key="p1"] .span').focus()
    with page.expect_request("**/edit"):
        page.keyboard.press("ArrowRight")
    page.evaluate("() => stembridge.seek(1)")
    with page.expect_request("**/select"):
        page.keyboard.press("o")
    # Meanwhile something else changes, and the page gets a state without either.
    panel.do("seed", {"seed": 5})
    page.wait_for_function("() => stembridge.state.seed === 5")
    assert page.evaluate("() => stembridge.shownSelection") == [0, 1]
    page.locator('.lane[data-key="p1"] .span').focus()
    page.keyboard.press("ArrowRight")
    holding = False
    for route in held:
        route.continue_()
    page.wait_for_function("() => stembridge.state.prompts[0].spans[0].start_s > 0.45")
    painted(panel, (0.5, 0.8, "+"))
    wait_until(lambda: panel.state()["selection"] == [0, 1])


def drop(page, selector, name, content):
    """Drop a file on an element."""
    page.evaluate(
        """([selector, name, bytes]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], name));
          const target = document.querySelector(selector);
          for (const type of ['dragover', 'drop']) {
            const event = {dataTransfer: data, bubbles: true, cancelable: true};
            target.dispatchEvent(new DragEvent(type, event));
          }
        }""",
        [selector, name, list(content)],
    )


def test_midi_and_label_files_are_dropped_in(panel, open_page, tmp_path):
    page = open_page(panel)
    midi = mido.MidiFile(ticks_per_beat=480)
    track = mido.MidiTrack()
    # At 120 beats a minute: from 0.5 to 1 s.
    track.append(mido.Message("note_on", note=60, velocity=90, time=480))
    track.append(mido.Message("note_off", note=60, time=480))
    midi.tracks.append(track)
    midi.save(tmp_path / "part.mid")
    drop(page, '.lane[data-key="p2"] .view', "part.mid", (tmp_path / "part.mid").read_bytes())
    painted(panel, (0.5, 1.0, "+"), index=1)
    assert spans(panel, 0) == []
    labels = b"0.1\t0.4\thalf\n0.2\t0.9\tvox: everything\n"
    drop(page, "body", "labels.txt", labels)
    painted(panel, (0.1, 0.4, "+"))
    painted(panel, (0.2, 0.9, "+"), index=2)
    assert panel.state()["prompts"][2]["stem"] == "vox"
    drop(page, "body", "<b>song</b>.mp3", b"\xff\xfb\x90\x00" * 20)
    page.wait_for_selector("#failed:has-text('<b>song</b>.mp3')")
    open_page.complaints.clear()


def test_two_pages_on_one_panel_agree(panel, open_page):
    one, other = open_page(panel), open_page(panel, width=640)
    drag(one, "p1", 0.3, 0.6)
    other.wait_for_selector('.lane[data-key="p1"] .span')
    other.fill('.lane[data-key="p2"] .text', "everything")
    other.keyboard.press("Enter")
    wait_until(lambda: one.input_value('.lane[data-key="p2"] .text') == "everything")
    other.locator('.lane[data-key="p2"] .solo').click()
    one.wait_for_selector('.lane[data-key="p2"] .solo[aria-pressed=true]')
