"""`python -m tests.release.release VERSION` (`make release`): everything that a release consists of, into `dist/`.

It checks, tags, builds wheel and source archive twice from two places, compares them byte by byte, and packs the chart
and the Compose files with the version. The image needs Docker with buildx, the Homebrew formula the address at which
the files will lie; without them it says so and goes on. Nothing is uploaded, no tag pushed, and `dist/` is not
committed. On a tag that stands on the commit, as in CI, all but the tagging is done.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import click

from service.version import DISTRIBUTION

ROOT = Path(__file__).parents[2]
VERSION = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}")
CHART = "deploy/chart"
UPGRADING = "docs/upgrading.md"
COMPOSE = ("docker-compose.yml", ".env.docker.example", "deploy")
IMAGE = "claude-code-proxy"
PLATFORMS = "linux/amd64,linux/arm64"
BUILD_S = 3_600
FORMULA = """\
class ClaudeFailover < Formula
  desc "{summary}"
  homepage "{address}"
  url "{address}/{source}"
  sha256 "{source_sha256}"
  license "MIT"

  depends_on "python@3.13"

  resource "wheel" do
    url "{address}/{wheel}", using: :nounzip
    sha256 "{wheel_sha256}"
  end

  def install
    system "python3.13", "-m", "venv", libexec
    python = libexec/"bin/python"
    system python, "-m", "pip", "install", "--require-hashes", "--requirement", buildpath/"requirements.lock"
    resource("wheel").stage do
      system python, "-m", "pip", "install", "--no-deps", "{wheel}"
    end
    bin.install_symlink libexec/"bin/ccproxy", libexec/"bin/{distribution}"
  end

  service do
    run [opt_bin/"ccproxy", "up"]
    keep_alive true
  end

  test do
    assert_match version.to_s, shell_output("#{{bin}}/ccproxy --version")
  end
end
"""


class ReleaseError(Exception):
    """Why there is no release, with the mend."""


class Repository(NamedTuple):
    """The checkout that is released."""

    root: Path

    def git(self, *arguments: str) -> str:
        """What git prints. Raises ReleaseError."""
        done = subprocess.run(["git", *arguments], cwd=self.root, capture_output=True, text=True, check=False)  # noqa: S607
        if done.returncode:
            raise ReleaseError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def text(self, name: str) -> str:
        """A file's text."""
        return (self.root / name).read_text(encoding="utf-8")

    @property
    def commit_time_s(self) -> int:
        """When the commit was made: all files of the release have this time."""
        return int(self.git("log", "-1", "--format=%ct"))


# -- what has to be so before


def check(repository: Repository, version: str) -> None:
    """Refuse a release that the files don't agree with. Raises ReleaseError."""
    if not VERSION.fullmatch(version):
        raise ReleaseError(f"{version!r} is no version; give one as in `make release VERSION=1.2.3`")
    notes_of(repository.text("CHANGELOG.md"), version)
    fallback = tomllib.loads(repository.text("pyproject.toml"))["tool"]["hatch"]["version"]["fallback-version"]
    if fallback != version:
        raise ReleaseError(f"fallback-version in pyproject.toml is {fallback}; set it to {version}, and commit that")
    upgrade_notes_of(repository.text(UPGRADING), version)
    if changed := repository.git("status", "--porcelain"):
        raise ReleaseError(f"the working tree is not clean; commit or remove:\n{changed}")


def notes_of(changelog: str, version: str) -> str:
    """Return what the changelog says about a version. Raises ReleaseError."""
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    found = next((section for section in sections if section.startswith(f"[{version}]")), None)
    if found is None:
        raise ReleaseError(f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD`; rename [Unreleased]")
    head, _, notes = found.partition("\n")
    if not re.fullmatch(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", head.strip()):
        raise ReleaseError(f"CHANGELOG.md: the section of {version} has no date: `## [{version}] - YYYY-MM-DD`")
    if not notes.strip():
        raise ReleaseError(f"CHANGELOG.md: the section of {version} is empty")
    return notes.strip() + "\n"


def upgrade_notes_of(page: str, version: str) -> str:
    """Return what an upgrade to a version needs. Raises ReleaseError."""
    notes = page.partition("\n## Notes for each version\n")[2].partition("\n## ")[0]
    for section in notes.split("\n### ")[1:]:
        head, _, text = section.partition("\n")
        if head.strip() == version and text.strip():
            return text.strip() + "\n"
    raise ReleaseError(f"{UPGRADING} has no notes for {version}; write them, or that none are needed")


def tag(repository: Repository, version: str) -> bool:
    """Tag the commit; return whether that was still to be done. Raises ReleaseError if another commit has the tag."""
    name = f"v{version}"
    if not repository.git("tag", "--list", name):
        repository.git("tag", "--annotate", "--message", f"{DISTRIBUTION} {version}", name)
        return True
    if repository.git("rev-list", "-1", name) != repository.git("rev-parse", "HEAD"):
        raise ReleaseError(f"the tag {name} stands on another commit; choose the next version")
    return False


# -- what is built


def build(repository: Repository, dist: Path) -> list[Path]:
    """Build wheel and source archive in the checkout and in a clone elsewhere; both must be equal, byte by byte."""
    with tempfile.TemporaryDirectory(prefix="ccproxy-release-") as place:
        clone = Path(place) / "another-place"
        repository.git("clone", "--quiet", "--no-local", str(repository.root), str(clone))
        once, again = hatchling(repository, dist), hatchling(Repository(clone), Path(place) / "dist")
        different = [a.name for a, b in zip(once, again, strict=True) if a.read_bytes() != b.read_bytes()]
    if different:
        raise ReleaseError(f"built twice, and not the same bytes: {', '.join(different)}")
    return once


def hatchling(repository: Repository, dist: Path) -> list[Path]:
    """Build in a checkout; return wheel and source archive."""
    environ = os.environ | {"SOURCE_DATE_EPOCH": str(repository.commit_time_s)}
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(dist)]
    done = subprocess.run(command, cwd=repository.root, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"the build failed:\n{done.stderr}")
    return [next(dist.glob("*.whl")), next(dist.glob("*.tar.gz"))]


def pack(files: dict[str, bytes], target: Path, time_s: int) -> Path:
    """Write a tar archive whose bytes depend on names, contents and the time alone."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(files[name]), time_s
            entry.mode = 0o755 if name.endswith(".sh") else 0o644
            archive.addfile(entry, io.BytesIO(files[name]))
    with target.open("wb") as file, gzip.GzipFile(target.stem, "wb", fileobj=file, mtime=time_s) as compressed:
        compressed.write(packed.getvalue())
    return target


def tracked(repository: Repository, *places: str) -> dict[str, bytes]:
    """Return the files below some paths that git tracks."""
    names = repository.git("ls-files", *places).splitlines()
    return {name: (repository.root / name).read_bytes() for name in names}


def pack_chart(repository: Repository, version: str, dist: Path) -> Path:
    """Pack the chart with its version, and that of the image that it starts."""
    files = {f"{IMAGE}{name.removeprefix(CHART)}": content for name, content in tracked(repository, CHART).items()}
    about = f"{IMAGE}/Chart.yaml"
    files[about] = re.sub(rb"(?m)^((?:appV|v)ersion:).*$", rb"\1 " + version.encode(), files[about])
    return pack(files, dist / f"{IMAGE}-{version}.tgz", repository.commit_time_s)


def pack_compose(repository: Repository, version: str, dist: Path) -> Path:
    """Pack the Compose files with the image of this version, which is loaded and not built."""
    folder = f"{DISTRIBUTION}-{version}-compose"
    files = {name: content for name, content in tracked(repository, *COMPOSE).items() if not name.startswith(CHART)}
    for name in ("docker-compose.yml", ".env.docker.example"):
        text = re.sub(r"(?m)^  build:\n(?:    .*\n)+", "", files[name].decode())
        files[name] = text.replace(f"{IMAGE}:latest", f"{IMAGE}:{version}").encode()
    named = {f"{folder}/{name}": content for name, content in files.items()}
    return pack(named, dist / f"{folder}.tar.gz", repository.commit_time_s)


def build_image(repository: Repository, version: str, dist: Path) -> Path | str:
    """Build the image for both platforms, with SBOM and provenance; without the tool, return what is missing."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "buildx", "inspect"], capture_output=True, check=False).returncode:
        return "image: left out, as there is no Docker engine with buildx here"
    target = dist / f"{IMAGE}-{version}-image.tar"
    command = [
        docker, "buildx", "build", "--platform", PLATFORMS, "--sbom=true", "--provenance=mode=max",
        "--build-arg", f"VERSION={version}", "--build-arg", f"SOURCE_DATE_EPOCH={repository.commit_time_s}",
        "--tag", f"{IMAGE}:{version}", "--file", "deploy/Dockerfile", "--output", f"type=oci,dest={target}", ".",
    ]  # fmt: skip
    if subprocess.run(command, cwd=repository.root, check=False, timeout=BUILD_S).returncode:
        raise ReleaseError("the image could not be built; see above")
    return target


def write_formula(wheel: Path, source: Path, address: str, dist: Path) -> Path | str:
    """Write the formula for Homebrew; without the address of the files, return what is missing."""
    if not address:
        return "formula: left out; URL=... names the address at which the files of the release will lie"
    target = dist / f"{DISTRIBUTION}.rb"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = FORMULA.format(
        summary=project["description"],
        address=address.rstrip("/"),
        source=source.name,
        source_sha256=digest(source),
        wheel=wheel.name,
        wheel_sha256=digest(wheel),
        distribution=DISTRIBUTION,
    )
    target.write_text(text, encoding="utf-8")
    return target


def digest(file: Path) -> str:
    """Return a file's SHA-256."""
    return sha256(file.read_bytes()).hexdigest()


def write_sums(files: list[Path], dist: Path) -> Path:
    """Write the checksums of all files, for `sha256sum --check`."""
    target = dist / "SHA256SUMS"
    target.write_text("".join(f"{digest(file)}  {file.name}\n" for file in sorted(files)), encoding="utf-8")
    return target


def release(repository: Repository, version: str, address: str, dist: Path) -> list[str]:
    """Make a release; return what is to be said about it. Raises ReleaseError, and then leaves no new tag."""
    check(repository, version)
    is_new = tag(repository, version)
    try:
        shutil.rmtree(dist, ignore_errors=True)
        wheel, source = build(repository, dist)
        packs = [pack_chart(repository, version, dist), pack_compose(repository, version, dist)]
        others = [build_image(repository, version, dist), write_formula(wheel, source, address, dist)]
    except BaseException:
        if is_new:
            repository.git("tag", "--delete", f"v{version}")
        raise
    notes = dist / "NOTES.md"
    notes.write_text(notes_of(repository.text("CHANGELOG.md"), version), encoding="utf-8")
    made = [wheel, source, *packs, *(other for other in others if isinstance(other, Path))]
    told = [str(file) for file in (*made, notes, write_sums(made, dist))]
    told += [other for other in others if isinstance(other, str)]
    return [*told, f"v{version} is tagged here; `git push origin v{version}` publishes the tag"]


@click.command()
@click.argument("version")
@click.option("--url", default="", help="The address at which the files will lie; for the formula.")
def main(version: str, url: str) -> None:
    """Make the release VERSION of this checkout."""
    try:
        told = release(Repository(ROOT), version, url, ROOT / "dist")
    except ReleaseError as error:
        raise click.ClickException(str(error)) from None
    for line in told:
        click.echo(line)


if __name__ == "__main__":
    main()
