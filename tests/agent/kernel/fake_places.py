"""Captured namespaces without a kernel: files stand for namespaces, and each place logs what is done with it."""

from typing import ClassVar

from agent.kernel import capture as ground
from agent.kernel.condition import Condition
from policy.model import Workload


class Table:
    owned, lent = True, False

    def __init__(self):
        self.socket = self

    def fileno(self):
        return 7

    def dup(self):
        return Copy("table")

    def lend(self):
        self.lent = True


class Copy:
    """Of a socket; `closed`: whose copies were."""

    closed: ClassVar = []

    def __init__(self, of):
        self.of = of

    def close(self):
        self.closed.append(self.of)


class Door:
    def __init__(self, name):
        self.name = name

    def fileno(self):
        return 8

    def dup(self):
        return Copy(f"a door of {self.name}")


class Doors:
    def __init__(self, place):
        self.place = place

    def __iter__(self):
        return iter([Door(self.place.workload.name)])

    def close(self):
        self.place.log.append("shut")


class FakePlace:
    made, refuse = [], {}

    def __init__(self, capture, workload, path, given=()):
        if path in self.refuse:
            raise OSError(*self.refuse[path])
        self.workload, self.doors, self.fault, self.table = workload, Doors(self), "", Table()
        self.namespace = type("Namespace", (), {"path": path, "id": ground.netns.identity(path)})
        self.name = f"namespace {self.namespace.id[1]}"
        self.given = [copy.of for copy in capture.kept.take(self.name)]
        self.log = ["made"]
        self.made.append(self)

    def keep(self, workload, given=()):
        if given:
            self.log.append(f"given {', '.join(sorted(given))}")
        if workload is not self.workload:
            self.workload = workload
            self.log.append("kept")

    def remove(self):
        self.log.append("removed")

    def close(self):
        self.log.append("closed")

    def condition(self, held=(), counted=False):
        return Condition(True, self.namespace.path, powers=held)

    def towards(self, caller, family, reuse=False):
        return ("towards", self.workload.key, caller, family)


def workload(name, **more):
    return Workload("n", name, name, **{"netns": name, **more})


def settle(world, *workloads):
    world.want(workloads)
    world.settle()
    return {key: condition.error for key, condition in world.conditions().items()}
