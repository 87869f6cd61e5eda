"""What a processor is called: latencies of two that share a name would be mixed."""

from __future__ import annotations

from fbn_deploy.targets._cpu import cpuinfo, named

XEON = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 106
model name\t: Intel(R) Xeon(R) Processor @ 2.80GHz
stepping\t: 6
"""
CORTEX_A72 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""
CORTEX_A78 = CORTEX_A72.replace("0xd08", "0xd42").replace("108.00", "62.50")


def test_an_x86_processor_is_its_model_and_stepping() -> None:
    name = named(cpuinfo(XEON), "x86_64", 4)
    assert name == "Intel(R) Xeon(R) Processor @ 2.80GHz (6/106/6, 4 cores)"


def test_an_arm_processor_is_its_board_and_part() -> None:
    name = named(cpuinfo(CORTEX_A72), "Raspberry Pi 4 Model B Rev 1.4\0", 4)
    assert name == "Raspberry Pi 4 Model B Rev 1.4 (0x41/0xd08/0x0/3, 4 cores)"


def test_arm_processors_without_a_board_are_told_apart() -> None:
    names = {named(cpuinfo(each), "aarch64", 4) for each in (CORTEX_A72, CORTEX_A78)}
    assert names == {"aarch64 (0x41/0xd08/0x0/3, 4 cores)", "aarch64 (0x41/0xd42/0x0/3, 4 cores)"}
