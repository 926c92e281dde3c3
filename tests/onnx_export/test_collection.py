"""The pool of real sound: by family and group, never a recording on both sides, licences kept."""

import csv
import subprocess

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_export.training.collect import MODULES, collect, collect_modules, credits_table
from onnx_export.training.stem_pool import (
    INDEX_FILE,
    POOL_RATE,
    Origin,
    Pool,
    StemPool,
    allowed,
    draws_validation,
    is_held_out_group,
    open_pool,
    read_mono,
    synthesise_pool,
)
from onnx_export.training.sung import (
    _world,
    another_singer,
    choir,
    collect_sung,
    sing,
    sung_share,
)
from tests.support.modules import write_module

COLUMNS = ("path", "label", "text", "seconds", "group", "song", "stem", "source", "author",
           "licence", "onsets")  # fmt: skip


def origin(licence="CC0-1.0"):
    return Origin("rain", "rain", "freesound-1", "owner/name@1:rain.wav", "Someone", licence)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Forty recordings of dogs, each a tone of its own; hits of a kick; two singers; a song."""
    root = tmp_path_factory.mktemp("recordings")
    rows = []

    def add(name, label, group, hertz, seconds=2.0, song="", stem=""):
        time = np.arange(int(seconds * 24000)) / 24000
        soundfile.write(root / f"{name}.flac", 0.3 * np.sin(2 * np.pi * hertz * time), 24000)
        rows.append({
            "path": f"{name}.flac", "label": label, "text": label.replace("-", " "),
            "seconds": seconds, "group": group, "song": song, "stem": stem,
            "source": f"owner/{group}@1:{name}.wav", "author": "Someone", "licence": "CC0-1.0",
        })  # fmt: skip

    for number in range(40):
        add(f"dog{number}", "dog-barking", f"berklee-dog{number}", 300 + 50 * number)
    for number in range(6):
        add(f"kick{number}", "kick-drum", "muldjordkit", 60 + number, 0.03)
    add("man", "vocals", "vocobox-martin", 200, 8.0)
    add("woman", "vocals", "berklee-femalevoice", 400, 8.0)  # held out
    for stem in ("drums", "electric-bass"):
        add(f"song-{stem}", stem, "efree-lithium", 100, 8.0, "Lithium part 1", stem)
    with (root / "index.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", quoting=csv.QUOTE_NONE)
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture(scope="module")
def pool(recordings, tmp_path_factory):
    root = tmp_path_factory.mktemp("pool")
    collect(root, [recordings], None, 1, lambda _stage, _done, _total: None)
    return root


def tones(path):
    """Return which of the dogs a stem holds, by the peaks of its spectrum."""
    audio = np.load(path).astype(float)
    spectrum = np.abs(np.fft.rfft(audio))
    hertz = np.arange(len(spectrum)) * POOL_RATE / len(audio)
    level = [spectrum[np.abs(hertz - 300 - 50 * k) < 3].max() for k in range(40)]
    return {k for k in range(40) if level[k] > 0.05 * max(level)}


@pytest.mark.slow
def test_recordings_stay_on_their_side_of_the_split(pool):
    expected = {"train": set(), "valid": set(), "test": set()}
    for number in range(40):
        group = f"berklee-dog{number}"
        side = ("test" if is_held_out_group(group)
                else "valid" if draws_validation(group) else "train")  # fmt: skip
        expected[side].add(number)
    assert all(expected.values())
    found = {
        split: set().union(*(tones(p) for p in (pool / split / "dog-barking").glob("*.npy")))
        for split in expected
    }
    assert found == expected


@pytest.mark.slow
def test_singers_are_told_apart_and_the_held_out_one_never_trains(pool):
    assert list((pool / "train" / "male-singer").glob("*.npy"))
    assert not (pool / "train" / "female-singer").exists()
    assert list((pool / "test" / "female-singer").glob("*.npy"))


def test_stems_of_a_song_stay_together_in_time(pool):
    (part,) = StemPool(pool, "train")._parts
    song = next(stems for stems in part.songs if len(stems) > 1)
    assert sorted(family for family, _ in song) == ["drums", "electric-bass"]
    assert {len(np.load(path)) for _, path in song} == {8 * POOL_RATE}


def test_hits_are_played_for_half_a_minute(pool):
    for path in (pool / "train" / "kick-drum").glob("*.npy"):
        audio = np.load(path).astype(float)
        assert 25 < len(audio) / POOL_RATE < 45
        sounding = np.abs(audio).reshape(-1, POOL_RATE // 100)[:3000].max(axis=1) > 300
        assert 0.05 < sounding.mean() < 0.95


def test_the_index_tells_of_every_stem(pool):
    with (pool / INDEX_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    on_disk = {p.relative_to(pool).as_posix() for p in pool.glob("*/*/*.npy")}
    assert {row["path"] for row in rows} == on_disk
    assert {row["licence"] for row in rows} == {"CC0-1.0"}
    assert all(row["author"] and row["source"] for row in rows)
    stems = StemPool(pool, "train")
    assert stems.text(next((pool / "train" / "dog-barking").glob("*.npy"))) == "dog barking"
    assert "vocals" in stems.prompted  # what a singer is a kind of
    assert stems.kinds_of("vocals") == ["lead-vocals", "male-singer"]


def test_a_singer_is_heard_with_another_body_too(pool):
    written = Pool(pool).stems("train", "lead-vocals")
    assert {origin.group for _, origin in written} == {"changed-vocobox-martin"}
    assert not (pool / "test" / "lead-vocals").exists()


def test_a_second_folder_adds_to_a_family_that_the_first_has(recordings, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    text = (recordings / "index.tsv").read_text()
    rows = [line for line in text.splitlines() if line.startswith(("path", "man"))]
    (other / "index.tsv").write_text("\n".join(rows).replace("vocobox-martin", "choir-anna") + "\n")
    (other / "man.flac").write_bytes((recordings / "man.flac").read_bytes())
    root = tmp_path / "pool"
    collect(root, [recordings, other], None, 1, lambda *_: None, 0, 0)
    groups = {origin.group for family in ("male-singer", "lead-vocals")
              for _, origin in Pool(root).stems("train", family)}  # fmt: skip
    assert groups == {"vocobox-martin", "choir-anna"}


@pytest.mark.needs("libopenmpt0")
@pytest.mark.slow
def test_instruments_of_modules_that_are_not_held_out_become_stems(tmp_path):
    cache, pool = tmp_path / "packages", Pool(tmp_path / "pool")
    for source in MODULES:
        folder = cache / source.package
        folder.mkdir(parents=True)
        kind = source.pattern.split(".")[-1]
        for name in ("pingus-1", "pingus-2", "gd-matth"):  # the first is held out of its package
            write_module(folder / f"{name}.{kind}", ["BassDrum 1", "slap bass", "lead"])
    written = collect_modules(cache, pool)
    assert written == len(list(pool.root.glob("*/*/*.npy"))) > 0
    for split in ("train", "valid"):
        for family in ("drums", "bass"):
            groups = {origin.group for _, origin in pool.stems(split, family)}
            assert not groups & {"pingus-data-pingus-1", "pingus-data-gd-matth"}
    assert not list(pool.root.glob("*/other"))
    songs = StemPool(pool.root, "train")._parts[0].songs
    assert {tuple(sorted(family for family, _ in stems)) for stems in songs} == {("bass", "drums")}
    assert collect_modules(cache, pool) == 0


def test_whoever_sang_much_does_not_drown_the_others(tmp_path):
    pool = Pool(tmp_path)
    sound = np.full(POOL_RATE, 0.5, np.float32)
    for group, count in (("often", 81), ("once", 1)):
        who = Origin("rain", "", group, "owner/name", "Someone", "CC0-1.0")
        for number in range(count):
            pool.add("train", who, f"{group}-{number}", "rain", sound)
    pool.add("train", Origin("wind", "", "w", "owner/name", "Someone", "CC0-1.0"), "w", "w", sound)
    pool.save()
    stems, rng = StemPool(tmp_path, "train"), np.random.default_rng(0)
    once = [stems.any_stem(rng, "rain").name.startswith("once") for _ in range(400)]
    assert 0.05 < np.mean(once) < 0.16  # 1 in 10, not 1 in 82


def test_what_is_there_is_not_made_again(recordings, pool):
    before = {path: path.stat().st_mtime_ns for path in pool.glob("*/*/*.npy")}
    collect(pool, [recordings], None, 1, lambda _stage, _done, _total: None)
    assert {path: path.stat().st_mtime_ns for path in pool.glob("*/*/*.npy")} == before


def test_everybody_who_is_heard_in_training_gets_credit_and_nobody_else(recordings):
    lines = credits_table([recordings]).splitlines()[2:]
    sources = {line.split(" | ")[0].removeprefix("| ") for line in lines}
    assert {"owner/vocobox-martin", "owner/efree-lithium", "Debian festvox-ru"} <= sources
    assert "owner/berklee-femalevoice" not in sources  # held out
    assert all(line.count(" | ") == 3 for line in lines)


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC0-1.0", True),
        ("CC-BY", True),
        ("CC-BY-4.0", True),
        ("CC-BY-SA-4.0 (pack; this file CC0-1.0)", True),
        ("CC-BY-3.0 | GPL-2+", True),
        ("Public domain", True),
        ("GPL-3.0", True),
        ("GPL-2", False),
        ("CC-BY-SA-3.0", False),
        ("CC-BY-NC-4.0", False),
        ("CC-BY-ND-4.0", False),
        ("CC0-1.0 | CC-BY-NC-3.0", False),
        ("", False),
    ],
)
def test_licences_that_allow_training(licence, expected):
    assert allowed(licence) is expected


def test_a_stem_under_another_licence_is_refused(tmp_path):
    noise = np.random.default_rng(0).standard_normal(POOL_RATE).astype(np.float32)
    with pytest.raises(ValueError, match=r"name@1:rain\.wav.*CC-BY-NC-4\.0"):
        Pool(tmp_path).add("train", origin("CC-BY-NC-4.0"), "song", "stem", noise)
    assert not list(tmp_path.glob("*/*/*.npy"))


def test_a_pool_of_another_rate_is_refused(tmp_path):
    folder = tmp_path / "train" / "bass"
    folder.mkdir(parents=True)
    np.save(folder / "s0__old.npy", np.zeros(100, np.int16))
    for add_to in (open_pool, Pool):
        with pytest.raises(ValueError, match=r"24000 Hz.*16000 Hz"):
            add_to(tmp_path)
    with pytest.raises(ValueError, match=r"24000 Hz.*16000 Hz"):
        synthesise_pool(tmp_path, 1, 1, "valid")


@settings(max_examples=30)
@given(
    rate=st.sampled_from([8000, 22050, 24000, 44100, 48000]),
    channels=st.integers(1, 3),
    offset=st.floats(-0.3, 0.3),
)
def test_files_are_read_as_mono_at_the_rate_of_the_pool_without_offset(
    tmp_path_factory, rate, channels, offset
):
    path = tmp_path_factory.mktemp("file") / "a.wav"
    tone = 0.4 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate) + offset
    soundfile.write(path, np.repeat(tone[:, None], channels, axis=1), rate)
    audio = read_mono(path)
    assert audio.dtype == np.float32
    assert len(audio) == pytest.approx(POOL_RATE, abs=1)
    assert abs(audio.mean()) < 1e-3
    assert np.abs(np.fft.rfft(audio)).argmax() == pytest.approx(440, abs=1)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    path = tmp_path_factory.mktemp("speech") / "spoken.wav"
    words = "we walked along the river until the evening light was gone and nobody said a word"
    subprocess.run(["espeak-ng", "-v", "en-us", "-w", path, words], check=True)
    return read_mono(path)


@pytest.mark.needs("espeak-ng")
def test_spoken_words_are_sung(spoken):
    line, family = sing(np.random.default_rng(3), spoken)
    assert family == "male-singer"  # espeak's voice is a man's
    assert np.abs(line).max() == pytest.approx(0.7)
    assert len(line) > len(spoken)  # vowels are held
    assert sung_share(spoken) < 0.1
    assert sung_share(line) > 0.5


@pytest.mark.slow
@pytest.mark.needs("espeak-ng")
def test_a_line_depends_on_its_seed_alone(spoken):
    first, again, other = (sing(np.random.default_rng(seed), spoken)[0] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert len(first) != len(other) or not np.allclose(first, other)


def test_what_is_no_speech_is_not_sung():
    assert sing(np.random.default_rng(0), np.zeros(4 * POOL_RATE, np.float32)) is None
    noise = np.random.default_rng(0).standard_normal(4 * POOL_RATE).astype(np.float32)
    assert sing(np.random.default_rng(0), noise) is None


@pytest.mark.slow
@pytest.mark.needs("espeak-ng")
def test_another_singer_keeps_the_time_and_has_another_pitch(spoken):
    def middle_hertz(line):
        pitch, _ = _world().dio(line.astype(np.float64), POOL_RATE)
        return np.median(pitch[pitch > 0])

    line = sing(np.random.default_rng(3), spoken)[0]
    others = [another_singer(np.random.default_rng(seed), line) for seed in (1, 1, 2)]
    assert np.array_equal(others[0], others[1])
    for seed, other in zip((1, 2), others[1:], strict=True):
        moved = np.random.default_rng(seed).uniform(-8, 8)  # the first that is drawn
        assert 12 * np.log2(middle_hertz(other) / middle_hertz(line)) == pytest.approx(moved, abs=1)
        assert len(other) <= len(line) < len(other) + POOL_RATE // 10
        loudness = [np.abs(x[: len(other) // 240 * 240]).reshape(-1, 240).max(axis=1)
                    for x in (line, other)]  # fmt: skip
        assert np.corrcoef(*loudness)[0, 1] > 0.7
    assert another_singer(np.random.default_rng(0), np.zeros(POOL_RATE, np.float32)) is None


@pytest.mark.needs("espeak-ng")
def test_voices_behind_a_line_are_as_long_and_more(spoken):
    line = sing(np.random.default_rng(3), spoken)[0]
    together = choir(np.random.default_rng(0), line, 4)
    assert together.shape == line.shape
    assert abs(np.corrcoef(together, line)[0, 1]) < 0.9


@pytest.mark.needs("espeak-ng")
@pytest.mark.slow
def test_speakers_sing_on_their_side_of_the_split(spoken, tmp_path):
    pool = Pool(tmp_path)
    speech = np.tile(spoken, 4)
    for split in ("train", "valid"):
        speaker = Origin("speech", "", f"speaker-{split}", "spoken", "Someone", "CC0-1.0")
        for take in range(6):
            pool.add(split, speaker, f"{split}-{take}", "said", np.roll(speech, take * 9000))
    assert collect_sung(pool, minutes=0.8) > 0
    for split in ("train", "valid"):
        lines = pool.stems(split, "male-singer")
        assert lines
        assert {o.group for _, o in lines} == {f"sung-speaker-{split}"}
        assert {o.source for _, o in lines} == {"sung with WORLD by spoken"}
    assert collect_sung(pool, minutes=0.8) == 0
