"""The doctor's report on this machine, and its advice on machines that lack something."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.cli import main
from diptych.commands import doctor
from diptych.memory import machine, userfault
from diptych.serving.placement import Processors

GIB = 1 << 30

WELL = doctor.Report(
    host=machine.Host("6.8.0-45-generic", "x86_64", 4096, 1000, False, False, "0", "no access"),
    ways=[machine.Way("kernel, by system call", True), machine.Way("compare", True)],
    tracker="kernel",
    locking=machine.Locking(True, "", None),
    limits=machine.MemoryLimits(16 * GIB, None, 0, None, False),
    data_bytes=GIB,
    images=3,
    readers=2,
    cost_bytes=machine.data_cost_bytes(GIB, 3, 2),
    sync=None,
    processors=Processors(4, (0, 1, 3)),
    places=[],
    place_problems=[],
)
NO_TRACKING = replace(
    WELL, tracker="compare", ways=[machine.Way("kernel, by system call", False, "no, because")]
)


def refused() -> int:
    raise PermissionError(1, "Operation not permitted")


def one_advice(report: doctor.Report) -> str:
    (advice,) = doctor.advice(report)
    assert advice in "\n".join(doctor.lines(report))
    return advice


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--data-gib", "0.5"]) == 0
    out = capsys.readouterr().out
    for part in (
        "kernel, by system call: ",
        "kernel, by /dev/userfaultfd: ",
        "compare: works",
        "Locking memory",
        "Memory for 512.0 MiB of tables, 3 images, 2 readers",
        "needed: 2.01 GiB",
        "pause for 1000 written pages: ",
        "copying: ",
        "first write to a page after a sync: ",
    ):
        assert part in out


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--no-measure", "--images", "2", "--readers", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 2
    assert report["sync"] is None
    assert report["cost_bytes"] == 3 * GIB + 5 * 8 * GIB // 4096
    assert {way["name"] for way in report["ways"]} > {"compare"}
    assert isinstance(report["advice"], list)


def test_why_the_kernels_tracking_does_not_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(userfault.OPENINGS):
        monkeypatch.setitem(userfault.OPENINGS, name, refused)
    assert main(["doctor", "--no-measure"]) == 0
    out = capsys.readouterr().out
    assert "kernel, by system call: does not work: " in out
    assert "Operation not permitted" in out
    assert "taken by default: compare" in out


def test_when_nothing_works_the_exit_code_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = [machine.Way("compare", False, "no memory can be mapped")]
    monkeypatch.setattr(machine, "ways_of_tracking", lambda: nothing)
    assert main(["doctor"]) == 1
    assert "cannot run here" in capsys.readouterr().out


def test_a_machine_that_needs_nothing() -> None:
    assert doctor.advice(WELL) == []
    assert doctor.lines(WELL)[-1] == "Nothing needs to be changed."


def test_an_old_kernel() -> None:
    report = replace(NO_TRACKING, host=replace(WELL.host, kernel="6.1.0-25-amd64"))
    assert "Linux 6.7" in one_advice(report)


def test_a_container() -> None:
    for host in (
        replace(WELL.host, container=True),
        replace(WELL.host, system_calls_filtered=True),
    ):
        assert "--device /dev/userfaultfd" in one_advice(replace(NO_TRACKING, host=host))


def test_a_device_that_may_not_be_opened() -> None:
    assert "chmod 666 /dev/userfaultfd" in one_advice(NO_TRACKING)
    assert "does not work: no, because" in "\n".join(doctor.lines(NO_TRACKING))


def test_a_kernel_built_without_it() -> None:
    host = replace(WELL.host, device="usable")
    assert "CONFIG_USERFAULTFD" in one_advice(replace(NO_TRACKING, host=host))


def test_large_pages() -> None:
    host = replace(WELL.host, page_bytes=65536, machine="aarch64", device="usable")
    assert "4096" in doctor.advice(replace(NO_TRACKING, host=host))[0]


def test_too_little_memory() -> None:
    limits = replace(WELL.limits, group_limit_bytes=2 * GIB, group_used_bytes=GIB // 2)
    advice = one_advice(replace(WELL, limits=limits))
    assert "4.02 GiB" in advice
    assert "1.50 GiB" in advice


def test_limits_that_apply_to_memory() -> None:
    limits = replace(WELL.limits, file_size_limit_bytes=GIB // 2)
    assert "ulimit -f" in one_advice(replace(WELL, limits=limits))
    limits = replace(WELL.limits, strict_overcommit=True)
    assert "vm.overcommit_memory" in one_advice(replace(WELL, limits=limits))


def test_a_lock_limit_below_the_need() -> None:
    report = replace(WELL, locking=machine.Locking(True, "", 8 << 20))
    advice = one_advice(report)
    assert f"ulimit -l {-(-WELL.cost_bytes // 1024)}" in advice
    assert "less than needed" in "\n".join(doctor.lines(report))
    assert "ulimit -l" in one_advice(replace(WELL, locking=machine.Locking(False, "no", None)))


def test_the_tightest_control_group_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/self/cgroup": "0::/a/b\n",
        "/sys/fs/cgroup/a/b/memory.max": "max\n",
        "/sys/fs/cgroup/a/memory.max": "1000000\n",
        "/sys/fs/cgroup/a/memory.current": "400000\n",
        "/sys/fs/cgroup/memory.max": "2000000\n",
        "/sys/fs/cgroup/memory.current": "500000\n",
    }

    def read(path: Path) -> str:
        try:
            return files[str(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    monkeypatch.setattr(Path, "read_text", read)
    assert machine._group_memory() == (1000000, 400000)
    files["/proc/self/cgroup"] = "5:cpu:/x\n4:memory,hugetlb:/x\n"
    files["/sys/fs/cgroup/memory/x/memory.limit_in_bytes"] = str((1 << 63) - 4096)
    assert machine._group_memory() == (None, 0)
    files["/sys/fs/cgroup/memory/x/memory.limit_in_bytes"] = "3000000"
    files["/sys/fs/cgroup/memory/x/memory.usage_in_bytes"] = "7"
    assert machine._group_memory() == (3000000, 7)


def test_how_many_processors_may_be_used() -> None:
    text = "\n".join(doctor.lines(WELL))
    assert "3 of 4 may be used: 0-1, 3" in text
    assert "configured" not in text
    placed = replace(WELL, places=["writer on processors 1 at nice +0"])
    text = "\n".join(doctor.lines(placed))
    assert "configured: writer on processors 1" in text
    assert "  possible here" in text
    barred = replace(placed, place_problems=["processes.writer_cpus: no"])
    assert one_advice(barred) == "processes.writer_cpus: no"
    assert "not possible here" in "\n".join(doctor.lines(barred))


def test_places_are_those_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "app.toml"
    file.write_text("[processes]\nwriter_cpus = [8191]\nreader_nice = 5")
    assert main(["doctor", "--no-measure", "--config", str(file)]) == 0
    out = capsys.readouterr().out
    assert "configured: writer on processors 8191 at nice +0" in out
    assert "configured: reader on any processor at nice +5" in out
    assert "not possible here" in out
    assert "  - processes.writer_cpus: there is no processor 8191: " in out
    file.write_text("[processes]\nwriter_cpu = [0]")
    assert main(["doctor", "--no-measure", "--config", str(file)]) == 2
    assert "did you mean 'processes.writer_cpus'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--data-gib", "-1"], ["--images", "0"], ["--readers", "x"]])
def test_sizes_that_cannot_be_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--no-measure", *words])
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err
