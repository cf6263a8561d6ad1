"""`gpu-check`: what only a machine with a GPU can show, in one JSON: tests, steps, exact ranking, and a training."""

import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from skipwise.benchmarks.harness.benchmark_report import SCHEMA_VERSION, table
from skipwise.benchmarks.harness.gpu_sections import GpuCheckConfig, Section, run_section, sections_of
from skipwise.common.errors import UserError
from skipwise.common.files import write_json
from skipwise.common.versions import commit, installed, machine


def measure(config: GpuCheckConfig) -> None:
    """Runs the sections; goes on after one that fails, and ends with exit code 1 then."""
    if not torch.cuda.is_available():
        raise UserError(
            "gpu-check needs an NVIDIA GPU, and torch sees none here: run it where there is one, with `make gpu-check`"
        )
    with tempfile.TemporaryDirectory() as folder:
        outcomes = check(config, sections_of(config, Path(folder)), Path(folder))
    if any(outcome != "passed" for outcome in outcomes.values()):
        sys.exit(1)


def check(config: GpuCheckConfig, sections: list[Section], folder: Path) -> dict[str, str]:
    """The outcome of each section by its name; the JSON is there after each."""
    ends, content = time.monotonic() + config.limit_s, _made() | {"small": config.small, "sections": {}}
    rows = []
    for section in sections:
        print(f"{section.name}: at most {min(section.limit_s, ends - time.monotonic()):.0f} s", flush=True)
        found = run_section(section, ends - time.monotonic(), folder)
        content["sections"][section.name] = found
        write_json(Path(config.output), content)
        rows.append([section.name, found["outcome"], f"{found['seconds']:.0f}", headline(section.name, found)])
        if "output" in found:
            print(found["output"], flush=True)
    print("\n".join(table(["section", "outcome", "seconds", ""], rows)))
    print(f"wrote {config.output}")
    return {row[0]: row[1] for row in rows}


def headline(name: str, found: dict[str, Any]) -> str:
    """The figure of a section that its line of the table shows."""
    figures = found["figures"]
    if not figures or (found["outcome"] != "passed" and name in ("evaluate", "train")):
        return ""
    if name == "tests":
        return ", ".join(f"{count} {kind}" for kind, count in figures["outcomes"].items())
    if "cases" in figures:
        done = [case for case in figures["cases"] if "ours" in case]
        best = max(done, key=lambda case: case["ours"]["sessions_per_s"], default=None)
        fastest = f": {best['case']} {best['ours']['sessions_per_s']:,.0f} sessions/s" if best else ""
        return f"{len(done)} of {len(figures['cases'])} cases{fastest}"
    served = figures["served"]
    if name == "evaluate":
        return f"served {served['users_per_s']:,.0f} users/s, {served['of_floor']:.2f} of the floor"
    return f"served HR@10 {served['test']['hr@10']:.3f}, {figures['train']['sessions_per_s']:,.0f} sessions/s"


def _made() -> dict[str, Any]:
    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    devices = [
        {"name": card.name, "memory_bytes": card.total_memory, "capability": f"{card.major}.{card.minor}"}
        for card in cards
    ]
    versions = {"python": sys.version.split()[0], "cuda": torch.version.cuda, **installed()}
    return {
        "schema_version": SCHEMA_VERSION,
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": machine() | {"devices": devices},
        "versions": {name: version for name, version in versions.items() if version},
    }
