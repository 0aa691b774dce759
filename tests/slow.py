"""Which tests take long: ``make test ARGS="--junitxml=r.xml -m ''"``, then ``python tests/slow.py r.xml``.

Writes ``slow.txt``, the tests that took over a second when they were last measured: they carry the marker `slow`, as
those do that say so themselves. So `make test` is over in minutes, and CI runs the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

LIST = Path(__file__).parent / "slow.txt"
SECONDS = 1.0


def listed() -> frozenset[str]:
    """Ids of the tests in the list."""
    return frozenset(LIST.read_text(encoding="utf-8").splitlines())


def main() -> None:
    """Write the list anew."""
    found = set()
    for case in ElementTree.parse(sys.argv[1]).getroot().iter("testcase"):
        module = case.attrib["classname"].replace(".", "/")
        if float(case.attrib["time"]) > SECONDS:
            found.add(f"{module}.py::{case.attrib['name']}")
    LIST.write_text("\n".join(sorted(found)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
