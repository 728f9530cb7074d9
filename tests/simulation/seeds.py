"""What one process of `python -m tests.simulation` does.

Not in its `__main__`, which a process that is not forked (Python 3.14, macOS) does not import again.
"""

from tests.simulation.faults import planted
from tests.simulation.oracle import Broken
from tests.simulation.world import simulate


def run(seeds: range, fault: str | None) -> str:
    """Simulate these seeds; what was broken in the first that fails, else nothing."""
    with planted(fault):
        for seed in seeds:
            try:
                simulate(seed)
            except Broken as broken:
                return f"{broken}"
            except Exception as error:  # noqa: BLE001 - whatever it is, its seed is worth knowing
                return f"seed {seed}: {error!r}"
    return ""
