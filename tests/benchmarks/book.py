"""Writes down what the benchmarks found: the tables of RESULTS.md between its marks, and the plot."""

import os
import platform
import time
from pathlib import Path

from workloads import SCALE

RESULTS, PLOT = Path(__file__).with_name("RESULTS.md"), Path(__file__).with_name("throughput.png")
BEGIN, END = "<!-- measured -->", "<!-- end of what was measured -->"


class Book:
    """What was measured, line by line."""

    def __init__(self):
        self.rates, self.others = [], []

    def throughput(self, server, what, points, best, senders, near, away, exported):
        rate = points / best
        self.rates.append(
            {
                "server": server,
                "what": what,
                "ceiling": rate,
                "senders": senders,
                "near": best / near["seconds"],
                "away": best / away["seconds"],
                "exported": exported and exported / near["seconds"],
                "cpu": 1e6 * near["cpu"] / near["points"],
                "threads": max(near["threads"], away["threads"]),
            }
        )

    def line(self, what, value, unit, push=None):
        push = push or {}
        cells = [f"{push[name]:.{digits}f}" if name in push else "" for name, digits in (("cpu", 1), ("peak", 0))]
        self.others.append(f"| {what} | {value:.3g} {unit} | {' | '.join(cells)} | {push.get('threads', '')} |")

    def text(self, seconds):
        with open("/proc/cpuinfo") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "?")
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        head = (
            f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores ({model}), Python {platform.python_version()}, "
            f"scale {SCALE:g}, {seconds / 60:.0f} minutes, load at the end {load}. Clients, servers and databases "
            "share the machine."
        )
        columns = (
            "| server | workload | ceiling, points/s (senders) | tracksync ÷ ceiling | the same, 40 ms away | "
            "times as fast as mlflow-export-import | client CPU ms per 1,000 points | threads |"
        )
        rows = [head, "", columns, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
        for r in self.rates:
            exported = f"{r['exported']:.1f}" if r["exported"] else ""
            rows.append(
                f"| {r['server']} | {r['what']} | {r['ceiling']:,.0f} ({r['senders']}) | {r['near']:.2f} | "
                f"{r['away']:.2f} | {exported} | {r['cpu']:.1f} | {r['threads']} |"
            )
        rows += ["", "| what | found | client CPU s | peak MB | threads |", "| --- | ---: | ---: | ---: | ---: |"]
        return "\n".join([*rows, *self.others])

    def write(self, seconds):
        """Replace what stands between the marks; what people wrote around it stays."""
        before, _, rest = RESULTS.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        RESULTS.write_text(f"{before}{BEGIN}\n\n{self.text(seconds)}\n\n{END}{after}")
        self.plot()

    def plot(self):
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
        labels = [f"{r['what']}\n{r['server'].replace(', ', chr(10))}" for r in self.rates]
        for shift, name, words in ((-0.2, "near", "on this machine"), (0.2, "away", "40 ms away")):
            axes.bar([i + shift for i in range(len(labels))], [r[name] for r in self.rates], 0.38, label=words)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_xticks(range(len(labels)), labels, fontsize=8)
        axes.set_ylabel("tracksync ÷ raw ceiling")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
        figure.savefig(PLOT, dpi=110)
        pyplot.close(figure)
