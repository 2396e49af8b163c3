"""What peers are measured by, without starting one."""

import re
import struct

from tests.bench.peers import backlog, environment
from tests.bench.peers.apps import work
from tests.bench.peers.peer import Bench
from tests.bench.peers.ticks import TICK, TICKS_FILE, make_tick
from tests.bench.report import PEER_PACKAGES


class Worker:
    """Has used a second of CPU, and then two."""

    pss_mib = 50.0

    def __init__(self):
        self._cpu_s = iter((1.0, 2.0))

    @property
    def cpu_s(self):
        return next(self._cpu_s)


def test_ticks_of_all_tasks_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv(TICKS_FILE, str(tmp_path / "ticks"))
    first, second = make_tick(), make_tick()
    for tick in (first, second, first):
        tick()
    bench = Bench("none", tmp_path, {})

    starts = bench.starts()

    assert 3 == len(starts)
    assert sorted(starts) == starts


def test_a_tick_that_is_being_written_is_not_read(tmp_path):
    (tmp_path / "ticks").write_bytes(TICK.pack(1.0) + b"\0\0\0")

    assert [1.0] == Bench("none", tmp_path, {}).starts()


def test_the_rate_is_that_from_the_first_to_the_last_beginning(tmp_path):
    (tmp_path / "ticks").write_bytes(struct.pack("5d", 10.0, 10.5, 11.0, 11.5, 12.0))

    values = backlog.watch(Bench("none", tmp_path, {}), Worker(), count=5)

    assert 2 == values["rate"]
    assert 50 == values["pss_mib"]


def test_arguments_are_as_long_as_said():
    assert 165 <= len(str(work.arguments(12345))) <= 195


def test_each_peer_is_pinned_with_hashes_and_without_an_address():
    for peer, package in PEER_PACKAGES.items():
        file = environment.requirements_of(peer)
        text = file.read_text()

        assert environment.versions_of(file, package)[package]
        assert text.count("--hash=sha256:") >= len(re.findall(r"^\S+==", text, re.MULTILINE))
        assert not re.search(r"https?://|file:", text)
