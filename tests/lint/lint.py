#!/usr/bin/env python3
"""Keeps the layers: who may include whom, files of at most 600 lines that say what they are, LLVM in few files.

Run by ctest as fast.lint, with the source folder as its argument. Prints one line per violation; status 1 if any.
"""
import pathlib
import re
import sys

MAX_LINES = 600
MAX_LLVM_FILES = 10
FOLDERS = ["ir", "frontend", "passes", "codegen", "runtime", "models", "tools", "bench", "tests"]
PLAIN = ["ir/dtype.h", "ir/host_tensor.h", "ir/support/"]   # what the runtime may know of the IR
# Layer → prefixes of the files it may include.
ARROWS = {
    "ir": ["ir/"],
    "frontend": ["frontend/", "ir/"],
    "passes": ["passes/", "ir/"],
    "codegen": ["codegen/", "passes/", "ir/"],
    "runtime": ["runtime/", "codegen/program.h", *PLAIN],
    "models": ["models/", "frontend/", "ir/", "runtime/", "passes/pass.h"],   # expand, for the interpreted device
}
COMPOSITION_ROOT = {"runtime/jit.h", "runtime/jit.cpp"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def main() -> int:
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    problems, llvm_files, seen = [], [], 0
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in {".cpp", ".h", ".def", ".cu", ".py"}:
                continue
            seen += 1
            name = path.relative_to(root).as_posix()
            text = path.read_text(encoding="utf-8")
            lines = text.count("\n")
            if lines > MAX_LINES:
                problems.append(f"{name}: {lines} lines, at most {MAX_LINES}: split it")
            if path.suffix in {".cpp", ".h", ".def"} and not text.startswith("//"):
                problems.append(f"{name}: does not open with a comment that says what it does")
            includes = INCLUDE.findall(text)
            if any(i.startswith(("llvm/", "llvm-c/")) for _, i in includes):
                llvm_files.append(name)
                if not name.startswith("codegen/llvm/"):
                    problems.append(f"{name}: includes LLVM; only codegen/llvm/ may")
            allowed = ARROWS.get(folder)
            if allowed is None or name in COMPOSITION_ROOT:
                continue
            for quote, include in includes:
                ours = include.split("/")[0] in FOLDERS and "/" in include
                if quote == '"' and ours and not any(include.startswith(a) for a in allowed):
                    problems.append(f"{name}: includes {include}, against the layers")
    if len(llvm_files) > MAX_LLVM_FILES:
        problems.append(f"{len(llvm_files)} files include LLVM, at most {MAX_LLVM_FILES}: {', '.join(llvm_files)}")
    if seen < 20:
        problems.append(f"only {seen} sources under {root}: is this the source folder?")
    for p in problems:
        print(p)
    print(f"{seen} files, {len(llvm_files)} with LLVM headers, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
