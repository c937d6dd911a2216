#!/usr/bin/env python3
"""Draws a rollout from its timeline: `trundle report --json > rollout.json; python3 rollout.py rollout.json > rollout.svg`.

Every bar is one instance, from its start to its end. A lane is used again when its instance is gone, so the number of
lanes is the most that were ever alive. The numbers below are counted from the same timeline, nothing is drawn by hand.
Reads only; needs nothing but Python.
"""

import json
import sys
from datetime import datetime

REPLICAS, FLOOR, CEILING = 8, 7, 9
X0, WIDTH, LANE, TOP = 96, 640, 18, 60
OLD, OLD_LEAVING, NEW_COMING, NEW = "#4878a8", "#b5c9de", "#f3d3a8", "#d98324"


def seconds(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def read(path):
    with open(path, encoding="utf-8") as file:
        report = json.load(file)
    began = seconds(report["timeline"][0]["at"])
    lives, steps = {}, []
    old = {f"web-1-{n}": {"start": None, "routed": None} for n in range(1, REPLICAS + 1)}
    lives.update(old)
    for line in report["timeline"]:
        if line["instance"]:
            lives.setdefault(line["instance"], {})[line["type"]] = seconds(line["at"]) - began
    return report["rollout"], lives, seconds(report["timeline"][-1]["at"]) - began


def lanes(lives):
    """The first lane that is free when an instance starts; one that is gone frees its own."""
    free_at, placed = [], {}
    for name, life in sorted(lives.items(), key=lambda item: item[1]["start"] or 0.0):
        start = life["start"] or 0.0
        lane = next((n for n, at in enumerate(free_at) if at <= start and life["start"] is not None), len(free_at))
        free_at[lane:lane + 1] = [life.get("gone", float("inf"))]
        placed[name] = lane
    return placed, len(free_at)


def counts(lives, end):
    """How many were available (in the routing table), and how many alive, after each moment."""
    moments = sorted({at for life in lives.values() for at in life.values() if at is not None} | {0.0, end})
    for at in moments:
        available = [n for n, life in lives.items()
                     if (life["routed"] is None or life["routed"] <= at) and life.get("drain", end + 1) > at]
        alive = sum((life["start"] is None or life["start"] <= at) and life.get("gone", end + 1) > at
                    for life in lives.values())
        yield at, sum(n.startswith("web-1-") for n in available), len(available), alive


def main():
    rollout, lives, end = read(sys.argv[1])
    placed, lane_count = lanes(lives)
    x = lambda at: X0 + WIDTH * at / end
    out = []

    def bar(name, begin, until, colour):
        if until > begin:
            y = TOP + placed[name] * LANE
            out.append(f'<rect x="{x(begin):.1f}" y="{y + 2}" width="{x(until) - x(begin):.1f}" '
                       f'height="{LANE - 4}" fill="{colour}"/>')

    for name, life in lives.items():
        gone, drain = life.get("gone", end), life.get("drain", end)
        if life["start"] is None:
            bar(name, 0.0, drain, OLD)
            bar(name, drain, gone, OLD_LEAVING)
        else:
            bar(name, life["start"], life["routed"], NEW_COMING)
            bar(name, life["routed"], end, NEW)
    ceiling_y = TOP + CEILING * LANE
    out.append(f'<path d="M{X0} {ceiling_y + 1} H{X0 + WIDTH}" stroke="#a33" stroke-dasharray="5 3"/>')
    label = lambda px, py, text, anchor="start": out.append(
        f'<text x="{px}" y="{py}" text-anchor="{anchor}">{text}</text>')
    label(X0 - 8, TOP + 13, "alive", "end")
    label(X0 - 8, ceiling_y + 5, f"ceiling {CEILING}", "end")

    base = ceiling_y + 30 + 9 * 10
    rows = list(counts(lives, end))
    for (at, old, available, _), (until, *_rest) in zip(rows, rows[1:]):
        if until > at:
            width = f'{x(until) - x(at):.1f}'
            out.append(f'<rect x="{x(at):.1f}" y="{base - old * 10}" width="{width}" height="{old * 10}" fill="{OLD}"/>')
            new = available - old
            out.append(f'<rect x="{x(at):.1f}" y="{base - available * 10}" width="{width}" height="{new * 10}" fill="{NEW}"/>')
    out.append(f'<path d="M{X0} {base - FLOOR * 10} H{X0 + WIDTH}" stroke="#a33" stroke-dasharray="5 3"/>')
    label(X0 - 8, base - FLOOR * 10 + 4, f"floor {FLOOR}", "end")
    label(X0 - 8, base - 2, "available", "end")
    for second in range(int(end) + 1):
        label(f"{x(second):.1f}", base + 16, f"{second} s", "middle")

    lowest, highest = min(r[2] for r in rows), max(r[3] for r in rows)
    legend, at = [(OLD, "3.1 serves"), (OLD_LEAVING, "3.1 finishes its requests, stops"),
                  (NEW_COMING, "3.2 starts"), (NEW, "3.2 serves")], X0
    for colour, text in legend:
        out.append(f'<rect x="{at}" y="34" width="12" height="12" fill="{colour}"/>')
        label(at + 17, 44, text)
        at += 38 + 6.6 * len(text)
    requests = rollout["requests"]
    label(X0, 20, f'8 replicas, surge 1, unavailable 1: {requests["total"]} requests, {requests["lost"]} lost; '
                  f'never below {lowest} available, never over {highest} alive')
    height, width = base + 28, X0 + WIDTH + 24
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
          f'font-family="sans-serif" font-size="12" fill="#222" shape-rendering="crispEdges">')
    print("<title>A rollout from 3.1 to 3.2, drawn from its own timeline</title>")
    print(f'<rect width="{width}" height="{height}" fill="#fff"/>')
    print("\n".join(out))
    print("</svg>")
    assert lane_count <= CEILING and lowest >= FLOOR and highest <= CEILING


if __name__ == "__main__":
    main()
