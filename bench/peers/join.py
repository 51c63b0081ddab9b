#!/usr/bin/env python3
"""Markdown tables from the JSON of `quern bench` and the JSON lines of bench/peers/mlp_step.py.

    python3 bench/peers/join.py quern.json [peers.jsonl …]

Training steps are joined by name (batch), precision and synchronised; each cell is the peer's median in microseconds and,
in brackets, its ratio: the peer's time / ours. Where Quern has no row of the peer's precision, its f32 row is taken and
the column says so. The other rows of `quern bench` become a table with intervals. Status 1 where a peer's loss is not
ours: such a row measures something else.
"""
import json
import sys

LOSS_TOLERANCE = 1e-2   # after ten steps of Adam, TF32 included


def read(path):
    """(head or None, rows)"""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    try:
        whole = json.loads(text)
        if isinstance(whole, dict) and "rows" in whole:
            return whole, whole["rows"]
    except json.JSONDecodeError:
        pass
    return None, [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def microseconds(row):
    return f"{row['median_us']:.1f} [{row['low_us']:.1f}, {row['high_us']:.1f}]"


def table(header, lines):
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for line in lines:
        print("| " + " | ".join(line) + " |")
    print()


def steps_table(ours, peers, precision, synchronised):
    """Ours and peers: rows of training steps. Returns whether a peer's loss differs."""
    def pick(rows, wanted):
        return {r["batch"]: r for r in rows if r["precision"] == wanted and r.get("synchronised", synchronised) == synchronised and "median_us" in r}
    theirs = [r for r in peers if r["precision"] == precision]
    names = list(dict.fromkeys(r["peer"] for r in theirs))
    mine, mine_precision = pick(ours, precision), precision
    if not mine:
        mine, mine_precision = pick(ours, "f32"), "f32"
    batches = sorted({r["batch"] for r in theirs} | set(mine if precision == mine_precision else []))
    columns = {n: pick([r for r in theirs if r["peer"] == n], precision) for n in names}
    columns = {n: c for n, c in columns.items() if c}
    if not batches or not (columns or mine):
        return False
    print(f"Training step 784-256-10, {precision}, {'each step waited for' if synchronised else 'many steps enqueued, one wait'}; us [10 %, 90 %] (ratio = peer / Quern)\n")
    wrong, lines = False, []
    for b in batches:
        line = [str(b), microseconds(mine[b]) if b in mine else "—"]
        for n, c in columns.items():
            if b not in c:
                line.append("—")
                continue
            row = c[b]
            cell = microseconds(row)
            if b in mine:
                cell += f" ({row['median_us'] / mine[b]['median_us']:.2f})"
                if abs(row["loss"] - mine[b]["loss"]) > LOSS_TOLERANCE * abs(mine[b]["loss"]):
                    cell, wrong = cell + f" WRONG LOSS {row['loss']:.6g}, ours {mine[b]['loss']:.6g}", True
            line.append(cell)
        lines.append(line)
    table(["batch", f"Quern {mine_precision}", *columns], lines)
    return wrong


def notes(peers):
    """Versions, the error of a product (was TF32 used?), the time to the first result, and who is missing."""
    measured = {}
    for r in peers:
        if "median_us" in r:
            measured.setdefault((r["peer"], r["precision"]), []).append(r)
    if measured:
        table(["peer", "precision", "version", "error of a product", "first result after, s"],
              [[p, q, rows[0]["version"], f"{rows[0]['product_error']:.1e}", f"{min(r['first_call_s'] for r in rows):.1f} to {max(r['first_call_s'] for r in rows):.1f}"]
               for (p, q), rows in measured.items()])
    skipped = {}
    for r in peers:
        if "skipped" in r:
            skipped.setdefault((r["peer"], r["precision"], r["skipped"]), []).append(str(r["batch"]))
    for (peer, precision, reason), batches in skipped.items():
        print(f"- {peer}, {precision}, batch {', '.join(batches)}: not measured: {reason}")
    if skipped:
        print()


def main():
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    ours, peers = [], []
    for path in sys.argv[1:]:
        head, rows = read(path)
        if head is None:
            peers += rows
            continue
        print(f"`{head['command']}`, {head['device']}, {head['threads']} threads, {json.dumps(head['machine'])}\n")
        ours += [r for r in rows if "batch" in r]
        simple = [r for r in rows if r["peer"] or "batch" not in r]
        if simple:
            table(["case", "us [10 %, 90 %]", "peer", "peer us [10 %, 90 %]", "ratio", "note"],
                  [[r["name"] + ("" if r.get("synchronised", True) else " (enqueued)"), microseconds(r), r["peer"] or "—",
                    f"{r['peer_median_us']:.1f} [{r['peer_low_us']:.1f}, {r['peer_high_us']:.1f}]" if "ratio" in r else "—", f"{r['ratio']:.2f}" if "ratio" in r else "—",
                    f"{r['gflop_per_s']:.1f} GFLOP/s" if "gflop_per_s" in r else f"{r['gb_per_s']:.1f} GB/s" if "gb_per_s" in r
                    else ", ".join(f"{k} {v:.1f}" for k, v in r["phases_ms"].items()) + " ms" if "phases_ms" in r else ""] for r in simple])
    precisions = list(dict.fromkeys([r["precision"] for r in peers] or [r["precision"] for r in ours]))
    wrong = [steps_table(ours, peers, p, s) for p in precisions for s in (True, False)]
    notes(peers)
    return 1 if any(wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
