"""What commands write: whole or not at all, after the result is shown, over nobody else's files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file

from transferscope import cli
from transferscope.cli import _streams, _terminal
from transferscope.errors import StoreError
from transferscope.storage import atomic
from transferscope.storage.feature_store import FeatureStore

posix = pytest.mark.skipif(os.name == "nt", reason="signals and devices of POSIX")
torch_only = pytest.mark.needs("torch")

ENCODER = "mini/vit-random"
RANK = ("rank", "sklearn/digits", "-e", ENCODER, "-m", "knn", "--per-class", "4")


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> Callable[..., Done]:
    """Run a command in an empty folder with an empty cache, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("warnings.showwarning", lambda *_: None)
    for console in (cli.stdout, cli.stderr):
        monkeypatch.setattr(console, "width", 160)

    def call(*arguments: object, status: int | None = None) -> Done:
        monkeypatch.setattr(sys, "argv", ["transferscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        done = Done(int(str(ended.value.code or 0)), captured.out, captured.err)
        assert "Traceback" not in done.err + done.out
        if status is not None:
            assert done.status == status, done.err + done.out
        return done

    return call


@pytest.fixture
def features(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 3
    values = np.eye(3, 8)[labels] + 0.3 * rng.standard_normal((24, 8))
    np.savez(tmp_path / "features.npz", features=values, labels=labels)
    return tmp_path / "features.npz"


# --- whose file it is ---------------------------------------------------------------------------

TABLES = {"evaluate": ("--scores", "scores.csv", "--accuracy", "accuracy.csv")}


def command_writing(name: str, path: str) -> tuple[str, ...]:
    if name == "trace-ped":
        return ("trace-ped", "features.npz", "--plot", path)
    if name == "evaluate":
        Path("scores.csv").write_text("dataset,encoder,logme\np,a,1\np,b,2\np,c,3\n")
        Path("accuracy.csv").write_text("encoder,p\na,70\nb,90\nc,80\n")
        return ("evaluate", *TABLES["evaluate"], "--scatter", path)
    if name == "probe":
        return ("probe", *RANK[1:4], "--per-class", "8", "--csv", path)
    if name == "extract":
        return ("extract", *RANK[1:4], *RANK[6:], "--out", str(Path(path).parent))
    return (*RANK, "--out", path)


WRITERS = [
    *(("rank", f"r.{kind}") for kind in ("json", "csv", "md", "txt", "odd")),
    *(("trace-ped", f"f.{kind}") for kind in ("png", "pdf", "svg")),
    ("evaluate", "f.png"),
    ("probe", "a.csv"),
    ("extract", "out/mini_vit-random.safetensors"),
]


@pytest.mark.needs("torch", "matplotlib")
@pytest.mark.parametrize(("name", "file"), WRITERS)
def test_only_what_the_same_command_wrote_is_replaced(run, features, tmp_path, name, file):
    path = tmp_path / file
    command = command_writing(name, file)
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    refused = run(*command, status=2)
    assert "--force" in refused.err
    assert refused.out == ""
    assert path.read_text() == "mine"
    run(*command, "--force", status=0)
    written = path.read_bytes()
    assert written != b"mine"
    run(*command, status=0)  # its own
    path.write_bytes(path.read_bytes() + b"\n# my remark")
    run(*command, status=2)
    assert path.read_bytes().endswith(b"my remark")
    path.rename(tmp_path / f"elsewhere{path.suffix}")
    run(*command, status=0)
    assert not list(tmp_path.rglob("*.tmp"))


@torch_only
def test_another_command_s_file_of_the_same_form_is_not_replaced(run, tmp_path):
    run(*command_writing("probe", "a.csv"), status=0)
    before = (tmp_path / "a.csv").read_bytes()
    quick = ("--epochs", 1, "--seeds", 1, "--learning-rates", "1e-3", "--weight-decays", "0")
    run("finetune", *RANK[1:4], "--per-class", 8, *quick, "--csv", "a.csv", status=2)
    assert (tmp_path / "a.csv").read_bytes() == before
    run("probe", "a.csv", "-e", ENCODER, "--csv", "a.csv")  # its own input: already its own file
    Path("data.csv").write_text("text,label\na,x\nb,y\n")
    assert "--force" in run("rank", "data.csv", *RANK[2:], "--out", "data.csv", status=2).err


def test_one_file_for_two_results_and_other_endings_are_refused(run, features):
    pytest.importorskip("matplotlib")
    command = command_writing("evaluate", "x.png")
    assert "two outputs" in run(*command, "--plot", "./x.png", status=2).err
    assert "two outputs" in run(*RANK, "--out", "x.svg", "--plot", "./x.svg", status=2).err
    assert ".svg" in run("trace-ped", features, "--plot", "x.docx", status=2).err


def test_words_that_are_no_folder_of_features_are_refused(run, tmp_path):
    assert "rank --no-store" in run(*RANK, "--store", "none", status=2).err
    assert "./cache" in run("cache", "list", "--store", "cache", status=2).err
    assert not list(tmp_path.iterdir())


@torch_only
def test_a_link_stays_and_its_file_is_written(run, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "r.json").symlink_to(tmp_path / "kept" / "r.json")
    run(*RANK, "--out", "r.json", status=0)
    assert (tmp_path / "r.json").is_symlink()
    assert json.loads((tmp_path / "kept" / "r.json").read_text())["encoders"]


# --- what cannot be written ---------------------------------------------------------------------


@torch_only
@pytest.mark.parametrize("out", ["file/r.json", "folder", "/proc/r.json", "x" * 300 + ".json"])
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux has /proc")
def test_a_forbidden_file_is_told_first_and_the_result_is_shown(run, tmp_path, out):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder").mkdir()
    done = run(*RANK, "--out", out, "--format", "json", status=1)
    assert "Fine-tune" in done.out or ENCODER in done.out
    warning, error = (line for line in done.err.splitlines() if "cannot be written" in line)
    assert warning.startswith("warning")
    assert error.startswith("error")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "file", "folder"]


@torch_only
def test_a_folder_of_results_that_cannot_be_made_ends_the_command_at_once(run, tmp_path):
    (tmp_path / "file").write_text("no folder")
    common = (*RANK[1:2], "-e", ENCODER, "--per-class", 8)
    for command in (
        ("extract", *common, "--out", "file/x"),
        ("finetune", *common, "--out", "file/x"),
        ("pretrain", *common, "--out", "file/x"),
    ):
        done = run(*command, status=1)
        assert "cannot be made" in done.err
    assert not list(tmp_path.glob("cache/**/*.safetensors"))


@pytest.fixture
def full_disk(monkeypatch) -> Iterator[Callable[[int], list[int]]]:
    """A disk that fills up at the k-th file written."""
    fsync = os.fsync

    def fill(k: int) -> list[int]:
        written: list[int] = []

        def fail(number: int) -> None:
            written.append(number)
            if len(written) >= k:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(number)

        monkeypatch.setattr(atomic.os, "fsync", fail)
        return written

    yield fill
    monkeypatch.setattr(atomic.os, "fsync", fsync)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@torch_only
@pytest.mark.parametrize("name", ["rank", "extract", "finetune", "select", "pretrain"])
def test_a_disk_that_is_full_at_any_file_costs_nothing_written_before(
    run, tmp_path, full_disk, name
):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (24, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=images, labels=np.arange(24) % 2)
    common = (name, "noise.npz", "-e", ENCODER)
    quick = ("--epochs", "2", "--batch-size", "16")
    command = {
        "rank": (*common, "-m", "knn", "--out", "out/r.json", "--store", "store"),
        "extract": (*common, "--out", "out", "--store", "store"),
        "finetune": (*common, "--out", "out", *quick, "--seeds", "1", "--csv", "out/a.csv",
                     "--learning-rates", "1e-3", "--weight-decays", "0"),
        "select": (*common, "--out", "out", *quick, "--seeds", "1", "--learning-rates", "1e-3"),
        "pretrain": (*common, "--out", "out", *quick),
    }[name]  # fmt: skip
    written = full_disk(10**9)
    run(*command, status=0)
    n_files, whole = len(written), contents(tmp_path / "out")
    assert n_files >= 2
    for folder in ("out", "store"):
        if (tmp_path / folder).exists():
            (tmp_path / folder).rename(tmp_path / f"undisturbed {folder}")
    before: dict[str, bytes] = {}
    for k in range(1, n_files + 1):
        full_disk(2 if before else 1)  # each turn writes one file more
        done = run(*command)
        if done.status == 0:
            break
        assert "No space left on device" in done.err
        if name == "rank" and "r.json" in done.err:
            assert ENCODER in done.out
        now = contents(tmp_path)
        assert not [file for file in now if file.endswith(".tmp") and "in-use" not in file], k
        lost = [
            file for file in before if file not in now and not file.endswith("last.safetensors")
        ]
        assert not lost
        before = now
    full_disk(10**9)
    run(*command, status=0)
    again = contents(tmp_path / "out")
    assert again.keys() == whole.keys()
    for file in whole:
        if file.endswith(".safetensors"):
            assert again[file] == whole[file], file
    if name in ("rank", "extract"):
        assert FeatureStore(tmp_path / "store").verify() == []


@torch_only
def test_a_full_disk_does_not_cost_the_other_files(run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")

    def refuse(path, content, **options):
        if path.suffix == ".json":
            raise StoreError(f"{path} cannot be written: No space left on device.")
        return write(path, content, **options)

    write = atomic.write_atomically
    monkeypatch.setattr("transferscope.cli._outputs.write_atomically", refuse)
    done = run(*RANK, "--layers", "all", "--out", "r.json", "--plot", "l.png", status=1)
    assert "r.json" in done.err
    assert (tmp_path / "l.png").read_bytes()[:4] == b"\x89PNG"


@posix
@pytest.mark.parametrize("out", ["/dev/full", "/dev/null"])
@torch_only
def test_devices_are_written_to_and_never_replaced(run, out):
    if not Path(out).exists():
        pytest.skip(f"{out} is a device of Linux")
    done = run(*RANK, "--out", out, status=1 if out == "/dev/full" else 0)
    assert ENCODER in done.out
    assert Path(out).is_char_device()


# --- streams ------------------------------------------------------------------------------------


def command_line(*arguments: str, **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "transferscope", *arguments],
        capture_output="stdout" not in options,
        check=False,
        **options,
    )


@posix
def test_standard_output_that_is_full_is_named():
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is a device of Linux")
    with Path("/dev/full").open("wb") as full:
        done = command_line("metrics", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error standard output cannot be written")
    assert b"Traceback" not in done.stderr


@posix
def test_a_reader_that_goes_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = command_line("metrics", "--format", "json", stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_unicode_shows_tables_and_valid_json(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = command_line("metrics", env=environment)
    assert done.returncode == 0
    assert b"|logme" in done.stdout
    done = command_line("metrics", "--format", "json", env=environment)
    plain = command_line("metrics", "--format", "json", env={**environment, "PYTHONIOENCODING": ""})
    assert json.loads(done.stdout.decode(encoding)) == json.loads(plain.stdout)


def test_a_stream_that_failed_stays_silent():
    class Broken:
        def write(self, text: str) -> int:
            raise OSError(errno.EPIPE, "gone")

    stream = _streams.ShelteredStream(Broken())
    assert stream.write("abc") == stream.write("abc") == 3
    assert stream.is_abandoned
    stream.flush()
    assert _streams.ShelteredStream(None).write("closed") == 6


# --- signals ------------------------------------------------------------------------------------


@posix
def test_a_stop_that_somebody_swallowed_is_raised_again():
    with _streams.stoppable(), _terminal.progress_bar() as update:
        update("before", 0, 2)
        with suppress(SystemExit):  # a destructor, a callback, an import that is tried
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        with pytest.raises(_streams.StoppedError) as stopped:
            update("after", 1, 2)
        assert stopped.value.code == 143
    with _terminal.progress_bar() as update:
        update("another command", 0, 1)


@posix
@torch_only
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_says_what_is_kept(tmp_path, number, status):
    process = subprocess.Popen(
        [sys.executable, "-m", "transferscope", "pretrain", "sklearn/digits", "-e", ENCODER,
         "--epochs", "1000", "--max-samples", "60", "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("last.safetensors")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert errors == "interrupted; epochs that ended are kept, the same command continues\n"
    assert out == ""
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "remark"),
    [
        (RANK, "what was extracted is kept, the same command continues"),
        ((*RANK, "--no-store"), "nothing was kept"),
        (("finetune", *RANK[1:4]), "nothing was kept, for want of --out"),
        (
            ("select", *RANK[1:4], "--out", "x"),
            "epochs that ended are kept, the same command continues",
        ),
        (("metrics",), ""),
    ],
)
@torch_only
def test_sigterm_is_answered_like_ctrl_c_everywhere(run, monkeypatch, arguments, remark):
    def stop(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    places = ("ranking.rank", "training.finetune", "training.select", "cli._listings.stdout.print")
    for place in places:
        monkeypatch.setattr(f"transferscope.{place}", stop)
    done = run(*arguments, status=143)
    assert done.err.splitlines() == ["; ".join(filter(None, ["interrupted", remark]))]
    assert signal.getsignal(signal.SIGTERM) is not _streams.StoppedError


# --- names --------------------------------------------------------------------------------------

ODD_NAMES = (
    "[red]",
    "[/]",
    "a[/red]b",
    "[bold",
    "\\[x]",
    "\\",
    ":bomb:",
    "{x}",
    "%s",
    "[link=x]y[/link]",
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_shown_as_they_are(name, capsys):
    _terminal.stdout.print(f"[bold]{_terminal.literal(name)}[/]|", soft_wrap=True)
    assert capsys.readouterr().out == f"{name}|\n"


def test_control_characters_are_shown_and_not_sent(capsys):
    _terminal.stdout.print(_terminal.literal("a\x1b[31m\x07\r\x9b\udcff b"), soft_wrap=True)
    assert capsys.readouterr().out == "a\\x1b[31m\\x07\\r\\x9b\\udcff b\n"


@torch_only
def test_odd_names_of_files_classes_and_folders_pass_through_every_command(run, tmp_path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for kind in ("[red]", "[_]"):
        (tmp_path / "[b]data[_b]" / kind).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            image.fromarray(pixels).save(tmp_path / "[b]data[_b]" / kind / f"[i]{i}.png")
    data, store = "[b]data[_b]", ("--store", "[red]store")
    done = run("rank", data, "-e", f"{ENCODER},timm/[red]x", "-m", "knn", *store)
    assert "[red]x" in done.err
    assert data in run("rank", data, "-e", ENCODER, "-m", "knn", *store, "--out", "[r].md").out
    assert Path("[r].md").is_file()
    listed = run("cache", "list", *store, status=0).out
    assert "[red]store" in listed
    assert data in listed
    shown = run("extract", data, "-e", ENCODER, *store, "--out", "[out]", status=0).out
    assert "[out]/mini_vit-random" in shown
    assert load_file("[out]/mini_vit-random.safetensors")["features"].shape[0] == 12
    assert "[/]no.npz" in run("score", "[/]no.npz", status=2).err
    assert "'[/]'" in run("encoders", "[/]", status=1).err
    assert "[/]" in run("cache", "clear", "[/]", *store, status=2).err


def test_a_name_without_unicode_is_written_and_shown(run, features, tmp_path):
    odd = tmp_path / os.fsdecode(b"f\xff.npz")
    try:
        features.rename(odd)
    except OSError:
        pytest.skip("this file system takes Unicode only")
    assert json.loads(run("score", odd, "--format", "json", status=0).out)
    assert "\\udcff" in run("score", os.fsdecode(b"g\xff.npz"), status=2).err
    atomic.write_atomically(tmp_path / "t.json", json.dumps("\udcff", ensure_ascii=False))
    assert json.loads((tmp_path / "t.json").read_text()) == "\udcff"


# --- the cache ----------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["[/red]", "x" * 300, "a\nb", "file"])
@pytest.mark.parametrize("command", ["list", "clear", "verify"])
def test_the_cache_at_odd_paths(run, tmp_path, store, command):
    (tmp_path / "file").write_text("mine")
    done = run("cache", command, "--store", store, status=2 if store[0] in "xf" else 0)
    if store[0] in "xf":
        assert store in done.err
        assert "Name another" in done.err
    assert (tmp_path / "file").read_text() == "mine"


@posix
@torch_only
def test_a_clear_during_a_rank_leaves_what_it_uses(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    arguments = ["rank", "sklearn/digits", "-e", f"{ENCODER},mini/resnet-random", "-m", "knn"]
    process = subprocess.Popen(
        [sys.executable, "-m", "transferscope", *arguments, "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    store = FeatureStore(tmp_path / "cache" / "transferscope")
    deadline = time.monotonic() + 120
    while not list(store.root.rglob("in-use.*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.005)
    kept = 0
    while process.poll() is None:
        store.clear()
        kept += any(entry.n_shards_present for entry in store.entries())
        time.sleep(0.01)
    out, errors = process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert json.loads(out)["encoders"][0]["error"] is None
    assert kept > 0
    assert store.verify() == []
    store.clear()
    assert store.entries() == []
