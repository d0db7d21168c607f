"""Files that take the place of others as a whole."""

from pathlib import Path

import pytest

from pliant.files import read_file, replacing


@pytest.mark.parametrize("before", [None, "old"])
def test_readers_see_the_old_file_until_the_new_one_is_whole(
    tmp_path: Path, before: str | None
) -> None:
    path = tmp_path / "data.txt"
    if before is not None:
        path.write_text(before)
    with replacing(path) as draft:
        assert (draft.parent, draft.suffix) == (path.parent, ".txt")
        draft.write_text("ne")
        assert (path.read_text() if path.exists() else None) == before
        with draft.open("a") as file:
            file.write("w")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_only_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"\xff")
    assert read_file(path) == b"\xff"
    for other in (tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="it is not a file"):
            read_file(other)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none")


class Stopped(Exception):
    pass


def test_what_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("old")
    with pytest.raises(Stopped), replacing(path) as draft:
        draft.write_text("half")
        raise Stopped
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
