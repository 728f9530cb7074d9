"""Runs a room's tests in a forked process, on one module that has a fault planted in it.

Nothing is written: the fault reaches the process as it imports the module. pytest and the libraries are imported once,
by the parent, the project's own modules in each child alone; so a mutant costs some 0.2 s and the tests that it takes
to notice it. Not here: which faults there are (`mutants`), and which are drawn (`__main__`).
"""

import contextlib
import gc
import importlib
import os
import resource
import signal
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).parents[2]
PLUGINS = ("pytest_asyncio.plugin", "pytest_timeout", "_hypothesis_pytestplugin")
LIBRARIES = (
    "_pytest.setupplan", "_pytest.unraisableexception", "brotli", "cryptography.hazmat.primitives.ciphers.aead",
    "httptools", "httpx", "hypothesis.internal.conjecture.engine", "hypothesis.internal.conjecture.shrinker",
    "hypothesis.strategies", "litestar", "msgspec", "pdb", "prometheus_client", "psycopg", "pytest", "redis.asyncio",
    "rq", "unittest.mock", "uvicorn.protocols.http.httptools_impl", "yaml", "zoneinfo", "zstandard", *PLUGINS,
)  # fmt: skip
"""What tests of these rooms import, worth importing once; whatever is missing here is imported by each child."""
COLLECTION_CPU_S = 30.0
"""Processor time that reading a group of files may take: several seconds on a busy machine, where a limit that is too
small would count mutants as killed that no test has noticed."""
TEST_CPU_S = 6.0
"""Processor time that one test may take, ten times what the longest one does: an endless loop is noticed as well."""
TEST_S = 60
"""The same by the clock, for tests that wait; more than any takes on a busy machine."""
EXAMPLES = 40
"""Of each property; hypothesis tries 100 otherwise."""
MEMORY_BYTES = 3 * 1024**3
FAILED = (1, 2)
"""pytest's exit status when a test failed, or could not be imported."""
ARGUMENTS = (
    "--exitfirst", "--quiet", "--no-header", "--assert=plain", f"--timeout={TEST_S}",
    "-pno:cacheprovider", "-Wignore::pytest.PytestAssertRewriteWarning", *(f"-p{name}" for name in PLUGINS),
)  # fmt: skip


def import_libraries() -> None:
    """Import what children would otherwise import each for itself."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # no child need look through them


def passes(groups: Sequence[Sequence[str]], module: str = "", text: str = "") -> bool:
    """Whether all tests of these files pass, one group after the other, on `text` in place of the module's own."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        run_and_exit(groups, module, text)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code > 0 and code not in FAILED:
        raise RuntimeError(f"pytest could not run {groups}: exit status {code}")
    return code == 0


def run_and_exit(groups: Sequence[Sequence[str]], module: str, text: str) -> None:
    """The forked process: it runs the groups until one fails, and ends with pytest's exit status."""
    code = 3
    try:
        confine()
        if module:
            sys.meta_path.insert(0, PlantedFinder(module, text))
        code = first_failure(groups)
    finally:
        os._exit(code)


def confine() -> None:
    """Set the limits of a process in which anything may go wrong, and silence it."""
    os.chdir(ROOT)
    with contextlib.suppress(ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.RLIM_INFINITY))
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)


def first_failure(groups: Sequence[Sequence[str]]) -> int:
    """The exit status of the first group that fails, 0 when none does."""
    import hypothesis
    import pytest

    # The same few examples each time, and no search for smaller ones: that a test fails is all there is to know.
    hypothesis.settings.register_profile(
        "mutants",
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    )
    hypothesis.settings.load_profile("mutants")
    for files in groups:
        limit_processor_time(COLLECTION_CPU_S)
        if code := pytest.main([*ARGUMENTS, *files], plugins=[Limits()]):
            return code
    return 0


def limit_processor_time(limit_s: float) -> None:
    """Have the kernel end this process unless it gets here again in time."""
    signal.setitimer(signal.ITIMER_PROF, limit_s)


class Limits:
    """A pytest plugin: properties last, since they take longest, and a limit for each test."""

    def pytest_collection_modifyitems(self, items: list[object]) -> None:
        """Put the tests in order; each file's stays as it is otherwise."""
        items.sort(key=lambda item: hasattr(getattr(item, "obj", None), "hypothesis"))

    def pytest_runtest_logstart(self) -> None:
        """A test begins."""
        limit_processor_time(TEST_CPU_S)


class PlantedFinder(MetaPathFinder):
    """Finds one module, with another text than its file's."""

    def __init__(self, path: str, text: str) -> None:
        self._name = path.removesuffix(".py").replace("/", ".")
        self._path = str(ROOT / path)
        self._text = text

    def find_spec(self, fullname: str, _path: object, _target: ModuleType | None = None) -> ModuleSpec | None:
        """See MetaPathFinder."""
        if fullname != self._name:
            return None
        return spec_from_file_location(fullname, self._path, loader=PlantedLoader(fullname, self._path, self._text))


class PlantedLoader(SourceFileLoader):
    """Compiles a module from a text in memory."""

    def __init__(self, fullname: str, path: str, text: str) -> None:
        super().__init__(fullname, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        """See SourceLoader; compiled modules are neither read nor written."""
        code: CodeType = self.source_to_code(self._text.encode(), self.get_filename(fullname))
        return code
