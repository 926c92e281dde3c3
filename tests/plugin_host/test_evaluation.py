"""Scoring a model on mixtures whose stems are known, with a model whose answers are known."""

import json
import os
import shutil

import numpy as np
import pytest
import soundfile

from bridge.engine import Engine
from bridge.errors import InputError
from bridge.request import Prompt, Settings, Span
from onnx_export.evaluation import (
    by_stem,
    evaluate,
    find_cases,
    find_musdb,
    find_songs,
    ideal_ratio_mask,
    image_error_db,
    load_sdr,
    read_prompts,
    summarise,
)
from onnx_export.evaluation.sdr import si_sdr_db
from plugin_host.cli import main
from plugin_host.files.span_files import read_midi_spans
from tests.support.host_audio import RATE, music

MASKED = Settings(reconstruct="mask")


@pytest.fixture
def test_set(tmp_path):
    """Two mixtures; their stems lie in separate bands, so an ideal mask is nearly perfect."""
    for index in range(2):
        folder = tmp_path / "set" / f"{index:03}"
        folder.mkdir(parents=True)
        low = music(seed=index)
        time = np.arange(low.shape[1]) / RATE
        high = np.stack([0.2 * np.sin(2 * np.pi * 8000 * time), 0.1 * np.sin(16000 * np.pi * time)])
        for name, audio in (("half", low), ("nothing", high), ("mixture", low + high)):
            soundfile.write(folder / f"{name}.wav", audio.T, RATE, subtype="FLOAT")
    return tmp_path / "set"


def test_every_stem_of_every_mixture_is_scored(test_set, bundle):
    cases = find_cases(test_set)
    assert [case.name for case in cases] == ["000", "001"]
    mixture, truth = (
        soundfile.read(test_set / "000" / f"{name}.wav", dtype="float32")[0].T
        for name in ("mixture", "half")
    )
    with Engine(bundle) as engine:
        scores = list(evaluate(engine, cases, {"half": "everything"}, settings=MASKED))
        stem = engine.separate(mixture, RATE, [Prompt("everything", "half")], reconstruct="mask")
    assert [(s.case, s.stem) for s in scores] == [
        ("000", "half"), ("000", "nothing"), ("001", "half"), ("001", "nothing"),
    ]  # fmt: skip
    first = scores[0]
    assert first.estimate.si_sdr_db == pytest.approx(si_sdr_db(stem.stems["half"], truth))
    assert first.mixture.si_sdr_db == pytest.approx(si_sdr_db(mixture, truth))
    assert first.oracle.si_sdr_db > first.estimate.si_sdr_db
    assert first.estimate.stft_distance is None  # not asked
    assert summarise(scores).stems == 4


def test_the_ideal_mask_separates_what_does_not_overlap(test_set):
    case = find_cases(test_set)[0]
    mixture, stem = (soundfile.read(path, dtype="float32", always_2d=True)[0].T
                     for path in (case.mixture, case.stems["half"]))  # fmt: skip
    assert si_sdr_db(ideal_ratio_mask(mixture, stem, RATE), stem) > 25


def test_the_image_error_is_a_difference_of_level_differences():
    truth = music()
    estimate = truth * np.array([[1.0], [0.5]], np.float32)
    assert image_error_db(estimate, truth) == pytest.approx(6.02, abs=0.01)
    assert image_error_db(3 * truth, truth) == pytest.approx(0.0, abs=1e-4)
    assert image_error_db(truth[:1], truth[:1]) is None


@pytest.mark.slow
def test_the_command_prints_medians_or_json(test_set, bundle, capsys):
    assert main(["eval", str(test_set), "--model", str(bundle), "--prompt", "half=half"]) == 0
    assert "nothing" in capsys.readouterr().out
    assert main(["eval", str(test_set), "--model", str(bundle), "--limit", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["scores"]) == report["summary"]["stems"] == 2


@pytest.fixture
def musdb(tmp_path):
    """One track in MUSDB18-HQ's layout, its vocals silent."""
    folder = tmp_path / "musdb18hq" / "test" / "Band - Song"
    folder.mkdir(parents=True)
    stems = {name: music(seed=seed) for seed, name in enumerate(("drums", "bass", "other"))}
    stems["vocals"] = np.zeros_like(stems["drums"])
    for name, audio in {**stems, "mixture": sum(stems.values())}.items():
        soundfile.write(folder / f"{name}.wav", audio.T, RATE, subtype="FLOAT")
    return tmp_path / "musdb18hq"


@pytest.mark.slow
def test_musdb_is_read_and_other_is_what_is_left(musdb, bundle, capsys):
    (case,) = find_musdb(musdb)
    mixture, other = (
        soundfile.read(path, dtype="float32")[0].T for path in (case.mixture, case.stems["other"])
    )
    with Engine(bundle) as engine:
        asked = [Prompt("half", name) for name in ("bass", "drums")]
        left = engine.separate(mixture, RATE, asked).residual
        scores = by_stem(list(evaluate(engine, [case], dict.fromkeys(case.stems, "half"),
                                       rest="other")))  # fmt: skip
    assert sorted(scores) == ["bass", "drums", "other"]  # the silent vocals have no SI-SDR
    expected = si_sdr_db(left, other) - si_sdr_db(mixture, other)
    assert scores["other"].improvement_db == pytest.approx(expected)
    assert scores["other"].wrong_drop_db is None
    pytest.importorskip("log_wmse_audio_quality")
    assert main(["eval", f"musdb:{musdb}", "--model", str(bundle), "--json"]) == 0
    stems = json.loads(capsys.readouterr().out)["stems"]
    assert set(stems) == {"bass", "drums", "other", "vocals"}
    silent = stems["vocals"]
    assert silent["estimate"]["si_sdr_db"] is None
    assert silent["improvement_db"] is None
    # An answer that holds something is worse than the ideal mask's, which is silence.
    assert silent["estimate"]["log_wmse"] < silent["oracle"]["log_wmse"] - 1


@pytest.fixture
def songs(tmp_path):
    """A song in the layout of Frets on Fire: half the guitar's length is played."""
    import mido

    folder = tmp_path / "songs" / "pack" / "Song"
    folder.mkdir(parents=True)
    guitar, rest = music(seed=1), music(seed=2)
    guitar[:, : RATE // 2] = 0
    soundfile.write(folder / "guitar.ogg", guitar.T, RATE)
    soundfile.write(folder / "song.ogg", rest[:, :RATE].T, RATE)
    midi = mido.MidiFile(ticks_per_beat=480)
    midi.tracks.append(mido.MidiTrack())  # 120 beats a minute
    midi.tracks[0] += [
        mido.Message("note_on", note=96, velocity=64, time=480),
        mido.Message("note_off", note=96, time=960),
    ]
    midi.save(folder / "notes.mid")
    return tmp_path / "songs"


@pytest.mark.slow
def test_a_song_of_frets_on_fire_is_the_sum_of_its_tracks(songs, bundle, capsys):
    (case,) = find_songs(songs, read_midi_spans)
    mixture, truths, rate = case.read()
    assert rate == RATE
    assert list(truths) == ["guitar", "accompaniment"]
    assert mixture.shape == truths["guitar"].shape == music().shape
    assert not truths["accompaniment"][:, RATE:].any()
    np.testing.assert_array_equal(mixture, truths["guitar"] + truths["accompaniment"])
    assert case.prompt("guitar", "half") == Prompt("half", "guitar", (Span(0.5, 1.5),))
    assert case.prompt("guitar", "half", spans=False) == Prompt("half", "guitar")
    command = ["eval", f"fretsonfire:{songs}", "--model", str(bundle), "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)["stems"]
    assert set(told) == {"guitar", "accompaniment"}
    assert main([*command, "--no-spans"]) == 0
    untold = json.loads(capsys.readouterr().out)["stems"]
    assert told["guitar"]["estimate"] != untold["guitar"]["estimate"]


def test_a_folder_without_songs_is_refused(tmp_path, bundle, capsys):
    assert main(["eval", f"fretsonfire:{tmp_path}", "--model", str(bundle)]) == 2
    assert "song.ogg" in capsys.readouterr().err


@pytest.mark.slow
def test_the_table_can_be_markdown(test_set, bundle, capsys):
    command = ["eval", str(test_set), "--model", str(bundle), "--table", "markdown"]
    assert main(command) == 0
    gains, ends = (
        [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()]
        for part in capsys.readouterr().out.split("\n\n")[1::2]
    )
    assert gains[0][:3] == ["stem", "n", "SI-SDR gain"]
    assert [row[:2] for row in gains[2:]] == [["half", "2"], ["nothing", "2"], ["all", "4"]]
    assert ends[0][:3] == ["stem", "of", "SI-SDR"]
    assert {"SI-SAR", "STFT", "bleedless", "fullness"} <= set(ends[0])
    assert [row[1] for row in ends[2:]] == ["mixture", "model", "ideal mask"] * 3
    for table in (gains, ends):
        assert set("".join(table[1])) == set("-:")
        assert {len(row) for row in table} == {len(table[0])}
    # No sum of the true stems has artefacts, and the mixture is one.
    assert ends[2][ends[0].index("SI-SAR")] == "inf"


def test_compressed_musdb_is_told_apart(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.stem.mp4").touch()
    with pytest.raises(InputError, match="MUSDB18-HQ"):
        find_musdb(tmp_path)


@pytest.mark.slow
def test_prompts_come_from_a_file_and_the_command_line_wins(test_set, bundle, capsys):
    command = ["eval", str(test_set), "--model", str(bundle), "--limit", "1", "--json"]

    def gains(*options):
        assert main([*command, *options]) == 0
        stems = json.loads(capsys.readouterr().out)["stems"]
        return {name: total["improvement_db"] for name, total in stems.items()}

    plain = gains()
    given = gains("--prompt", "half=everything")
    assert given["half"] != plain["half"]
    (test_set / "prompts.toml").write_text('half = ["everything", "all of it"]\n')
    assert gains() == given
    assert gains("--prompt", "half=half") == plain


@pytest.mark.parametrize("text", ["half = 3", "half = []", "half = ", 'half = ["", "x"]'])
def test_prompts_of_another_kind_are_refused(tmp_path, text):
    path = tmp_path / "prompts.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"prompts\.toml"):
        read_prompts(path)


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_prompts_may_come_from_windows(tmp_path, start):
    path = tmp_path / "prompts.toml"
    path.write_bytes(f'{start}drums = "drum kit"\r\n'.encode())
    assert read_prompts(path) == {"drums": ("drum kit",)}


@pytest.mark.parametrize("kind", ["deep", "wide", "device", "pipe"])
def test_prompts_without_end_are_not_read(tmp_path, kind):
    path = tmp_path / "prompts.toml"
    if kind == "deep":
        path.write_text("a = " + "[" * 50_000)
    elif kind == "wide":
        path.write_text("[" + "a." * 50_000 + "a]\n")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    with pytest.raises(InputError, match=r"prompts\.toml"):
        read_prompts(path)


def test_a_stem_of_another_length_is_refused(test_set, bundle):
    path = test_set / "000" / "half.wav"
    soundfile.write(path, music().T[:-5], RATE, subtype="FLOAT")
    with Engine(bundle) as engine, pytest.raises(InputError, match="expected 2 channels of"):
        list(evaluate(engine, find_cases(test_set)))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["no audio", "shape", "cut", "gone", "not a number"])
def test_one_bad_mixture_does_not_end_the_others(test_set, bundle, tmp_path, capsys, damage):
    shutil.copytree(test_set / "000", test_set / "0005")
    bad = test_set / "0005" / "half.wav"
    if damage == "no audio":
        bad.write_bytes(b"RIFF and no audio")
    elif damage == "shape":
        soundfile.write(bad, np.zeros((100, 1)), RATE)
    elif damage == "cut":
        bad.write_bytes(bad.read_bytes()[:-1000])
    elif damage == "gone":
        bad.unlink()
        bad.symlink_to(tmp_path / "nowhere")
    else:
        bad = test_set / "0005" / "mixture.wav"
        soundfile.write(bad, np.full(music().T.shape, np.nan), RATE, subtype="FLOAT")
    out = tmp_path / "report"
    command = ["eval", str(test_set), "--model", str(bundle), "--json", "--out", str(out)]
    assert main(command) == 1
    printed = capsys.readouterr()
    scored = {score["case"] for score in json.loads(printed.out)["scores"]}
    assert scored == {"000", "001"}
    assert json.loads((out / "scores.json").read_text()) == json.loads(printed.out)
    assert str(bad) in printed.err
    assert "defect" not in printed.err
    assert "2 of 3 files done; failed: " in printed.err.splitlines()[-1]


@pytest.mark.slow
def test_a_song_whose_notes_are_damaged_does_not_end_the_others(songs, bundle, capsys):
    good = songs / "pack" / "Song"
    bad = songs / "pack" / "Another"
    shutil.copytree(good, bad)
    (bad / "notes.mid").write_bytes((good / "notes.mid").read_bytes()[:-5])
    command = ["eval", f"fretsonfire:{songs}", "--model", str(bundle), "--json"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert {score["case"] for score in json.loads(printed.out)["scores"]} == {"Song"}
    assert f"{bad / 'notes.mid'}: not a standard MIDI file (it breaks off)" in printed.err
    assert "1 of 2 files done" in printed.err
    # Without spans the notes are of no interest.
    assert main([*command, "--no-spans"]) == 0


def test_sdr_allows_a_filter_and_penalises_noise():
    pytest.importorskip("fast_bss_eval")
    sdr = load_sdr("bss")
    truth = music()
    noise = np.random.default_rng(0).standard_normal(truth.shape).astype(np.float32)
    noise *= np.sqrt(np.sum(truth**2) / np.sum(noise**2))
    less, more = (sdr(truth + share * noise, truth, RATE) for share in (0.1, 0.2))
    assert 19.5 < less < 22.0  # the filter finds a little of the truth in the noise
    assert 5.0 < less - more < 6.5
    filtered = truth + 0.5 * np.roll(truth, 7, axis=1)
    filtered[:, :7] = truth[:, :7]
    assert sdr(filtered, truth, RATE) > 40
    assert si_sdr_db(filtered, truth) < 15
    assert sdr(np.zeros_like(truth), truth, RATE) is None


@pytest.mark.slow
def test_sdr_of_museval_needs_only_the_stem_itself(tmp_path, monkeypatch):
    pytest.importorskip("fast_bss_eval")
    pytest.importorskip("pandas")
    # Its decoder of compressed stems asks for ffmpeg when it is imported, and not again.
    for name in ("ffmpeg", "ffprobe"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    museval = pytest.importorskip("museval")
    truth = np.stack([music(seed=seed)[:, : RATE // 2] for seed in (1, 2)])
    estimate = truth + 0.2 * truth[::-1]
    window = RATE // 4
    known, *_ = museval.metrics.bss_eval(
        truth.transpose(0, 2, 1), estimate.transpose(0, 2, 1), window=window, hop=window,
        compute_permutation=False, framewise_filters=False,
    )  # fmt: skip
    ours = load_sdr("museval")(estimate[0], truth[0], window)
    assert ours == pytest.approx(float(np.median(known[0])))


@pytest.mark.slow
def test_a_report_holds_scores_and_pictures(test_set, bundle, tmp_path, capsys):
    out = tmp_path / "report"
    command = ["eval", str(test_set), "--model", str(bundle), "--sdr", "bss", "--out", str(out)]
    pytest.importorskip("fast_bss_eval")
    assert main(command) == 0
    assert "SDR" in capsys.readouterr().out
    report = json.loads((out / "scores.json").read_text())
    assert len(report["scores"]) == 4
    ends = report["summary"]
    assert ends["mixture"]["sdr_db"] < ends["oracle"]["sdr_db"]
    for name in ("bars", "best", "worst"):
        picture = (out / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
    assert main([*command[:-3], "loud"]) == 2
    assert "museval" in capsys.readouterr().err


def test_a_folder_without_mixtures_is_refused(tmp_path, bundle, capsys):
    with pytest.raises(InputError, match=r"mixture\.wav"):
        find_cases(tmp_path)
    assert main(["eval", f"musdb:{tmp_path}", "--model", str(bundle)]) == 2
    assert "folder per mixture" in capsys.readouterr().err
