#!/usr/bin/env python3
"""Prints "STATE CASE" lines of a report of `quern conformance onnx … --json`, sorted by case: onnx_node_tests.txt."""
import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    for case in sorted(json.load(file)["cases"], key=lambda c: c["case"]):
        print(case["state"], case["case"])
