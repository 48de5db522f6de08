"""Data sets read pixel by pixel, damage refused, downloads whole or not at all, augmentation against naive loops."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import os
import re
import shutil
import socket
import tarfile
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageEnhance
from sklearn.datasets import load_digits
from tqdm import tqdm

from experiments.synthetic_gradients.downloads import fetch
from experiments.synthetic_gradients.settings import SIDES
from scripts import download as download_script
from sobolev.images import IN_MEMORY, SOURCES, ImageError, ImageFolder, ImageSet, download, photometric, shift_and_flip
from sobolev.images.download import Source
from sobolev.seeding import generator
from tests.fake_images import CLASSES, write_cifar10, write_folder, write_mnist


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=rng(), dtype=torch.uint8)


# Augmentation


@pytest.mark.parametrize("flip", [False, True])
def test_every_shift_and_flip_is_a_crop_of_the_padded_image_and_all_are_as_likely(flip):
    padding, n = 2, 4000
    image = noise(3, 6, 9)
    padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)))
    crops = [padded[:, y : y + 6, x : x + 9] for y in range(5) for x in range(5)]
    crops += [crop[:, :, ::-1] for crop in crops] if flip else []
    which = {crop.tobytes(): index for index, crop in enumerate(crops)}
    moved = shift_and_flip(image.expand(n, -1, -1, -1), rng(), padding, flip)
    assert moved.dtype == torch.uint8
    counts = np.bincount([which[sample.numpy().tobytes()] for sample in moved], minlength=len(crops))
    expected = n / len(crops)
    assert ((counts - expected) ** 2 / expected).sum() < 2 * len(crops)  # chi-squared


def test_samples_are_not_mixed_and_the_generator_decides():
    pixels = noise(1, 1, 4, 4) // 2 + torch.tensor([0, 128], dtype=torch.uint8)[:, None, None, None]
    pixels = pixels.repeat(10, 1, 1, 1).contiguous(memory_format=torch.channels_last)
    first, same, other = (shift_and_flip(pixels, rng(seed), 1, True) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(first.flatten(1).amax(1).ge(128), torch.tensor([False, True]).repeat(10))
    assert torch.equal(shift_and_flip(pixels, rng(), 0, False), pixels)


def test_shift_and_flip_refuses():
    with pytest.raises(ValueError, match="expected 0 to 3 for images of 4 x 6"):
        shift_and_flip(noise(1, 3, 4, 6), rng(), 4, True)


def test_photometric_is_what_an_image_library_does():
    smooth = torch.nn.functional.interpolate(noise(8, 3, 4, 4).float(), size=(16, 16), mode="bilinear")
    pixels = smooth.to(torch.uint8)
    source = rng(3)
    factors = 1 + 0.5 * (torch.rand(3, 8, generator=source) * 2 - 1)
    orders = torch.rand(3, 8, generator=source).argsort(0)
    assert len(set(map(tuple, orders.T.tolist()))) > 2
    changed = photometric(pixels, rng(3))
    for sample, result, factor_3, order_3 in zip(pixels, changed, factors.T, orders.T, strict=True):
        image = Image.fromarray(sample.permute(1, 2, 0).numpy())
        for factor, which in zip(factor_3.tolist(), order_3.tolist(), strict=True):
            enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[which]
            image = enhance(image).enhance(factor)
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert (result.int() - expected.int()).abs().max() <= 4  # it rounds after each step


def test_photometric_of_strength_0_is_the_identity_and_of_2_refused():
    pixels = noise(4, 3, 5, 5)
    assert torch.equal(photometric(pixels, rng(), 0), pixels)
    with pytest.raises(ValueError, match="0 to 1"):
        photometric(pixels, rng(), 2)
    with pytest.raises(ValueError, match="3, H, W"):
        photometric(pixels[:, :1], rng())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_normalise(dtype):
    pixels = noise(5, 2, 4, 3)
    images = ImageSet(pixels, torch.zeros(5, dtype=torch.int64), 10, (0.4, 0.7), (0.2, 0.3))
    got = images.normalise(pixels, dtype)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    expected = (pixels.double() / 255 - torch.tensor([0.4, 0.7])[:, None, None].double()) / torch.tensor(
        [0.2, 0.3], dtype=torch.float64
    )[:, None, None]
    torch.testing.assert_close(got.double(), expected, rtol=torch.finfo(dtype).eps, atol=4 * 2**-23)
    with pytest.raises(ValueError, match="expected uint8 pixels"):
        images.normalise(pixels.float())


# Sets in memory


def test_digits_are_those_of_scikit_learn():
    bundled = load_digits()
    images = [np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in bundled.images]
    known = dict(zip(images, bundled.target.tolist(), strict=True))
    sets = {split: IN_MEMORY["digits"]("nowhere", split, 300) for split in ("train", "validation", "test")}
    assert {split: len(s) for split, s in sets.items()} == {"train": 1137, "validation": 300, "test": 360}
    seen = [image.numpy().tobytes() for s in sets.values() for image in s.pixels_NCHW]
    assert sorted(seen) == sorted(images)
    for s in sets.values():
        assert s.pixels_NCHW.shape[1:] == (1, 8, 8)
        assert [known[image.numpy().tobytes()] for image in s.pixels_NCHW] == s.labels_N.tolist()


def test_the_splits_do_not_change_with_versions():
    """Results on digits depend on which images test: these numbers belong to the published results."""
    test = IN_MEMORY["digits"]("nowhere", "test")
    assert hashlib.sha256(test.pixels_NCHW.numpy().tobytes()).hexdigest()[:16] == "c9821ab827a9106b"
    held = IN_MEMORY["digits"]("nowhere", "validation", 100)
    assert hashlib.sha256(held.pixels_NCHW.numpy().tobytes()).hexdigest()[:16] == "f18f04f8b546ce9b"


def test_cifar10_is_read_byte_by_byte(tmp_path, monkeypatch):
    parts = write_cifar10(tmp_path, monkeypatch)
    for split, part in (("train", "train"), ("test", "test")):
        images = IN_MEMORY["cifar10"](tmp_path, split)
        assert len(images) == len(parts[part])
        for record, pixels, label in zip(parts[part], images.pixels_NCHW, images.labels_N, strict=True):
            assert label == record[0]
            assert pixels[1, 2, 3] == record[1 + 1024 + 2 * 32 + 3]  # green, row 2, column 3
            assert pixels.numpy().tobytes() == record[1:].tobytes()
        assert images.pixels_NCHW.dtype == torch.uint8
        assert images.labels_N.dtype == torch.int64


def test_mnist_is_read_byte_by_byte(tmp_path, monkeypatch):
    parts = write_mnist(tmp_path, monkeypatch)
    for split in ("train", "test"):
        images = IN_MEMORY["mnist"](tmp_path, split)
        assert images.pixels_NCHW.shape[1:] == (1, 28, 28)
        assert np.array_equal(images.pixels_NCHW[:, 0], parts[split][0])
        assert np.array_equal(images.labels_N, parts[split][1])


def test_sides_are_those_of_the_images(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    write_mnist(tmp_path, monkeypatch)
    shapes = {name: read(tmp_path, "test").pixels_NCHW.shape[2:] for name, read in IN_MEMORY.items()}
    assert {name: (side, side) for name, side in SIDES.items()} == shapes


def test_validation_is_cut_from_train_and_leaves_the_statistics(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    whole = IN_MEMORY["cifar10"](tmp_path, "train")
    kept, held, test = (IN_MEMORY["cifar10"](tmp_path, split, 30) for split in ("train", "validation", "test"))
    assert (len(kept), len(held), len(test)) == (70, 30, 20)
    keys = [{image.numpy().tobytes() for image in s.pixels_NCHW} for s in (whole, kept, held)]
    assert keys[0] == keys[1] | keys[2]
    fewer = IN_MEMORY["cifar10"](tmp_path, "validation", 10)
    assert {image.numpy().tobytes() for image in fewer.pixels_NCHW} < keys[2]
    x = kept.pixels_NCHW.double() / 255
    for images in (kept, held, test):
        assert images.mean_C == pytest.approx(x.mean((0, 2, 3)).tolist(), rel=1e-12)
        assert images.std_C == pytest.approx(x.std((0, 2, 3), correction=0).tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("split", "hold_out", "message"),
    [
        ("val", 0, "choose from train, validation, test"),
        ("validation", 0, "expected 1 to"),
        ("train", 1437, "to 1436 of"),
    ],
)
def test_splits_that_cannot_be(split, hold_out, message):
    with pytest.raises(ValueError, match=message):
        IN_MEMORY["digits"]("nowhere", split, hold_out)


def damage_cifar10(folder, how):
    path = folder / "cifar-10-batches-bin" / "data_batch_3.bin"
    content = bytearray(path.read_bytes())
    if how in NO_FILE:
        path.unlink()
        NO_FILE[how](path)
    elif how == "huge":
        os.truncate(path, 2**40)  # on a disk it takes nothing, in memory it would
    elif how == "short":
        path.write_bytes(content[:-1])
    else:
        content[3073] = 10
        path.write_bytes(content)
    return path


NO_FILE = {"missing": lambda path: None, "pipe": os.mkfifo, "folder": os.mkdir}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "is missing"),
        ("pipe", "is no file"),
        ("folder", "is no file"),
        ("huge", "expected 61,460 bytes, found 1,099,511,627,776"),
        ("short", "expected 61,460 bytes, found 61,459"),
        ("label", "labels from 0 to 9, found 10"),
    ],
)
def test_damage_to_cifar10_is_refused_with_the_path_and_the_remedy(tmp_path, monkeypatch, how, message):
    write_cifar10(tmp_path, monkeypatch)
    path = damage_cifar10(tmp_path, how)
    with pytest.raises(ImageError, match=message) as caught:
        IN_MEMORY["cifar10"](tmp_path, "test")
    assert str(path) in str(caught.value)
    remedy = f"remove {path.parent}, then `python -m scripts.download cifar10 --folder {tmp_path}` fetches it"
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "how", [*NO_FILE, "not gzip", "cut", "magic", "count", "longer", "shorter", "checksum", "label"]
)
def test_damage_to_mnist_is_refused_with_the_path_and_the_remedy(tmp_path, monkeypatch, how):
    write_mnist(tmp_path, monkeypatch)
    path = tmp_path / "mnist" / "train-labels-idx1-ubyte.gz"
    packed, plain = path.read_bytes(), bytearray(gzip.decompress(path.read_bytes()))
    if how == "magic":
        plain[3] = 3
    if how == "count":
        plain[7] += 1
    if how == "label":
        plain[8] = 10
    changed = {"longer": plain + b"\0", "shorter": plain[:-1]}.get(how, plain)
    content = {"not gzip": bytes(plain), "cut": packed[:-9], "checksum": packed[:-8] + b"\0" * 4 + packed[-4:]}
    path.write_bytes(content.get(how, gzip.compress(changed)))
    if how in NO_FILE:
        path.unlink()
        NO_FILE[how](path)
    with pytest.raises(ImageError) as caught:
        IN_MEMORY["mnist"](tmp_path, "test")
    assert str(path) in str(caught.value)
    assert f"`python -m scripts.download mnist --folder {tmp_path}`" in str(caught.value)
    assert "\n" not in str(caught.value)


# Downloads


class Publisher:
    """A server of files, which can promise more than it sends. Keeps what it was asked for."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.promise = 0
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                publisher.asked.append(self.path)
                content = publisher.files.get(self.path)
                self.send_response(200 if content is not None else 404)
                self.send_header("Content-Length", str(len(content or b"") + publisher.promise))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.01])

    def publish(self, name: str, content: bytes) -> tuple[str, int, str]:
        """What a `Source` says of a file that is served from now on."""
        self.files[f"/{name}"] = content
        return f"{self.address}/{name}", len(content), hashlib.md5(content).hexdigest()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def publisher(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Publisher() as publisher:
        yield publisher


@pytest.fixture
def archive(publisher, tmp_path, monkeypatch):
    """CIFAR-10 at a publisher, as it is packed there."""
    write_cifar10(tmp_path / "original", monkeypatch)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(tmp_path / "original" / "cifar-10-batches-bin", "cifar-10-batches-bin")
    content = buffer.getvalue()
    files = (publisher.publish("cifar-10-binary.tar.gz", content),)
    monkeypatch.setitem(SOURCES, "cifar10", Source("cifar-10-batches-bin", files))
    return content


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def visible(folder):
    return sorted(path.name for path in folder.glob("*") if not path.name.endswith(".lock")) if folder.exists() else []


def test_a_download_is_unpacked_told_of_and_done_once(publisher, archive, tmp_path):
    told = []
    data = tmp_path / "data"
    path = download("cifar10", data, lambda *progress: told.append(progress))
    assert told[-1] == ("cifar-10-binary.tar.gz", len(archive), len(archive))
    assert visible(data) == ["cifar-10-batches-bin"]
    original = tmp_path / "original" / "cifar-10-batches-bin"
    assert {p.name: p.read_bytes() for p in path.iterdir()} == {p.name: p.read_bytes() for p in original.iterdir()}
    download("cifar10", data)
    assert len(publisher.asked) == 1
    assert len(IN_MEMORY["cifar10"](data, "test")) == 20


def test_mnist_comes_as_four_files(publisher, tmp_path, monkeypatch):
    write_mnist(tmp_path / "original", monkeypatch)
    paths = sorted((tmp_path / "original" / "mnist").iterdir())
    files = tuple(publisher.publish(path.name, path.read_bytes()) for path in paths)
    monkeypatch.setitem(SOURCES, "mnist", Source("mnist", files))
    download("mnist", tmp_path / "data")
    assert len(IN_MEMORY["mnist"](tmp_path / "data", "test")) == 20
    publisher.files.popitem()
    with pytest.raises(ImageError, match="Not Found"):
        download("mnist", tmp_path / "other")
    assert visible(tmp_path / "other") == []


def test_a_half_finished_download_is_never_taken_for_whole(publisher, archive, tmp_path, monkeypatch):
    data = tmp_path / "data"
    publisher.files["/cifar-10-binary.tar.gz"] = archive[:-5]
    for promise in (5, 0):
        publisher.promise = promise
        said = f"sent {len(archive) - 5:,} of {len(archive):,} bytes with MD5 .*, expected .*: try again"
        with pytest.raises(ImageError, match=said):
            download("cifar10", data)
        assert visible(data) == []
    # The checksum is right, and what it is of is no archive.
    publisher.promise = 0
    cut = Source("cifar-10-batches-bin", (publisher.publish("cut.tgz", archive[: len(archive) // 2]),))
    with monkeypatch.context() as patch:
        patch.setitem(SOURCES, "cifar10", cut)
        with pytest.raises(ImageError, match="cannot be unpacked"):
            download("cifar10", data)
    assert visible(data) == []
    # As a process leaves it that is killed while it unpacks.
    partial = data / ".cifar-10-batches-bin.1.partial"
    partial.mkdir(parents=True)
    (partial / "test_batch.bin").write_bytes(b"half")
    publisher.files["/cifar-10-binary.tar.gz"] = archive
    download("cifar10", data)
    assert visible(data) == ["cifar-10-batches-bin"]
    assert len(IN_MEMORY["cifar10"](data, "test")) == 20


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../../escaped", tarfile.REGTYPE),
        ("a/../../escaped", tarfile.REGTYPE),
        ("/escaped", tarfile.REGTYPE),
        ("another/file", tarfile.REGTYPE),  # which would leave an empty set
        ("a", tarfile.REGTYPE),
        ("a", tarfile.DIRTYPE),  # likewise
        ("a/link", tarfile.SYMTYPE),
        ("a/link", tarfile.LNKTYPE),
        ("a/pipe", tarfile.FIFOTYPE),
        ("a/device", tarfile.CHRTYPE),
        ("a/a.tgz", tarfile.REGTYPE),
        ("a/x\0/y", tarfile.REGTYPE),
    ],
)
def test_an_archive_of_anything_but_the_set_is_refused(publisher, tmp_path, monkeypatch, name, kind):
    buffer = io.BytesIO()
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    if "\0" in name:
        member.name, member.pax_headers = "a/x", {"path": name}
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(member, io.BytesIO())
    monkeypatch.setitem(SOURCES, "a", Source("a", (publisher.publish("a.tgz", buffer.getvalue()),)))
    with pytest.raises(ImageError, match="cannot be unpacked") as caught:
        download("a", tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert everything(tmp_path) == ["data", "data/.a.lock"]


def test_unpacked_files_have_nothing_of_the_archive_but_their_content(publisher, tmp_path, monkeypatch):
    """No owner, no set-user-ID bit: on Python 3.11.0 to 3.11.3 as well, which have no filter for it."""
    buffer = io.BytesIO()
    member = tarfile.TarInfo("a/b/file")
    member.mode, member.uid, member.size = 0o6777, 12345, 4
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(member, io.BytesIO(b"text"))
    monkeypatch.setitem(SOURCES, "a", Source("a", (publisher.publish("a.tgz", buffer.getvalue()),)))
    file = download("a", tmp_path) / "b" / "file"
    assert file.read_bytes() == b"text"
    assert file.stat().st_mode & 0o7000 == 0
    assert file.stat().st_uid == os.getuid()


@pytest.mark.parametrize("length", [b"300000000", b"5", b"", b"nonsense"])
def test_no_more_is_taken_than_was_published(publisher, tmp_path, monkeypatch, length):
    """300 MB that are sent, whatever the server says, for 5 bytes that were published."""
    sent = 0

    def do_GET(handler):
        nonlocal sent
        handler.send_response(200)
        if length:
            handler.send_header("Content-Length", length.decode())
        handler.end_headers()
        with contextlib.suppress(ConnectionError):
            for _ in range(300):
                sent += handler.wfile.write(bytes(10**6))

    monkeypatch.setattr(publisher.server.RequestHandlerClass, "do_GET", do_GET)
    source = Source("a", ((f"{publisher.address}/a.gz", 5, "0" * 32),))
    monkeypatch.setitem(SOURCES, "a", source)
    told = []
    with pytest.raises(ImageError, match=r"a.gz sent .*5 bytes with MD5 .*: try again"):
        download("a", tmp_path, lambda *progress: told.append(progress))
    assert told[-1][1] <= 6
    assert sent < 100e6
    assert everything(tmp_path) == [".a.lock"]


def test_a_file_where_the_set_should_be_is_refused_before_anything_is_fetched(publisher, archive, tmp_path):
    (tmp_path / "cifar-10-batches-bin").write_text("no folder")
    with pytest.raises(ImageError, match="cifar-10-batches-bin is no folder: remove it"):
        download("cifar10", tmp_path)
    assert publisher.asked == []


def test_processes_that_want_the_same_set_fetch_it_once(publisher, archive, tmp_path):
    threads = [threading.Thread(target=download, args=("cifar10", tmp_path / "data")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(publisher.asked) == 1
    assert visible(tmp_path / "data") == ["cifar-10-batches-bin"]


def test_a_publisher_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as deaf:  # it has a port, and does not listen
        deaf.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}/a.tgz"
        monkeypatch.setitem(SOURCES, "cifar10", Source("cifar-10-batches-bin", ((address, 5, "0"),)))
        with pytest.raises(ImageError, match=rf"cannot fetch {address} .*: try again") as caught:
            download("cifar10", tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="choose from cifar10"):
        download("imagenet", tmp_path)


def test_the_command_that_messages_name(publisher, archive, tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    monkeypatch.setattr("sys.argv", ["download", "cifar10", "--folder", str(data)])
    download_script.main()
    assert capsys.readouterr().out == f"{data / 'cifar-10-batches-bin'}: 100 + 20 images\n"
    damage_cifar10(data, "short")
    with pytest.raises(SystemExit, match=r"error: .*data_batch_3.bin is damaged.*remove .*, then"):
        download_script.main()


def test_a_set_that_is_there_needs_no_folder_to_write_to(tmp_path, monkeypatch):
    """As root, who runs tests in containers, may write anywhere, whatever would write fails instead."""
    write_cifar10(tmp_path, monkeypatch)

    def refuse(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    before = sorted(tmp_path.iterdir())
    for method in ("mkdir", "open"):
        monkeypatch.setattr(f"pathlib.Path.{method}", refuse)
    tmp_path.chmod(0o555)
    try:
        assert fetch("cifar10", tmp_path) == tmp_path / "cifar-10-batches-bin"
    finally:
        tmp_path.chmod(0o755)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("where", "cause"), [("file", "File exists"), ("file/data", "Not a directory"), ("remote", "No locks available")]
)
def test_a_folder_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, where, cause):
    (tmp_path / "file").write_text("no folder")

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr("sys.argv", ["download", "cifar10", "--folder", str(tmp_path / where)])
    message = rf"error: {tmp_path / where} cannot be used \({cause}\)"
    with pytest.raises(SystemExit, match=message) as caught:
        download_script.main()
    assert "\n" not in str(caught.value)


def test_a_full_disk_keeps_its_own_words(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr("sys.argv", ["download", "cifar10", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit, match="error: the disk is full"):
        download_script.main()


def test_a_progress_bar_counts_each_file(publisher, archive, tmp_path, monkeypatch):
    bars = []

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setattr(
        "experiments.synthetic_gradients.downloads.tqdm", lambda **options: bars.append(tqdm(**options)) or bars[0]
    )
    fetch("cifar10", tmp_path / "data")
    assert bars[0].n == bars[0].total == len(archive)
    assert bars[0].desc.startswith("cifar-10-binary.tar.gz")


# Folders of images


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"))


def batches(folder: ImageFolder, **options) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(folder.train(**{"seed": 1, "epoch": 2, "batch_size": 5, "size": 16} | options))


def equal(left, right) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) for one, other in zip(left, right, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_a_folder_knows_its_classes_and_splits(root):
    train, held, test = (ImageFolder(root, split, 6) for split in ("train", "validation", "test"))
    assert train.classes == sorted(CLASSES)
    assert train.n_classes == 3
    assert (len(train), len(held), len(test)) == (18, 6, 9)
    names = [set(folder.names_N.tolist()) for folder in (train, held)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 24
    for folder in (train, held, test):
        for name, label in zip(folder.names_N, folder.labels_N, strict=True):
            assert name.decode().split("/")[0] == folder.classes[label]
            assert (folder.directory / name.decode()).exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_that_follow_each_other_are_decoded_by_the_same_processes(root, monkeypatch, workers):
    loaders, make = [], torch.utils.data.DataLoader
    monkeypatch.setattr(
        "sobolev.images.folder.DataLoader", lambda *a, **b: loaders.append(make(*a, **b)) or loaders[-1]
    )
    folder = ImageFolder(root)
    together = batches(folder, first=2, epochs=3, workers=workers)
    assert len(loaders) == 1
    assert equal(together, batches(folder, first=2) + batches(folder, epoch=3) + batches(folder, epoch=4))


def test_batches_depend_on_seed_epoch_and_number_alone(root):
    folder = ImageFolder(root)
    whole = batches(folder)
    assert len(whole) == folder.batches_per_epoch(5) == 4  # of 24 images, the last is dropped
    for pixels, labels in whole:
        assert pixels.shape == (5, 3, 16, 16)
        assert pixels.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert equal(whole, batches(folder))
    assert equal(whole[2:], batches(folder, first=2))
    assert equal(whole, batches(folder, workers=2))
    shares = [batches(folder, rank=rank, ranks=2) for rank in range(2)]
    for (pixels, labels), *halves in zip(whole, *shares, strict=True):
        for rank, (share, share_labels) in enumerate(halves):
            assert torch.equal(share, pixels[rank::2])
            assert torch.equal(share_labels, labels[rank::2])
    for other in ({"seed": 2}, {"epoch": 3}):
        assert not equal(whole, batches(folder, **other))


def test_an_epoch_shows_every_image_at_most_once(tmp_path):
    """Images of one colour each, which no crop hides."""
    for split in ("train", "val"):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(4):
                colour = (60 * index, 100 * CLASSES.index(name), 50)
                Image.new("RGB", (20, 20), colour).save(tmp_path / split / name / f"{index}.png")
    seen = []
    for pixels, labels in batches(ImageFolder(tmp_path), batch_size=3):
        assert torch.equal(pixels[:, 1, 0, 0] // 100, labels)
        seen += pixels[:, :2, 0, 0].tolist()
    assert sorted(seen) == sorted([60 * index, 100 * label] for index in range(4) for label in range(3))


def test_random_crops_have_the_area_shape_and_place_they_should(root):
    from sobolev.images.crops import RandomCrops

    crops = [crop for number in range(40) for crop in RandomCrops(0, 0, 50, 0.08, True).of_batch(number)]
    assert 0.45 < np.mean([mirrored for _, mirrored in crops]) < 0.55
    boxes = np.array([box_of(500, 375) for box_of, _ in crops])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= 500 + 1e-9).all()
    assert (boxes[:, 3] <= 375 + 1e-9).all()
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, aspect = width * height / (500 * 375), width / height
    assert area.min() > 0.08
    assert ((aspect > 0.75 - 1e-9) & (aspect < 4 / 3 + 1e-9)).all()
    small = area[area < 0.5]  # those that always fit are uniform
    assert np.histogram(small, 4, (0.08, 0.5))[0] == pytest.approx(np.full(4, len(small) / 4), rel=0.2)
    across = boxes[:, 0] / (500 - width)
    assert np.histogram(across, 4, (0, 1))[0] == pytest.approx(np.full(4, 500), rel=0.15)
    # Nothing fits a ribbon: then the most of it that has a shape in range.
    left, top, right, bottom = crops[0][0](1000, 10)
    assert (right - left, bottom - top) == pytest.approx((40 / 3, 10))


def test_training_crops_are_the_boxes_cut_out_and_resized(root):
    from sobolev.images.crops import RandomCrops

    folder = ImageFolder(root)
    (pixels, _), *_ = batches(folder, batch_size=24, epoch=0)
    order = torch.randperm(24, generator=generator(1, "shuffle", 0))
    for sample, index, (box_of, mirrored) in zip(
        pixels, order, RandomCrops(1, 0, 24, 0.08, True).of_batch(0), strict=True
    ):
        image = Image.open(folder.directory / folder.names_N[index].decode()).convert("RGB")
        crop = np.array(image.resize((16, 16), Image.Resampling.BILINEAR, box_of(*image.size))).astype(int)
        difference = sample.permute(1, 2, 0).numpy() - (crop[:, ::-1] if mirrored else crop)
        assert np.abs(difference).mean() < 2  # halving inside the decoder is not quite a resize


def test_evaluation_takes_the_centre_of_every_image_in_order(tmp_path):
    pixels = noise(2, 3, 3, 32, 48, 3).numpy()
    for split, classes in zip(("train", "val"), pixels, strict=True):
        for name, images in zip(CLASSES, classes, strict=True):
            (tmp_path / split / name).mkdir(parents=True)
            for index, image in enumerate(images):
                Image.fromarray(image.swapaxes(0, 1) if index else image).save(tmp_path / split / name / f"{index}.png")
    folder = ImageFolder(tmp_path, "test")
    got = list(folder.evaluate(batch_size=4, size=12, resize=16))
    assert [len(labels) for _, labels in got] == [4, 4, 1]
    assert torch.equal(torch.cat([labels for _, labels in got]), torch.arange(3).repeat_interleave(3))
    assert equal(got, list(folder.evaluate(batch_size=4, size=12, resize=16, workers=1)))
    for pixels, name in zip(torch.cat([pixels for pixels, _ in got]), folder.names_N, strict=True):
        image = Image.open(folder.directory / name.decode())
        resized = image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR)
        left, top = (resized.width - 12) // 2, (resized.height - 12) // 2
        expected = np.array(resized.crop((left, top, left + 12, top + 12))).astype(int)
        assert np.abs(pixels.permute(1, 2, 0).numpy() - expected).max() <= 1


def test_images_of_any_colours_are_read(tmp_path):
    root = write_folder(tmp_path, train=1, val=1)
    colour = Image.new("RGB", (30, 40), (200, 100, 50))
    directory = root / "val" / CLASSES[0]
    next(directory.iterdir()).unlink()
    for index, mode in enumerate(["RGB", "L", "CMYK"]):
        colour.convert(mode).save(directory / f"{index}.JPEG", quality=95)
    colour.convert("P").save(directory / "3.png")
    colour.convert("RGBA").save(directory / "4.JPG", "PNG")  # ImageNet has a PNG with a JPEG's name
    Image.fromarray(np.full((40, 30), 124 << 8, np.uint16)).save(directory / "5.png")  # 16 bits of grey
    (directory / "notes.txt").write_text("not an image")
    pixels, labels = next(ImageFolder(root, "test").evaluate(6, 8, 8))
    assert labels.tolist() == [0] * 6
    colours = [(200, 100, 50), (124, 124, 124), *[(200, 100, 50)] * 3, (124, 124, 124)]
    for sample, expected in zip(pixels, colours, strict=True):
        assert (sample[:, 0, 0].int() - torch.tensor(expected)).abs().max() < 30  # CMYK and palettes are coarse


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["cut", "text", "gone"])
def test_an_image_that_cannot_be_read_is_named_in_one_line(tmp_path, workers, damage):
    root = write_folder(tmp_path, train=2)
    folder = ImageFolder(root)
    path = root / "train" / CLASSES[1] / f"{CLASSES[1]}_0.JPEG"
    content = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(
        content[: len(content) // 2] if damage == "cut" else b"text"
    )
    with pytest.raises(ImageError, match="cannot be read") as caught:
        batches(folder, workers=workers)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
showpage
"""


def png(width: int, height: int) -> bytes:
    """The beginning of an image of so many pixels, black and white."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    pixels = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (len(c[4:]).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in (header, pixels, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (EPS, "UnidentifiedImageError"),
        (png(6000, 6000), r"6000 x 6000 pixels, expected 33,554,432 at most"),
        (png(13_000, 13_000), "DecompressionBomb"),
        (png(2**31 - 1, 2**31 - 1), "DecompressionBomb"),
        (None, "no regular file"),
    ],
    ids=["EPS", "36 megapixels", "169 megapixels", "terapixels", "pipe"],
)
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")  # as outside of tests
def test_what_would_start_a_program_or_fill_memory_or_never_end(tmp_path, monkeypatch, content, message, workers):
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it was decoded"))
    root = write_folder(tmp_path, train=0, val=1)
    for name in CLASSES:
        path = root / "train" / name / "x.jpg"
        path.write_bytes(content) if content else os.mkfifo(path)
    with pytest.raises(ImageError, match=message) as caught:
        batches(ImageFolder(root), batch_size=3, workers=workers)
    assert str(root / "train") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_large_photograph_is_read_at_an_eighth(tmp_path):
    root = write_folder(tmp_path, train=1, val=1)
    directory = root / "val" / CLASSES[0]
    next(directory.iterdir()).unlink()
    Image.new("L", (8000, 6000), 200).save(directory / "large.jpg")
    pixels, _ = next(ImageFolder(root, "test").evaluate(1, 16, 16))
    assert pixels.float().mean() == pytest.approx(200, abs=2)


def test_images_of_other_kinds_are_counted(tmp_path):
    root = write_folder(tmp_path, train=1, val=1)
    for index, suffix in enumerate((".webp", ".WEBP", ".bmp", ".tif", ".txt")):
        (root / "train" / CLASSES[index % 3] / f"x{suffix}").touch()
    (root / "train" / CLASSES[0] / ".hidden.webp").touch()
    said = r"train: only .jpeg, .jpg, .png are read, not its 1 .bmp, 1 .tif, 2 .webp"
    with pytest.warns(UserWarning, match=said) as caught:
        folder = ImageFolder(root)
    assert len(caught) == 1
    assert len(folder) == 3
    ImageFolder(root, "test")  # has none, and warnings are errors here


@pytest.mark.parametrize("workers", [0, 1])
def test_pixels_are_taken_as_they_are_stored_whatever_exif_asks_for(tmp_path, workers):
    root = write_folder(tmp_path, train=2, val=2)
    plain = list(ImageFolder(root, "test").evaluate(3, 16, 16))
    exif = Image.Exif()
    paths = sorted((root / "val").rglob("*.JPEG"))[:2]
    for path in paths:
        exif[ExifTags.Base.Orientation] = 6 if path.stem.endswith("0") else 1
        content, tag = path.read_bytes(), b"Exif\0\0" + exif.tobytes()[6:]
        path.write_bytes(content[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + content[2:])
    folder = ImageFolder(root, "test")
    said = r"val: 1 of the 3 images in a batch ask by EXIF to be rotated; pixels are used as they are stored"
    with pytest.warns(UserWarning, match=said) as caught:
        turned = [*folder.evaluate(3, 16, 16, workers), *folder.evaluate(3, 16, 16, workers)]
    assert len(caught) == 1
    assert equal(turned, plain * 2)
    for path in paths:  # a tag that cannot be read asks for nothing
        path.write_bytes(re.sub(rb"Exif\0\0..", rb"Exif\0\0XX", path.read_bytes()))
    assert equal(list(ImageFolder(root, "test").evaluate(3, 16, 16, workers)), plain)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_are_black_without_their_transparency_or_range_are_told_of(tmp_path, workers):
    root = write_folder(tmp_path, train=1, val=1)
    directory = root / "val" / CLASSES[0]
    shape = Image.new("RGBA", (30, 40))  # black, and only its transparency shows anything
    shape.putalpha(Image.effect_noise((30, 40), 50))
    shape.save(directory / "1.png")
    Image.new("P", (30, 40)).save(directory / "2.png", transparency=b"\0")
    Image.new("RGBA", (30, 40), "red").save(directory / "3.png")  # opaque
    for index, (brightest, options) in enumerate(((4095, {}), (4096, {"transparency": 9})), 4):
        Image.fromarray(np.full((40, 30), brightest, np.uint16)).save(directory / f"{index}.png", **options)
    folder = ImageFolder(root, "test")
    with pytest.warns(UserWarning, match="in a batch") as caught:
        assert [len(labels) for _, labels in (*folder.evaluate(8, 8, 8, workers), *folder.evaluate(8, 8, 8))] == [8, 8]
    assert sorted(str(warning.message).partition("val: ")[2] for warning in caught) == [
        "1 of the 8 images in a batch have 16-bit grey values below a sixteenth of the maximum, so they are nearly "
        "black: scale them",
        "2 of the 8 images in a batch are partly transparent; the colours beneath are used",
    ]


def test_folders_that_are_not_a_data_set_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"train is missing or empty: .*n01440764/\*.JPEG"):
        ImageFolder(tmp_path)
    root = write_folder(tmp_path, train=1, val=1)
    (root / "val" / "n09999999").mkdir()
    with pytest.raises(ImageError, match="same classes, but 1 differ: n09999999 is only in val"):
        ImageFolder(root)
    (root / "train" / "n09999999").mkdir()
    with pytest.raises(ImageError, match="n09999999 has no image"):
        ImageFolder(root)
    for folder in [*root.glob("*/n0*")]:
        if folder.name != CLASSES[0]:
            shutil.rmtree(folder)
    with pytest.raises(ImageError, match=f"expected two classes or more, but the only one is {CLASSES[0]}"):
        ImageFolder(root)


def test_settings_that_cannot_be(root):
    folder = ImageFolder(root)
    with pytest.raises(ValueError, match="batch_size=25: expected 1 to 24"):
        folder.train(0, 0, 25, 8)
    with pytest.raises(ValueError, match="rank=2 of 2"):
        folder.train(0, 0, 5, 8, rank=2, ranks=2)
    with pytest.raises(ValueError, match="size=20: expected 1 to resize=16"):
        folder.evaluate(4, 20, 16)
    with pytest.raises(ValueError, match="expected 1 to 23 of 24"):
        ImageFolder(root, "validation", 24)
    with pytest.raises(ValueError, match="choose from train, validation, test"):
        ImageFolder(root, "val")


def test_what_an_image_takes_in_memory(tmp_path):
    """Its name and its label, in arrays: no object an image, in this process or in a worker's copy."""
    import gc
    import tracemalloc

    root = write_folder(tmp_path, train=1, val=1)
    for name in CLASSES:
        image = root / "train" / name / f"{name}_0.JPEG"
        for index in range(1, 2000):
            image.with_name(f"{name}_{index}.JPEG").hardlink_to(image)
    ImageFolder(root)
    tracemalloc.start()
    folder = ImageFolder(root)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(folder) == 6000
    assert held / len(folder) < 50


def test_colours_of_a_shared_batch_are_those_of_the_whole():
    pixels = torch.randint(0, 256, (6, 3, 5, 5), dtype=torch.uint8, generator=rng(1))
    whole = photometric(pixels, rng(4))
    assert not torch.equal(whole[0::2], photometric(pixels[0::2], rng(4)))
    for rank in range(2):
        share = photometric(pixels[rank::2], rng(4), rank=rank, ranks=2)
        assert torch.equal(share, whole[rank::2])
