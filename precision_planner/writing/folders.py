"""A folder of results: which files in it are ours, and how a whole set of them is replaced.

A manifest in the folder lists what the planner wrote there. Only these files are ever replaced or removed; whatever
else lies in the folder stays. A set is written beside it (in the folder itself, so that a mount point or a link to a
folder serves too), made whole, and then moved in file by file: the file that makes the set usable (`plan.json`) goes
first and comes last, and a run that was killed in between is finished by the next one.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from precision_planner.errors import OutputError
from precision_planner.writing import temporary
from precision_planner.writing.ledger import reads
from precision_planner.writing.locks import CAN_LOCK, try_lock
from precision_planner.writing.outputs import atomic_files, check_output, write_bytes

MANIFEST = ".planner-manifest.json"
_STAGING, _READY, _SET = ".planner-stage-", ".planner-next", ".planner-set"


def made_files(folder: Path) -> set[str]:
    """The files of a folder that the planner made, relative to it; of a folder without a manifest none."""
    try:
        data = json.loads((folder / MANIFEST).read_text("utf-8"))
        names = [str(name) for name in data["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    # a manifest that names files elsewhere was not written by us
    return {name for name in names if name and not Path(name).is_absolute() and ".." not in Path(name).parts}


def check_folder(folder: Path, main: str, *, force: bool) -> None:
    """Refuse a folder that would lose something.

    Args:
      folder: where a set of files is to be written.
      main: the file that makes it one of ours, such as plan.json.
      force: replace the set that is there.

    Raises:
      OutputError: a file, or a folder with files but no set of ours, or (without force) with one.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file; give the name of a folder for the plan")
    try:
        names = {entry.name for entry in os.scandir(folder)} - {MANIFEST, _READY}
    except OSError as error:
        raise OutputError(f"cannot read the folder {folder}: {error.strerror}; choose another") from None
    names = {name for name in names if not name.startswith(_STAGING)}
    if not names or (folder / _READY).is_dir():
        return
    if not made_files(folder):
        raise OutputError(f"{folder} holds files that are not a plan's and is never replaced; give another -o")
    if not force and (folder / main).exists():
        raise OutputError(f"{folder} holds a plan already; give another -o, or --force to replace it")


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep a second run out of a folder while it is being written.

    Raises:
      OutputError: another run is writing there.
    """
    if not CAN_LOCK:  # nor can a folder be opened there
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if try_lock(handle) is False:
            raise OutputError(f"another run is writing {folder}; wait for it, or give another -o")
        yield
    finally:
        os.close(handle)


class FolderWriter:
    """Writes a set of files into a folder; a context manager.

    Inside the block files are made in `staging`; at its end they replace the set that was there.

    Args:
      folder: created where it does not exist.
      main: see `check_folder`.
      force: see `check_folder`.
    """

    def __init__(self, folder: Path, main: str, *, force: bool) -> None:
        self.folder, self._main, self._force = folder, main, force
        self._made = False

    def __enter__(self) -> Path:
        check_folder(self.folder, self._main, force=self._force)
        try:
            self._made = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = folder_lock(self.folder)
            self._lock.__enter__()
            try:
                _recover(self.folder, self._main)
                for entry in os.scandir(self.folder):
                    if entry.name.startswith(_STAGING) and entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path)
                check_folder(self.folder, self._main, force=self._force)
                self.staging = self.folder / f"{_STAGING}{os.getpid()}"
                self.staging.mkdir()
                temporary.hold(self.staging, self.folder if self._made else None)
            except BaseException:
                self._lock.__exit__(None, None, None)
                raise
        except OSError as error:
            raise OutputError(f"cannot write {self.folder}: {error.strerror or error}; choose another folder") from None
        return self.staging

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._commit()
        except OSError as error:
            raise OutputError(f"cannot write {self.folder}: {error.strerror or error}; choose another folder") from None
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)
            temporary.drop(self.staging)
            self._lock.__exit__(None, None, None)
            if self._made and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _commit(self) -> None:
        ours = made_files(self.folder)
        for name in _files_in(self.staging):
            place = self.folder / name
            if place.is_symlink() or (place.exists() and (name not in ours or reads.holds(place))):
                known = "was read by this run" if reads.holds(place) else "is not the planner's"
                raise OutputError(f"{place} {known} and is never replaced; move it away, or give another -o")
            if place.exists() and not stat.S_ISREG(place.stat().st_mode):
                raise OutputError(f"{place} is no plain file and is never replaced; move it away")
        # what was read in this run stays, though it was ours
        kept = [name for name in ours if reads.holds(self.folder / name)]
        listed = {"files": _files_in(self.staging), "kept": kept}
        (self.staging / _SET).write_text(json.dumps(listed), encoding="utf-8")
        os.rename(self.staging, self.folder / _READY)  # from here on the new set is whole, and will be there
        _recover(self.folder, self._main)


def _files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _recover(folder: Path, main: str) -> None:
    """Move a set that was made whole to its place; done again after a kill, it goes on where that stopped."""
    ready = folder / _READY
    if not ready.is_dir():
        return
    try:
        listed = json.loads((ready / _SET).read_text("utf-8"))
        new, kept = [str(name) for name in listed["files"]], {str(name) for name in listed["kept"]}
    except (OSError, ValueError, KeyError, TypeError):
        new, kept = [], set()  # everything was moved already, and the list removed
    old = made_files(folder)
    _write_manifest(folder, old | set(new))
    if (ready / main).exists():
        _unlink(folder / main)
    if new:
        for name in sorted(old - set(new) - kept, reverse=True):
            _unlink(folder / name)
            _remove_empty(folder, (folder / name).parent)
    for name in sorted(new, key=lambda name: name == main):
        place = folder / name
        if (ready / name).exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(ready / name, place)
            reads.forget(place)
    shutil.rmtree(ready)
    _write_manifest(folder, {name for name in old | set(new) if (folder / name).exists()} - kept)


def _unlink(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()


def _remove_empty(folder: Path, inner: Path) -> None:
    """Remove the folders inside `folder` that held only our files; one with anything else stays."""
    while inner != folder and inner.is_dir() and not any(inner.iterdir()):
        inner.rmdir()
        inner = inner.parent


def _write_manifest(folder: Path, names: Iterable[str]) -> None:
    data = {"kind": "manifest", "schema_version": 1, "files": sorted(names)}
    reads.forget(folder / MANIFEST)
    write_bytes(folder / MANIFEST, (json.dumps(data, indent=1) + "\n").encode())


def write_into(folder: Path, name: str, data: bytes, *, force: bool = False) -> Path:
    """Write one more file into a folder of ours, and say so in its manifest.

    Raises:
      OutputError: a file of that name is there that is not the planner's.
    """
    path = folder / name
    ours = made_files(folder)
    reads.forget(folder / MANIFEST)
    check_output(path, force=force, own=name in ours)
    if name not in ours:  # first: a run that is killed after the file would leave one that the next run refuses
        _write_manifest(folder, ours | {name})
    with atomic_files(path) as (file,):
        file.write(data)
    return path


def write_set(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder that may hold others', and remove those of an earlier set that are not among them.

    Raises:
      OutputError: a file of such a name is there that is not the planner's; nothing was written then.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with folder_lock(folder):
            ours = made_files(folder)
            for name in files:
                check_output(folder / name, force=False, own=name in ours)
            _write_manifest(folder, ours | set(files))
            for name, data in files.items():
                with atomic_files(folder / name) as (file,):
                    file.write(data)
            for name in ours - set(files):
                _unlink(folder / name)
            _write_manifest(folder, files)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}; choose another folder") from None


def record(folder: Path, *names: str) -> None:
    """Say in a folder's manifest that these files in it are ours; where there is no manifest one is begun."""
    ours = made_files(folder)
    if not set(names) <= ours:
        _write_manifest(folder, ours | set(names))


def finish_interrupted(folder: Path, main: str) -> None:
    """Finish what a killed run had made whole in a folder but not moved to its place."""
    if (folder / _READY).is_dir():
        with folder_lock(folder):
            _recover(folder, main)


__all__ = [
    "MANIFEST",
    "FolderWriter",
    "check_folder",
    "finish_interrupted",
    "folder_lock",
    "made_files",
    "record",
    "write_into",
    "write_set",
]
