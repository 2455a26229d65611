"""Files in a bucket: the same as on a disk, and one holder at a time."""

import shutil
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from commands import HANG

from pfmap.core import bucket, files
from pfmap.core.errors import TargetError
from pfmap.raster.location import output_folder


def test_what_is_written_is_read(store: Path, tmp_path: Path) -> None:
    content = bytes(range(256)) * 80_000  # 20 MB goes up in parts
    (tmp_path / "large").write_bytes(content)
    files.publish(tmp_path / "large", store / "a/large.bin")
    assert not (tmp_path / "large").exists()
    files.write_text(store / "a/small.html", "grüß\n")
    assert bucket.read(store / "a/large.bin") == content
    assert files.read_text(store / "a/small.html") == "grüß\n"
    bucket.download(store / "a/large.bin", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == content
    name, key = store.name, "a/small.html"
    assert bucket._client().head_object(Bucket=name, Key=key)["ContentType"] == "text/html"


def test_folders_are_listed_and_deleted_as_on_a_disk(store: Path, tmp_path: Path) -> None:
    for folder in (store, tmp_path / "disk"):
        for name in ("x/a_1", "x/a_2", "x/b", "x/deep/a_3", "y/a_4"):
            files.make_folder((folder / name).parent)
            files.write_text(folder / name, name)
        assert files.file_names(folder / "x", "a_") == ["a_1", "a_2"]
        assert files.file_names(folder / "none") == []
        assert files.existing(folder / "x", ["b", "a_2", "c"]) == ["b", "a_2"]
        files.remove(folder / "x/b")
        files.remove(folder / "x/b")
        (bucket.remove_all if folder == store else shutil.rmtree)(folder / "x/deep")
        assert files.file_names(folder / "x") == ["a_1", "a_2"]
        with pytest.raises(FileNotFoundError):
            files.read_text(folder / "x/b")
    names = [path.relative_to(store).as_posix() for path in bucket.walk(store)]
    assert names == ["x/a_1", "x/a_2", "y/a_4"]
    bucket._client().put_object(Bucket=store.name, Key="y//b.tif", Body=b"")
    assert bucket.walk(store / "y") == [store / "y/a_4", store / "y/b.tif"]


def test_more_files_than_a_page_are_listed_and_deleted(store: Path) -> None:
    for number in range(1003):
        bucket.write(store / f"x/{number:04d}", b"")
    assert len(bucket.names(store / "x")) == len(bucket.walk(store)) == 1003
    bucket.remove_all(store / "x")
    assert bucket.walk(store) == []


def test_a_name_is_held_by_one_at_a_time(store: Path) -> None:
    held, entered, said, refused = threading.Lock(), [], set(), threading.Event()

    def hold(number: int) -> None:
        while True:
            try:
                with bucket.leased(store / "lock", f"machine{number} here"):
                    assert held.acquire(blocking=False)
                    assert refused.wait(HANG)
                    entered.append(number)
                    held.release()
                    return
            except BlockingIOError as error:
                said.add(error.strerror.rstrip("012345"))
                if "held by machine" in said:
                    refused.set()

    threads = [threading.Thread(target=hold, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entered) == list(range(6))
    assert "held by machine" in said
    assert bucket.walk(store) == []


def written(path: Path) -> datetime:
    """When an object was last written, by the server's clock."""
    return bucket._client().head_object(Bucket=path.parts[2], Key="/".join(path.parts[3:]))["LastModified"]


def test_what_a_dead_process_held_becomes_free(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.write(store / "lock", b"other folder")
    with pytest.raises(BlockingIOError, match="held by other"), bucket.leased(store / "lock", "me folder"):
        pass
    with bucket.leased(store / "lock", "other folder"):  # the same machine, where a lock of its own says more
        pass
    bucket.write(store / "lock", b"other folder")
    monkeypatch.setattr(bucket, "LEASE", 1.0)
    time.sleep(2.1)  # the server counts whole seconds
    with bucket.leased(store / "lock", "me folder"):
        taken, end = written(store / "lock"), time.monotonic() + HANG
        while written(store / "lock") == taken:  # until it is renewed
            assert time.monotonic() < end
            time.sleep(0.05)
        monkeypatch.setattr(bucket, "LEASE", 10.0 * HANG)  # a busy machine may be late
        with pytest.raises(BlockingIOError), bucket.leased(store / "lock", "third folder"):
            pass


@pytest.mark.parametrize(
    "name", ["s3://maps/2026", "s3:/maps/2026", "/vsis3/maps/2026", Path("s3://maps/2026")]
)
def test_a_place_in_a_bucket_has_several_names(name: str | Path) -> None:
    assert output_folder(name) == Path("/vsis3/maps/2026")


def test_other_paths_are_left_alone() -> None:
    assert output_folder("out/maps") == Path("out/maps")
    assert output_folder(Path("/tmp/s3")) == Path("/tmp/s3")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gs://maps/2026", "outputs go into a folder, or into a bucket as s3://bucket/folder"),
        ("https://somewhere/maps", "outputs go into a folder, or into a bucket as s3://bucket/folder"),
        ("/vsigs/maps", "not to /vsigs"),
        ("/vsis3/", "names no bucket"),
    ],
)
def test_places_that_cannot_be_written_are_refused(name: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        output_folder(name)


def test_errors_say_what_the_server_says(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetError, match=r"x could not be written to /vsis3/none \(.*bucket does not exist"):
        files.write_text(Path("/vsis3/none/x"), "")
    monkeypatch.setenv("AWS_S3_ENDPOINT", "127.0.0.1:9")
    bucket._client.cache_clear()
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    with pytest.raises(TargetError, match="Could not connect to the endpoint"):
        files.write_text(store / "x", "")


def test_gdal_knows_the_server_that_amazons_tools_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_S3_ENDPOINT", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage:9000/")
    assert bucket.gdal_endpoint() == {
        "AWS_S3_ENDPOINT": "storage:9000", "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE",
    }  # fmt: skip
    monkeypatch.setenv("AWS_S3_ENDPOINT", "other:1")
    assert bucket.gdal_endpoint() == {}


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    bucket._client.cache_clear()
    for name in ("boto3.session", "boto3.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TargetError, match=r"pip install 'pfmap\[s3\]'"):
        output_folder("s3://maps/2026")
    with pytest.raises(TargetError, match=r"pip install 'pfmap\[s3\]'"):  # on a worker, say
        files.read_text(Path("/vsis3/maps/run.json"))


@pytest.mark.parametrize(
    "name", ["s3://me:{}@bucket/maps", "s3://me:a/{}@bucket/maps", "/vsis3/{}@bucket/maps"]
)
def test_a_bucket_has_no_password_and_none_is_shown(name: str) -> None:
    secret = "s3cr3tWORD-of-16"
    folder = output_folder(name.format(secret))
    with pytest.raises(TargetError, match="no password: those are the AWS_ settings") as refused:
        files.file_names(folder)
    assert secret not in str(refused.value)
