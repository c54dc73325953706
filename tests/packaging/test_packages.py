"""What is built holds exactly what is tracked, whichever way it is built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DOORS = ("coherence", "config", "invalidation", "tiers")


def files_under_src() -> list[str]:
    """Paths below src/ that are tracked, or would be if they were committed now."""
    # safe.directory: a clone may belong to another user than the one who tests.
    listing = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "src"]
    try:
        listed = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):  # no git, or no clone: what is there is what counts
        listed = [str(path.relative_to(ROOT)) for path in (ROOT / "src").rglob("*") if "__pycache__" not in path.parts]
    return sorted(name.removeprefix("src/") for name in listed if name and (ROOT / name).is_file())


def build(source: Path, kind: str, target: Path) -> Path:
    """Build by this environment's hatchling, so that nothing is fetched."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(target), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (package,) = target.iterdir()
    return package


def code_in(wheel: Path) -> list[str]:
    """The paths in a wheel that are not its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return sorted(name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory):
    directory = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (root,) = directory.iterdir()
    return root


def test_wheel_holds_exactly_the_tracked_files(wheel):
    """The wheel holds the files tracked under src/ and nothing else."""
    assert files_under_src() == code_in(wheel)


def test_wheel_built_from_the_sdist_holds_them_too(unpacked, tmp_path):
    """So does the wheel built from the sdist, where hatchling's default would drop the rooms behind the doors."""
    assert files_under_src() == code_in(build(unpacked, "wheel", tmp_path))


def test_sdist_holds_no_door(unpacked):
    """The doors are for readers of the repository; a door in the sdist would hold its room's files twice."""
    assert [] == [name for name in DOORS if (unpacked / name).exists() or (unpacked / name).is_symlink()]


def test_wheel_is_typed_and_licensed(wheel):
    """Type checkers find `py.typed`, lawyers the licence."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "tiercast/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.parametrize("door", DOORS)
def test_doors_lead_to_existing_rooms(door):
    """Each door is a relative link to the room of its name."""
    link = ROOT / door
    if os.name != "posix":
        pytest.skip("links may be plain files here")
    assert link.is_symlink()
    assert f"src/tiercast/{door}" == str(link.readlink())
    assert (link / "__init__.py").is_file()


def test_no_lock_file_is_tracked():
    """No lock file is tracked: such files name registry hosts."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    command = [git, "-c", "safe.directory=*", "ls-files"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    locks = {"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "requirements.lock"}
    assert [] == [name for name in tracked if Path(name).name in locks or Path(name).name.startswith("pylock")]
