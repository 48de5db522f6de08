"""Every reader of files from elsewhere, fed random bytes and random mutations of valid files.

Whatever comes, it is read, or refused in one line that names the file, after seconds of work, and nothing is written.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from sobolev.atari import AtariOptions, RecordedStates, Recording, load_teacher, record, shards, teacher_bytes
from sobolev.images import IN_MEMORY, SOURCES, ImageError, ImageFolder, download
from sobolev.images.download import Source
from sobolev.networks.atari_policies import teacher
from sobolev.seeding import generator
from tests.fake_images import CLASSES, write_cifar10, write_folder, write_mnist

OPTIONS = AtariOptions("breakout", ("noop", "fire", "right", "left"), max_episode_frames=100)


LONGEST = 20  # seconds of work: the time that a clock shows is that of other processes too


def tried(examples: int) -> settings:
    return settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def mutate(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """At each place, from the beginning or from the end, so many bytes become others."""
    for place, removed, inserted in edits:
        place = place % (len(content) + 1)
        content = content[:place] + inserted + content[place + removed :]
    return content


places = st.integers(-600, 600) | st.integers(0, 10**7)
removed = st.integers(0, 8) | st.just(10**7)  # the last cuts the rest off
edits = st.lists(st.tuples(places, removed, st.binary(max_size=8)), min_size=1, max_size=4)
EDITS = edits | st.binary(max_size=300).map(lambda content: [(0, 10**8, content)])  # the last replaces the file
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from([2**63, 10**12]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


@contextmanager
def read_or_refused(folder: Path, kind: type[Exception] = ValueError) -> Iterator[None]:
    def everything() -> list[Path]:
        return sorted(path for path in folder.parent.rglob("*") if path.suffix != ".lock")

    before, began = everything(), time.process_time()
    try:
        yield
    except kind as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert str(folder) in str(error) or "127.0.0.1" in str(error)  # noqa: PT017
    assert time.process_time() - began < LONGEST
    assert everything() == before


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


# Teachers


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory) -> tuple[Path, bytes]:
    file = tmp_path_factory.mktemp("teacher") / "folder" / "teacher.safetensors"
    file.parent.mkdir()
    return file, teacher_bytes(teacher(4, generator(0, "policy")), OPTIONS)


@tried(30)
@given(EDITS)
def test_a_teachers_bytes(teacher_file, edits):
    file, content = teacher_file
    file.write_bytes(mutate(content, edits))
    with read_or_refused(file.parent):
        assert all(tensor.isfinite().all() for tensor in load_teacher(file).policy.parameters())


@tried(60)
@given(JSON | st.dictionaries(st.sampled_from([*vars(OPTIONS)]), JSON))
def test_what_a_teacher_says_it_plays(teacher_file, says):
    file, _ = teacher_file
    fields = vars(OPTIONS) | says if isinstance(says, dict) else says
    file.write_bytes(save({"x": torch.zeros(1)}, {"sobolev atari teacher 1": json.dumps(fields)}))
    with read_or_refused(file.parent):
        load_teacher(file)


# Recordings


@pytest.fixture(scope="module")
def recording(teacher_file, tmp_path_factory, patch) -> tuple[Path, dict[str, bytes]]:
    patch.setattr(shards, "SHARD_STEPS", 10)
    file, content = teacher_file
    file.write_bytes(content)
    path = record(Recording(load_teacher(file), states=35, environments=2), tmp_path_factory.mktemp("recordings"))
    return path, {file.name: file.read_bytes() for file in path.glob("*.*") if file.name != ".lock"}


@tried(150)
@given(EDITS | st.dictionaries(st.sampled_from(list(shards.HEADER)), JSON, min_size=1))
def test_a_recordings_header(recording, changes):
    path, files = recording
    restore(path, files)
    said = files["header.json"]
    changed = mutate(said, changes) if isinstance(changes, list) else json.dumps(json.loads(said) | changes).encode()
    (path / "header.json").write_bytes(changed)
    with read_or_refused(path):
        assert len(RecordedStates.load(path)) == 35


@tried(150)
@given(EDITS, st.sampled_from([None, *shards.SHARD_ARRAYS]))
def test_a_recordings_shard_that_is_signed(recording, edits, array):
    """The file is changed, or an array within it whose checksums are right again."""
    path, files = recording
    restore(path, files)
    shard, header = path / "shard_001.npz", json.loads(files["header.json"])
    changed = mutate(files[shard.name], edits)
    if array:
        buffer = io.BytesIO()
        with (
            zipfile.ZipFile(io.BytesIO(files[shard.name])) as before,
            zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as after,
        ):
            for name in before.namelist():
                content = before.read(name)
                after.writestr(name, mutate(content, edits) if name == f"{array}.npy" else content)
        changed = buffer.getvalue()
    shard.write_bytes(changed)
    header["shards"][shard.name] = hashlib.sha256(changed).hexdigest()
    (path / "header.json").write_text(json.dumps(header))
    with read_or_refused(path):
        shards.read_shard(shard, header)
    with read_or_refused(path):
        read = RecordedStates.load(path)
        assert read.stack(torch.arange(len(read))).shape == (35, 4, 84, 84)


def restore(path: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (path / name).write_bytes(content)


# Images


FILES = ["cifar-10-batches-bin/test_batch.bin", "mnist/t10k-labels-idx1-ubyte.gz"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory, patch) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "folder"
    write_cifar10(folder, patch, 3)
    write_mnist(folder, patch, 4, 3)
    return folder


@tried(100)
@given(EDITS, st.sampled_from(FILES), st.booleans())
def test_sets_in_memory(sets, edits, name, within):
    """A file's bytes, or those that it unpacks to."""
    file = sets / name
    content = file.read_bytes()
    within &= name.endswith(".gz")
    file.write_bytes(gzip.compress(mutate(gzip.decompress(content), edits)) if within else mutate(content, edits))
    try:
        with read_or_refused(sets, ImageError):
            images = IN_MEMORY["mnist" if "mnist" in name else "cifar10"](sets, "test")
            assert len(images) == 3
            assert images.labels_N.max() < 10
    finally:
        file.write_bytes(content)


@pytest.fixture(scope="module")
def tar_file(sets, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("archive") / "a.tar"
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("set/" + "long" * 50), io.BytesIO())
        tar.add(sets / "mnist", "set")
    return file


@tried(150)
@given(EDITS, st.booleans())
def test_archives_from_a_publisher(tar_file, tmp_path_factory, patch, edits, within):
    """Whose checksums are right: the archive's bytes, or those of the tar within it."""
    parent = tmp_path_factory.mktemp("download")
    (parent / "data").mkdir()
    content = tar_file.read_bytes()
    content = gzip.compress(mutate(content, edits)) if within else mutate(gzip.compress(content), edits)
    files = (("http://127.0.0.1/a.tgz", len(content), hashlib.md5(content).hexdigest()),)
    patch.setitem(SOURCES, "set", Source("set", files))
    patch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(content))
    with read_or_refused(parent / "data", ImageError):
        shutil.rmtree(download("set", parent / "data"))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> tuple[Path, list[bytes]]:
    root = write_folder(tmp_path_factory.mktemp("images") / "folder", train=1, val=1)
    exif = Image.Exif()
    exif[274] = 6
    contents = []
    for options in ({"format": "JPEG", "exif": exif}, {"format": "JPEG", "progressive": True}, {"format": "PNG"}):
        buffer = io.BytesIO()
        Image.effect_noise((40, 30), 50).convert("RGB").save(buffer, **options)
        contents.append(buffer.getvalue())
    Image.new("RGBA", (40, 30)).quantize().save(buffer := io.BytesIO(), "PNG", transparency=b"\1" * 9)
    return root, [*contents, buffer.getvalue()]


@pytest.mark.filterwarnings("ignore:.*images in a batch")
@tried(200)
@given(EDITS, st.integers(0, 3))
def test_images_in_a_folder(images, edits, which):
    root, contents = images
    (root / "val" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG").write_bytes(mutate(contents[which], edits))
    with read_or_refused(root, ImageError):
        (pixels, _), *_ = ImageFolder(root, "test").evaluate(3, 8, 8)
        assert pixels.shape == (3, 3, 8, 8)
