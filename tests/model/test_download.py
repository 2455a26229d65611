"""Models of others: from an address, an archive or a folder, with the right hash, whole or not at all."""

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from runs import small_model

import pfmap
from pfmap.cli.main import cli
from pfmap.core.errors import ModelError, PfmapError, TargetError, UsageError
from pfmap.model import download
from pfmap.model.store import CARD_NAME, WEIGHTS_NAME, load_model, user_models

ADDRESS = "http://localhost:{port}/{name}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as it is offered, called stand_in."""
    path = tmp_path_factory.mktemp("offered") / "model"
    small_model(path)
    (path / "README.md").write_text("# A page\n")
    (path / "checkpoint.pt").write_bytes(b"not wanted")
    return path


def zipped(folder: Path, path: Path, home: str = "stand_in/") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, home + file.name)
    return path


def tarred(folder: Path, path: Path, home: str = "./") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, home)
    return path


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://example.invalid/model.zip")
            self.end_headers()
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """The address of a file in a folder that is served."""
    (tmp_path / "www").mkdir()

    def handler(*given: object) -> Handler:
        return Handler(*given, directory=str(tmp_path / "www"))  # type: ignore[arg-type]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield lambda name: ADDRESS.format(port=server.server_port, name=name)
        server.shutdown()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left() -> list[str]:
    return sorted(path.name for path in user_models().iterdir())


@pytest.mark.parametrize("kind", ["zip", "tar", "folder", "url"])
def test_a_model_is_imported_as_it_is(
    kind: str, folder: Path, tmp_path: Path, address: Callable[[str], str]
) -> None:
    archive = zipped(folder, tmp_path / "www" / "model.zip")
    tar = tarred(folder, tmp_path / "m.tgz")
    source = {"zip": archive, "tar": tar, "folder": folder, "url": address("model.zip?v=2")}[kind]
    made = pfmap.import_model(source, sha256=sha256(archive).upper() if kind == "url" else None)
    assert made == user_models() / "stand_in"
    assert left() == ["stand_in"]
    for name in (CARD_NAME, WEIGHTS_NAME, "README.md"):
        assert (made / name).read_bytes() == (folder / name).read_bytes()
    assert not (made / "checkpoint.pt").exists()
    with pytest.raises(ModelError, match=r"exists already.*overwrite=True"):
        pfmap.import_model(source, sha256=sha256(archive) if kind == "url" else None)


def test_a_model_gets_another_name_also_in_its_card(folder: Path) -> None:
    made = pfmap.import_model(folder, name="ours")
    assert (made.name, load_model("ours").card.name) == ("ours", "ours")
    assert (made / WEIGHTS_NAME).read_bytes() == (folder / WEIGHTS_NAME).read_bytes()
    (made / "README.md").unlink()
    pfmap.import_model(folder, name="ours", overwrite=True)
    assert (made / "README.md").exists()
    assert left() == ["ours"]
    with pytest.raises(ModelError, match="'landcover' is a model that comes with pfmap"):
        pfmap.import_model(folder, name="landcover", overwrite=True)


def test_the_model_before_comes_back_if_its_successor_does_not_get_its_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pfmap.import_model(folder)
    (made / "README.md").write_text("the one before")

    def full(_staged: Path, final: Path) -> None:
        raise TargetError(f"{final} cannot be written")

    monkeypatch.setattr(download, "publish", full)
    with pytest.raises(TargetError, match="stand_in cannot be written"):
        pfmap.import_model(folder, overwrite=True)
    assert left() == ["stand_in"]
    assert (made / "README.md").read_text() == "the one before"


def test_the_command_imports_what_has_the_hash(
    folder: Path, tmp_path: Path, address: Callable[[str], str]
) -> None:
    archive = zipped(folder, tmp_path / "www" / "model.zip")
    call = ["models", "import", address("model.zip"), "--name", "ours"]
    wrong = CliRunner().invoke(cli, [*call, "--sha256", "0" * 64])
    assert (wrong.exit_code, left()) == (1, [])
    assert f"has the SHA-256 {sha256(archive)}, not {'0' * 64}: nothing was" in str(wrong.exception)
    assert "needs --sha256" in str(CliRunner().invoke(cli, call).exception)
    done = CliRunner().invoke(cli, [*call, "--sha256", sha256(archive)])
    assert (done.exit_code, left()) == (0, ["ours"]), done.output


def test_nothing_is_read_of_a_file_with_another_hash(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_unpack", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ModelError, match="nothing was imported"):
        pfmap.import_model(zipped(folder, tmp_path / "m.zip"), sha256="0" * 64)


def test_addresses_that_cannot_be_trusted_are_refused(address: Callable[[str], str]) -> None:
    digits = "0" * 64
    for name, hexadecimal, kind, said in (
        ("http://example.invalid/m.zip", digits, UsageError, "read by everybody.*https://"),
        ("https://example.invalid/m.zip", None, UsageError, "needs sha256="),
        ("https://example.invalid/m.zip", "12ab", UsageError, "is no SHA-256"),
        (address("none.zip"), digits, ModelError, "its server answers 404"),
        (address("short"), digits, ModelError, "broke off after 4 of 1,000 bytes"),
        (address("away"), digits, PfmapError, "example.invalid|does not answer"),
        (
            "http://localhost:9/m.zip?token=s3cr3tWORD-of-16",
            digits,
            ModelError,
            "m.zip.<redacted>.*not answer",
        ),
    ):
        with pytest.raises(kind, match=said) as error:
            pfmap.import_model(name, sha256=hexadecimal)
        assert "s3cr3t" not in str(error.value)
    assert left() == [] or not user_models().exists()


def hostile(folder: Path, path: Path) -> Path:
    """A tar file with a way out, links, and a device, besides the card."""
    with tarfile.open(path, "w") as archive:
        for name in ("../outside.txt", "/tmp/pfmap-outside.txt"):
            one = tarfile.TarInfo(name)
            one.size = 4
            archive.addfile(one, io.BytesIO(b"evil"))
        archive.add(folder / CARD_NAME, f"../../m/{CARD_NAME}")
        for name, kind in ((WEIGHTS_NAME, tarfile.SYMTYPE), ("README.md", tarfile.LNKTYPE)):
            one = tarfile.TarInfo(f"../../m/{name}")
            one.type, one.linkname = kind, "/etc/passwd"
            archive.addfile(one)
    return path


def test_an_archive_writes_nothing_outside_and_its_links_are_nothing(folder: Path, tmp_path: Path) -> None:
    before = sorted(path for path in tmp_path.rglob("*"))
    archive = hostile(folder, tmp_path / "evil.tar")
    with pytest.raises(ModelError, match=r"evil\.tar/weights\.safetensors is missing"):
        pfmap.import_model(archive)
    assert sorted(path for path in tmp_path.rglob("*")) == [*before, archive]
    assert left() == []
    assert not Path("/tmp/pfmap-outside.txt").exists()


def test_what_is_no_model_says_why_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = zipped(folder, tmp_path / "whole.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.write(folder / CARD_NAME, f"a/{CARD_NAME}")
        archive.write(folder / CARD_NAME, f"b/{CARD_NAME}")
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    packed = tarred(folder, tmp_path / "bad.tgz")
    packed.write_bytes(packed.read_bytes()[:-3000])
    with zipfile.ZipFile(tmp_path / "broken.zip", "w") as archive:
        archive.write(folder / CARD_NAME, CARD_NAME)
        archive.writestr(WEIGHTS_NAME, "no weights")
    for name, kind, said in (
        ("two.zip", ModelError, "holds 2 models"),
        ("half.zip", UsageError, "holds no model.toml.*preset="),
        ("bad.tgz", ModelError, "bad.tgz cannot be read"),
        ("broken.zip", ModelError, "broken.zip/weights.safetensors cannot be read"),
        ("none.zip", ModelError, "does not exist"),
    ):
        with pytest.raises(kind, match=said):
            pfmap.import_model(tmp_path / name)
    monkeypatch.setattr(download, "_MOST", 1000)
    with pytest.raises(ModelError, match=r"weights.safetensors of .*whole.zip is larger"):
        pfmap.import_model(tmp_path / "whole.zip")
    with pytest.raises(ModelError, match="more than 0 GB"):
        pfmap.import_model(tarred(folder, tmp_path / "large.tgz"))
    assert left() == []
