"""counted.py REPORT FLOOR: tell what a JUnit report counts, where the time went, and what was skipped and why.

Exit status 1, and a last line that says why, if fewer tests than FLOOR passed. With `broken` for FLOOR: print the tests that
failed or could not be set up, and how, a line each.
"""

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

_SLOWEST = 15
_MESSAGE_MAX = 300


def main(report: str, floor: str) -> int:
    if not Path(report).exists():
        print("pytest wrote no report", file=sys.stderr if floor == "broken" else sys.stdout)
        return 1
    if floor == "broken":
        broken = {}
        for case in ElementTree.parse(report).iter("testcase"):
            for child in case:
                if child.tag in ("failure", "error"):
                    name = f"{case.get('classname')}::{case.get('name')}"
                    broken.setdefault(name, " ".join(child.get("message", "").split())[:_MESSAGE_MAX])
        print("".join(f"{name}: {message}\n" for name, message in sorted(broken.items())), end="")
        return 0
    passed, seconds, skipped = 0, Counter[str](), Counter[str]()
    for case in ElementTree.parse(report).iter("testcase"):
        seconds[case.get("classname", "").removeprefix("tests.")] += float(case.get("time", "0"))  # type: ignore[assignment]
        reasons = [child.get("message", "") for child in case if child.tag == "skipped"]
        skipped.update(reasons)
        passed += not reasons and not any(child.tag in ("failure", "error") for child in case)
    print(f"{passed} tests passed, {skipped.total()} were skipped; files by seconds of their tests:")
    for name, spent in seconds.most_common(_SLOWEST):
        print(f"{spent:8.1f}  {name}")
    for reason, count in sorted(skipped.items()):
        print(f"skipped {count} x {reason.removeprefix('NOT RUN: ')}")
    if passed < int(floor):
        print(f"only {passed} tests passed, and {floor} were expected at least")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
