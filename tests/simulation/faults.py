"""What goes wrong in a world. Each fault is counted under its own name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulation.steps import Step
from tiercast.loading.flights import AwaitFlight
from tiercast.loading.loads import Load
from tiercast.plans import Blocking, Pause
from tiercast.signal import Wait

if TYPE_CHECKING:
    from simulation.process import Process
    from simulation.world import World

JUNK = (
    b"",
    b"\x00\xff",
    b"[]",
    b'{"v":2,"epoch":"e1","position":1,"kind":"all","targets":[]}',
    b'{"v":1,"epoch":"nowhere","position":7,"kind":"all","region":"","targets":[],"soft":false}',
    b'{"v":1,"epoch":"e1","position":1,"kind":"colour","region":"","targets":["red"]}',
    b'{"v":1,"epoch":"e1","position":9007199254740991,"kind":"all","region":"","targets":[],"soft":false}',
)


class Faults:
    """Draws and does them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.settings = world.settings
        wanted = {name: weight for name, weight in self.settings.faults.items() if weight}
        self._names, self._weights = tuple(wanted), tuple(wanted.values())
        self._saved: list[tuple[Any, Any]] = []
        """Older states of the server, oldest first: snapshots on its disk, replicas that lag."""

    def strike(self) -> None:
        """Let one fault happen, if it can."""
        world = self.world
        if not self._names:
            return
        (name,) = world.random.choices(self._names, self._weights)
        if getattr(self, name)() is not False:
            world.counts[f"fault {name}"] += 1

    def _anyone(self) -> Process | None:
        return self.world.random.choice(self.world.processes) if self.world.processes else None

    def _duration(self) -> float:
        """Return seconds: mostly around the bound on staleness, sometimes far beyond."""
        world = self.world
        return world.draw() * world.random.choice((0.5, 1.0, 2.0, 4.0)) * self.settings.max_staleness

    # -- messages --------------------------------------------------------------------------------

    def on_the_way(self, process: Process, message: bytes) -> list[bytes]:
        """Return what arrives of a message, and disturb what is in the inbox already."""
        world, rates = self.world, self.settings.messages
        if not rates:
            return [message]
        drawn = world.draw()
        name = next((each for each in rates if (drawn := drawn - rates[each]) < 0), None)
        if name is None:
            return [message]
        world.counts[f"message {name}"] += 1
        world.note(process, f"message {name}: {message.decode(errors='replace')[:90]}")
        if name == "lost":
            return []
        if name == "doubled":
            return [message, message]
        if name == "mangled":
            return [world.random.choice((*JUNK, message[: len(message) // 2], message + b"}"))]
        process.inbox.insert(int(world.draw() * (len(process.inbox) + 1)), message)
        return []

    # -- the network ---------------------------------------------------------------------------------

    def cut(self) -> bool:
        """A process is cut off from some places for a while; requests, or only answers, are lost, or come late."""
        process = self._anyone()
        if process is None or process.cut or self.world.log.host_log:
            return False
        choice = self.world.random.choice
        places = choice(
            (
                ("log", "remote", "bus"),
                ("log", "remote", "bus"),
                ("log",),
                ("remote",),
                ("log", "bus"),
                ("log", "remote"),
            )
        )
        modes = {place: choice(("lost", "lost", "answer lost", "late")) for place in places}
        return self._cut(process, modes)

    def cut_bus(self) -> bool:
        """A half-open connection: nothing arrives any more, and nobody says so."""
        process = self._anyone()
        if process is None or process.cut:
            return False
        return self._cut(process, {"bus": "lost"})

    def _cut(self, process: Process, modes: dict[str, str]) -> bool:
        seconds = self._duration()
        process.cut = dict(modes)
        if "bus" in modes and self.world.draw() < 0.5:
            process.hang_up()
        self.world.note(process, f"is cut off: {modes} for {seconds:.2f} s")
        self.world.at(seconds, lambda: self._mend(process))
        return True

    def _mend(self, process: Process) -> None:
        process.cut = {}
        self.world.note(process, "is connected again")

    def hang_up(self) -> bool:
        process = self._anyone()
        if process is None or not process.subscribed:
            return False
        self.world.note(process, "its subscription ends")
        process.hang_up()
        return True

    def overflow(self) -> bool:
        """The server drops a subscriber that reads too slowly, and what was in its buffer."""
        process = self._anyone()
        if process is None or not process.inbox:
            return False
        self.world.note(process, "its output buffer overflows")
        process.inbox.clear()
        process.hang_up()
        return True

    def server_stalls(self) -> None:
        """No request of anybody is answered for a while; what was sent may be done later."""
        seconds = self._duration()
        self.world.note("server", f"stalls for {seconds:.2f} s")
        for process in self.world.processes:
            if not process.cut:
                process.cut = {"log": "late", "remote": "late"}
                self.world.at(seconds, lambda process=process: self._mend(process))

    # -- processes -------------------------------------------------------------------------------------

    def crash(self) -> bool:
        process = self._anyone()
        if process is None:
            return False
        self.world.crash(process, self.world.draw() * 3.0)
        return True

    def pause(self) -> bool:
        """SIGSTOP, and SIGCONT after a while: it goes on exactly where it was."""
        process = self._anyone()
        if process is None:
            return False
        seconds = self._duration()
        self.world.note(process, f"is stopped for {seconds:.2f} s")
        process.paused_until = self.world.now + seconds
        return True

    def stop_all(self) -> None:
        """Time passes in which nobody does anything."""
        self.world.pass_time(self._duration())

    def cancel(self) -> bool:
        """A task of the application is cancelled where it waits."""
        process = self._anyone()
        if process is None:
            return False
        # Cancellation strikes where a task waits. (One that is cancelled before its first step never runs at all.)
        threads = [
            each
            for each in process.threads
            if isinstance(each.request, Step | AwaitFlight | Wait | Pause | Blocking | Load)
            and (each.operation is not None or each.name == "worker")
        ]
        if not threads:
            return False
        self.world.cancel(self.world.random.choice(threads))
        return True

    def disk_fails(self) -> bool:
        if not self.settings.disk:
            return False
        host = self.world.random.choice(list(self.world.hosts.values()))
        host.disk_fails_until = self.world.now + self.world.draw() * 2.0
        self.world.note(host.name, "its disk fails")
        return True

    # -- servers -----------------------------------------------------------------------------------------

    def backup(self) -> bool:
        """The server writes a snapshot; a replica is as far behind."""
        if self.world.log.host_log:
            return False
        self._saved.append((self.world.log.copied(), self.world.values.copied()))
        del self._saved[:-4]
        return True

    def _restarts(self, contents: tuple[Any, Any], how: str) -> bool:
        world = self.world
        world.note("server", how)
        world.log.restart(contents[0])
        if self.settings.log != "cluster":
            same = world.values.rows.items() <= contents[1]["rows"].items() if contents[1] else False
            world.values.restart(contents[1] if same or self.settings.old_values else None)
        for process in world.processes:
            process.hang_up()
        return True

    def restart_empty(self) -> bool:
        return not self.world.log.host_log and self._restarts((None, None), "restarts empty")

    def restart_with_data(self) -> bool:
        if self.world.log.host_log:
            return False
        return self._restarts((self.world.log.copied(), self.world.values.copied()), "restarts with its data")

    def restart_older(self) -> bool:
        return bool(self._saved) and self._restarts(self._saved[0], "restarts from an older snapshot")

    def fail_over(self) -> bool:
        return bool(self._saved) and self._restarts(
            self._saved[-1], "fails over to a replica that lacks the last records"
        )

    def values_fail_over(self) -> bool:
        """In a Cluster: the shards of the values alone fail over to replicas that lack the last writes."""
        if self.settings.log != "cluster" or not self._saved or not self.settings.old_values:
            return False
        self.world.note("values", "fail over to replicas that lack the last writes")
        self.world.values.restart(self._saved[-1][1])
        return True

    def flush(self) -> bool:
        """FLUSHALL: everything is gone, the server lives on."""
        world = self.world
        if world.log.host_log:
            return False
        world.note("server", "FLUSHALL")
        for part in ("log", "stream", "stamps", "members"):
            world.log.lose(part)
        if self.settings.log != "cluster":
            world.values.rows.clear()
            world.values.leases.clear()
        return True

    def lose_part(self) -> bool:
        """One key of the log is evicted."""
        if self.world.log.host_log:
            return False
        part = self.world.random.choice(("log", "stream", "stamps", "members"))
        self.world.note("server", f"loses the key of the {part}")
        self.world.log.lose(part)
        return True

    def trim(self) -> bool:
        """The log lets go of all that has been carried."""
        log = self.world.log
        if log.state is None:
            return False
        length, log.length = log.length, 1
        before = log.trimmed
        log.trim(log.state)
        log.length = length
        return log.trimmed > before

    # -- the end ---------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """End everything that goes on."""
        for process in self.world.processes:
            process.cut = {}
            process.paused_until = 0.0
        for host in self.world.hosts.values():
            host.disk_fails_until = 0.0
