"""Fewer threads while others want the cores, all of them again when these are free."""

from __future__ import annotations

from engine.native.threads import Threads


class Machine:
    """Steps of 10 ms, in which others keep a thread from its core for the share `crowd` if it needs the last one."""

    def __init__(self, cores: int) -> None:
        self.cores, self.now, self.crowd = cores, 0.0, 0.0
        self.threads = Threads(cores, lambda: self.now)

    def run(self, seconds: float) -> list[int]:
        """How many threads each step of that time used."""
        used = []
        until = self.now + seconds
        while self.now < until:
            used.append(self.threads.now)
            self.now += 0.01
            self.threads.note(self.crowd if self.threads.now == self.cores else 0.0)
        return used


def test_a_quiet_machine_keeps_all_threads():
    machine = Machine(4)
    machine.crowd = 0.05
    assert set(machine.run(30)) == {4}


def test_one_slow_step_changes_nothing():
    machine = Machine(4)
    machine.threads.note(0.7)
    machine.threads.note(0.0)
    assert machine.threads.now == 4


def test_crowded_out_threads_are_seldom_tried_again():
    machine = Machine(2)
    machine.crowd = 0.5
    used = machine.run(60)
    assert used[:1] == [2]
    assert used.count(2) < 0.05 * len(used)
    assert used[-300:].count(2) < 10


def test_they_come_back_when_the_others_are_done():
    machine = Machine(2)
    machine.crowd = 0.5
    machine.run(60)
    machine.crowd = 0.0
    machine.run(17)
    assert set(machine.run(5)) == {2}
    machine.crowd = 0.5
    machine.run(1)
    machine.crowd = 0.0
    machine.run(2)
    assert machine.threads.now == 2, "after a calm time it doesn't hesitate as long"


def test_it_halves_down_to_one():
    threads = Threads(8, lambda: 0.0)
    seen = {threads.now}
    for _ in range(40):
        threads.note(0.9)
        seen.add(threads.now)
    assert seen == {8, 4, 2, 1}
