"""Work that can be put aside in the middle, and the places at which that, or worse, happens.

A worker's code is plain and synchronous. A `Fiber` runs it in a thread that moves only while whoever resumes it waits,
so that no two things ever run at the same time and a seed says everything.
"""

import threading
from collections.abc import Callable

from tests.simulation.virtual import Died

Plan = dict[int, str]
"""What happens at the n-th place of a piece of work: pause, die, fail (before it is done) or late (done, unheard)."""


class Fiber:
    """One piece of work, done in parts. `died`: the process is no more; `fault`: what it ended with otherwise."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.done = False
        self.died = False
        self.fault: BaseException | None = None
        self._killed = False
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._go.acquire()
        self._work()
        self.done = True
        self._back.release()

    def _work(self) -> None:
        if self._killed:
            self.died = True
            return
        try:
            self.work()
        except Died:
            self.died = True
        except BaseException as error:  # noqa: BLE001 - told to whoever resumed it
            self.fault = error

    def resume(self) -> None:
        """Go on until the next pause or the end."""
        self._go.release()
        self._back.acquire()
        if self.done:
            self._thread.join()

    def kill(self) -> None:
        """End it where it stands."""
        self._killed = True
        self.resume()

    def pause(self) -> None:
        """Within the work: let others go on. Raises Died when it is not to come back."""
        self._back.release()
        self._go.acquire()
        if self._killed:
            raise Died


class Places:
    """Counts the places that a worker's work comes by, and lets happen what its plan has for them."""

    def __init__(self) -> None:
        self.plan: Plan = {}
        self.fiber: Fiber | None = None
        self.passed: list[str] = []

    def begin(self, plan: Plan) -> None:
        """A new piece of work."""
        self.plan = plan
        self.passed = []

    def come_to(self, place: str) -> str:
        """What is to happen here: "", "fail" or "late"; a pause has been taken already. Raises Died."""
        self.passed.append(place)
        what = self.plan.get(len(self.passed), "")
        if what == "die":
            raise Died
        if what == "pause":
            if self.fiber is not None:
                self.fiber.pause()
            return ""
        return what
