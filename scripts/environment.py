"""Make a virtual environment ready: created, filled, and made anew when pyproject.toml or the interpreter changes.

python scripts/environment.py DIRECTORY PROFILE

Run by the interpreter that the environment is to have; needs nothing but the standard library. Profiles are
additive, so that `make demo` does not wait for linters that `make test` installs later.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# profile: (extras of tiercast, dependency group, profiles that it makes unnecessary)
PROFILES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "demo": ("demo", "", ()),
    "bench": ("all,demo,bench", "", ("demo",)),
    "test": ("all", "test", ("demo",)),
    "dev": ("all", "dev", ("demo", "test")),
}


def group(name: str, table: dict[str, list[str | dict[str, str]]]) -> list[str]:
    """The requirements of a dependency group (PEP 735), those of included groups in their place."""
    requirements: list[str] = []
    for item in table[name]:
        requirements += [item] if isinstance(item, str) else group(item["include-group"], table)
    return requirements


def fingerprint() -> str:
    """What an environment was made from: if it differs, the environment is made anew."""
    parts = ((ROOT / "pyproject.toml").read_bytes(), str(ROOT).encode(), sys.version.encode(), sys.base_prefix.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def create(directory: Path) -> None:
    """Create the environment; without ensurepip (Debian without python3-venv) the interpreter's own pip puts one in."""
    shutil.rmtree(directory, ignore_errors=True)
    with_pip = importlib.util.find_spec("ensurepip") is not None
    subprocess.run([sys.executable, "-m", "venv", *([] if with_pip else ["--without-pip"]), directory], check=True)
    if not with_pip:
        inside = ["--python", str(directory / "bin" / "python")]
        subprocess.run([sys.executable, "-m", "pip", *inside, "install", "--quiet", "--quiet", "pip"], check=True)


def main(directory: Path, profile: str) -> None:
    """Bring `directory` to `profile`; does nothing where it is there already."""
    extras, group_name, contained = PROFILES[profile]
    wanted = fingerprint()
    stamp = directory / "fingerprint"
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"environment: {directory.name} with Python {sys.version.split()[0]}", flush=True)
        create(directory)
    elif (directory / f"ready-{profile}").exists():
        return
    print(f"environment: {directory.name}: installing what {profile} needs", flush=True)
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    requirements = group(group_name, groups) if group_name else []
    pip = [directory / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--quiet"]
    warnings = ["--no-warn-script-location", "--root-user-action=ignore"]
    subprocess.run([*pip, *warnings, "--editable", f"{ROOT}[{extras}]", *requirements], check=True)
    for ready in (profile, *contained):
        (directory / f"ready-{ready}").touch()
    stamp.write_text(wanted)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]).absolute(), sys.argv[2])
    except subprocess.CalledProcessError as exc:
        sys.exit(f"environment: {' '.join(map(str, exc.cmd))} ended with {exc.returncode}")
