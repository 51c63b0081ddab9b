#!/usr/bin/env python3
"""Looks for sums of products that are read before they are done, in the machine code of kernels with roles (sm_90a).

wgmma is asynchronous: its registers may be read behind `wgmma.wait_group` only. The assembler has moved instructions above that wait
(roundings to f16, merged into one that packs two); results were then wrong by some percent, and other ones in each run. Run by hand,
with a CUDA toolkit's nvcc and ptxas and an nvdisasm (PyPI: nvidia-cuda-nvdisasm, or the one in triton's wheel):

    quern dump MODEL --target cuda:sm_90a --what kernels > kernels.txt
    python3 tests/campaigns/sums_in_flight.py kernels.txt [--nvdisasm PATH]

Prints a line for each kernel with products in roles. Exit status 1 where one reads a sum in flight, or its products are made one by one
(the assembler's warnings C75xx).
"""
import argparse
import pathlib
import re
import subprocess
import sys
import tempfile


def sources(text):
    """The kernels of a dump that have wgmma, by name."""
    for part in re.split(r"(?:^|\n); (?=k_)", text):
        at = part.find("typedef")
        name = re.search(r"__global__ .*?(k_[0-9a-f]+)\(", part)
        if at >= 0 and name and "wgmma.mma_async" in part:
            yield name[1], part[at:]


def machine_code(source, folder, nvdisasm):
    """The instructions, and the assembler's warnings."""
    cu, ptx, cubin = (folder / f"kernel.{end}" for end in ("cu", "ptx", "cubin"))
    cu.write_text(source)
    subprocess.run(["nvcc", "-arch=sm_90a", "-ptx", "-fmad=false", "-std=c++17", cu, "-o", ptx], check=True, stderr=subprocess.DEVNULL)
    log = subprocess.run(["ptxas", "-arch=sm_90a", ptx, "-o", cubin], check=True, capture_output=True, text=True)
    out = subprocess.run([nvdisasm, "-c", cubin], check=True, capture_output=True, text=True).stdout
    return out.splitlines(), re.findall(r"C75\d\d", log.stderr + log.stdout)


def reads_in_flight(lines):
    """Instructions that name a register of a product which no wait has settled, in the order of the text."""
    flight, group, found, products = [], set(), [], 0
    for line in lines:
        if product := re.search(r"HGMMA\.64x(\d+)x\d+\S*\s+R(\d+),", line):
            products += 1
            group |= set(range(int(product[2]), int(product[2]) + int(product[1]) // 2))
            if "gsb0" in line:
                flight, group = flight + [group], set()
        elif wait := re.search(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x(\d)", line):
            left = int(wait[1])
            flight = flight[len(flight) - left:] if 0 < left < len(flight) else flight if left else []
        elif "*/" in line:
            code = line.split("*/")[1].strip()
            named = set(map(int, re.findall(r"\bR(\d+)\b", code)))
            if any(named & g for g in flight + [group]):
                found.append(code)
    return products, found


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("kernels", type=pathlib.Path, help="what quern dump --what kernels has printed")
    arguments.add_argument("--nvdisasm", default="nvdisasm")
    a = arguments.parse_args()
    kernels = list(sources(a.kernels.read_text()))
    if not kernels:
        sys.exit(f"{a.kernels}: no kernel with wgmma in it")
    bad = 0
    for name, source in kernels:
        with tempfile.TemporaryDirectory() as folder:
            lines, warnings = machine_code(source, pathlib.Path(folder), a.nvdisasm)
        products, found = reads_in_flight(lines)
        if products == 0:
            sys.exit(f"{name}: no HGMMA in its machine code: this nvdisasm spells it otherwise")
        bad += bool(found or warnings)
        print(f"{name}: {products} products, {len(found)} reads in flight{': ' + found[0] if found else ''}{' ' + ' '.join(warnings) if warnings else ''}")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
