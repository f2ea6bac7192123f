"""Measures edgeinfer against the bare limit of the machine, in one run: `make bench [ONLY=part]`.

Prints a table, writes build/bench.json (one flat object of figures). A figure whose data is absent is left out
and named. Run it on a quiet machine: ratios of one run can be trusted, absolute times cannot.
"""

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import buffers  # noqa: E402 - beside this script, which may run from anywhere
import chunks  # noqa: E402
import commands  # noqa: E402
import drains  # noqa: E402
import frames  # noqa: E402
import live  # noqa: E402
import quantizing  # noqa: E402
import videos  # noqa: E402

Figures = dict[str, float]

PARTS: dict[str, Callable[[Path], Figures]] = {
    "pipeline": videos.measure,
    "frame": frames.measure,
    "live": live.measure,
    "buffer": buffers.measure,
    "drain": drains.measure,
    "codec": chunks.measure,
    "command": commands.measure,
    "quantize": quantizing.measure,
}
GOALS = {
    "pipeline_mobilenet_onnx_ratio": (">=", 0.97),
    "pipeline_mobilenet_litert_ratio": (">=", 0.97),
    "pipeline_ssd_litert_ratio": (">=", 0.97),
    "pipeline_1080p_ratio": (">=", 0.95),
    "frame_overhead_us": ("<=", 60.0),
    "ten_pipelines_ratio": (">=", 0.87),
    "soak_growth_mb": ("<=", 1.0),
    "frame_age_p50_ratio": ("<=", 1.3),
    "frame_age_p99_ratio": ("<=", 2.5),
    "rss_camera_mb": ("<=", 110.0),
    "motion_idle_cpu_ratio": ("<=", 0.35),
    "buffer_insert_ratio": (">=", 0.8),
    "buffer_bytes_per_result": ("<=", 150.0),
    "buffer_commit_ratio": ("<=", 1.2),
    "buffer_growth_ratio": ("<=", 1.5),
    "buffer_open_ms": ("<=", 50.0),
    "drain_ratio_100": (">=", 0.45),
    "drain_ratio_1000": (">=", 0.6),
    "drain_results_per_s": (">=", 120_000.0),
    "drain_rss_growth_mb": ("<=", 20.0),
    "drain_fps_drop": ("<=", 0.05),
    "agent_rss_mb": ("<=", 40.0),
    "agent_idle_cpu": ("<=", 0.002),
    "wire_bytes_detection": ("<=", 20.0),
    "wire_bytes_anomaly": ("<=", 8.0),
    "codec_us": ("<=", 6.0),
    "rss_litert_mb": ("<=", 52.0),
    "rss_onnx_mb": ("<=", 64.0),
    "cold_start_s": ("<=", 0.4),
    "help_s": ("<=", 0.3),
    "quantize_geomean_ratio": ("<=", 0.58),
    "quantize_bytes_ratio_max": ("<=", 0.45),
    "quantize_drop_max": ("<=", 1.0),
    "quantize_ad_drop": ("<=", 0.5),
    "quantize_agreement_min": (">=", 0.99),
    "quantize_search_s_max": ("<=", 60.0),
    "quantize_regret_max": ("<=", 1.03),
    "quantize_search_share_max": ("<=", 0.2),
    "quantize_worst_ratio": ("<=", 1.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"a part: {', '.join(PARTS)}, or a figure's name")
    only = parser.parse_args().only
    data = Path(os.environ.get("EDGEINFER_DATA", REPOSITORY.parent / "shared" / "data"))
    figures: Figures = {}
    for part, measure in PARTS.items():
        if not only or only == part or only.startswith(part):
            sys.stderr.write(f"edgeinfer: measuring {part}\n")
            figures |= measure(data)
    write(figures)
    print(table(figures))
    return 0


def write(figures: Figures) -> None:
    """build/bench.json: the new figures over those of earlier runs of other parts on the same commit."""
    path = REPOSITORY / "build" / "bench.json"
    path.parent.mkdir(exist_ok=True)
    about = {"machine": machine(), "date": dt.datetime.now(dt.UTC).date().isoformat(), "commit": commit()}
    earlier = json.loads(path.read_text()) if path.exists() else {}
    kept = earlier if earlier.get("commit") == about["commit"] else {}
    path.write_text(
        json.dumps({**kept, **{name: round(value, 4) for name, value in figures.items()}, **about}, indent=1)
    )


def table(figures: Figures) -> str:
    rows = ["| Figure | Measured | Goal | |", "|---|---|---|---|"]
    for name, value in figures.items():
        sign, goal = GOALS.get(name, ("", 0.0))
        verdict = "" if not sign else "reached" if (value >= goal if sign == ">=" else value <= goal) else "missed"
        rows.append(f"| `{name}` | {value:.4g} | {f'{sign} {goal:g}' if sign else ''} | {verdict} |")
    return "\n".join(rows)


def machine() -> str:
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return (
        f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
