import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bridge.errors import InputError
from bridge.request import Prompt, Span
from plugin_host.files import stem_files
from plugin_host.files.audio_files import AudioInfo, read_audio
from plugin_host.files.stem_files import (
    StemPlan,
    comment_of,
    fit_integers,
    job_tag,
    plan_tracks,
    refuse_foreign_files,
    write_stems,
)

RATE = 44100


def info(path="song.wav", subtype="PCM_16"):
    return AudioInfo(Path(path), RATE, 2, 1000, "WAV", subtype)


def stems(seed=0, level=0.3):
    rng = np.random.default_rng(seed)
    drums, bass = (rng.uniform(-level, level, (2, 1000)).astype(np.float32) for _ in range(2))
    mixture = rng.uniform(-level, level, (2, 1000)).astype(np.float32)
    return mixture, {"drums": drums, "bass": bass, "residual": mixture - drums - bass}


def test_stems_are_written_under_their_names(tmp_path):
    _, audio = stems()
    plan = StemPlan(tmp_path / "out" / "song", "FLOAT")
    files = write_stems(plan, audio, RATE, subtype="FLOAT", tag="t")
    assert files == {name: plan.folder / f"{name}.wav" for name in audio}
    assert sorted(p.name for p in plan.folder.iterdir()) == [
        "bass.wav",
        "drums.wav",
        "residual.wav",
    ]
    for name, path in files.items():
        assert np.array_equal(read_audio(path)[0], audio[name])


@pytest.mark.parametrize("fails_at", ["write_audio", "replace_file"])
def test_a_failure_leaves_nothing(tmp_path, monkeypatch, fails_at):
    real = getattr(stem_files, fails_at)
    calls = []

    def fail_at_the_second(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(stem_files, fails_at, fail_at_the_second)
    plan = StemPlan(tmp_path / "deep" / "out" / "song", "FLOAT")
    with pytest.raises(KeyboardInterrupt):
        write_stems(plan, stems()[1], RATE, subtype="FLOAT", tag="t")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="choose another -o"):
        write_stems(
            StemPlan(tmp_path / "out" / "song", "FLOAT"), stems()[1], RATE, subtype="FLOAT", tag=""
        )


def test_only_files_of_the_same_job_are_replaced(tmp_path):
    mixture, audio = stems()
    prompts = [Prompt("drums")]
    tag = job_tag(mixture, info(), prompts, {"seed": 0})
    plan = StemPlan(tmp_path, "FLOAT")
    paths = list(write_stems(plan, audio, RATE, subtype="FLOAT", tag=tag).values())

    refuse_foreign_files(paths, tag, overwrite=False)
    other = job_tag(mixture, info(), prompts, {"seed": 1})
    with pytest.raises(InputError, match="--overwrite"):
        refuse_foreign_files(paths, other, overwrite=False)
    refuse_foreign_files(paths, other, overwrite=True)
    (tmp_path / "drums.wav").write_text("somebody's notes")
    with pytest.raises(InputError, match=r"drums\.wav exists"):
        refuse_foreign_files(paths, tag, overwrite=False)


@pytest.mark.parametrize("place", [f"out {number}" for number in range(10)])
def test_of_two_runs_into_one_folder_one_is_refused(tmp_path, place):
    plan = StemPlan(tmp_path / place / "song", "FLOAT")
    start = threading.Barrier(2)
    jobs = {"one": stems(1)[1], "two": stems(2)[1]}

    def write(tag):
        start.wait()
        try:
            write_stems(plan, jobs[tag], RATE, subtype="FLOAT", tag=tag)
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(2) as pool:
        refusals = dict(zip(jobs, pool.map(write, jobs), strict=True))
    winners = [tag for tag, refusal in refusals.items() if refusal is None]
    written = {path.name: comment_of(path) for path in plan.folder.glob("*")}
    assert len(winners) == 1
    assert set(written.values()) == set(winners)
    assert len(written) == 3


def test_a_folder_in_the_way_is_never_replaced(tmp_path):
    (tmp_path / "drums.wav").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        refuse_foreign_files([tmp_path / "drums.wav"], "t", overwrite=True)


def test_a_picture_of_somebody_else_is_in_the_way(tmp_path):
    picture = tmp_path / "spectrograms.png"
    picture.write_bytes(b"\x89PNG holiday")
    with pytest.raises(InputError, match="exists"):
        refuse_foreign_files([picture], "t", overwrite=False)
    picture.write_bytes(b"\x89PNG Software stembridge")
    refuse_foreign_files([picture], "t", overwrite=False)


def test_the_tag_depends_on_all_that_decides_the_stems():
    mixture, _ = stems()
    base = job_tag(mixture, info(), [Prompt("drums")], {"seed": 0})
    others = {
        job_tag(mixture * 2, info(), [Prompt("drums")], {"seed": 0}),
        job_tag(mixture, info(), [Prompt("bass")], {"seed": 0}),
        job_tag(mixture, info(), [Prompt("drums", spans=[Span(0, 1)])], {"seed": 0}),
        job_tag(mixture, info(), [Prompt("drums")], {"seed": 0, "steps": 2}),
    }
    assert base not in others
    assert len(others) == 4
    assert base == job_tag(mixture.copy(), info("b.wav"), [Prompt("drums")], {"seed": 0})


@pytest.mark.parametrize("second", ["a/song.flac", "a/SONG.wav"])
def test_two_inputs_of_one_name_are_refused(second):
    with pytest.raises(InputError, match="rename one"):
        plan_tracks([info("song.wav"), info(second)], Path("out"), "FLOAT")


@pytest.mark.parametrize(
    ("subtype", "kept"),
    [("PCM_16", "PCM_16"), ("PCM_24", "PCM_24"), ("VORBIS", "FLOAT"), ("PCM_32", "FLOAT")],
)
def test_the_input_subtype_is_kept_where_wav_has_it(subtype, kept):
    assert plan_tracks([info(subtype=subtype)], Path("o"), "input")[0].subtype == kept
    assert plan_tracks([info(subtype=subtype)], Path("o"), "FLOAT")[0].subtype == "FLOAT"


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_integer_stems_sum_to_the_integer_mixture_exactly(tmp_path, subtype):
    soundfile.write(tmp_path / "mix.wav", stems()[0].T, RATE, subtype=subtype)
    mixture, _ = read_audio(tmp_path / "mix.wav")
    _, audio = stems()
    audio["residual"] = mixture - audio["drums"] - audio["bass"]
    written, used = fit_integers(mixture, audio, subtype, sums=True)
    assert used == subtype
    files = write_stems(StemPlan(tmp_path / "o", subtype), written, RATE, subtype=used, tag="")
    read = [soundfile.read(path, dtype="int32")[0].astype(np.int64) for path in files.values()]
    assert np.array_equal(sum(read), soundfile.read(tmp_path / "mix.wav", dtype="int32")[0])


def test_stems_that_would_clip_become_float():
    mixture, audio = stems()
    audio["drums"] = audio["drums"] + 1.0
    written, used = fit_integers(mixture, audio, "PCM_16", sums=True)
    assert used == "FLOAT"
    assert np.array_equal(written["drums"], audio["drums"])
