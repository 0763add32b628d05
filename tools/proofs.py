#!/usr/bin/env python3
"""Renders docs/requirements.md: each promise of docs/requirements.tsv with the tests that name it.

A test names a promise by its id, in its name (`fn brk_35_...`) or in a comment (`BRK-35`,
`BRK-35..37`, `BRK-55 to BRK-60`). Only test code counts: tests/, benches/ and what follows
`#[cfg(test)]`. An id that is not in the list is an error: it would prove nothing.

    tools/proofs.py           rewrite the page
    tools/proofs.py --check   exit 1 when the page is not as it would be written
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "docs/requirements.tsv"
PAGE = ROOT / "docs/requirements.md"

AREAS = {
    "API": "HTTP API, uploads, life of data",
    "BRK": "Strict broker, threat model, webhooks, audit, operations",
    "IAM": "Identity and access",
    "STEP": "Step-up authentication",
    "ZT": "Zero trust",
    "NEW": "Further promises",
}
PREFIX = "|".join(AREAS)
# `BRK-35`, then further numbers of the same area: `..37`, `/36`, ` to BRK-60`, `, 36`.
MENTION = re.compile(rf"\b({PREFIX})-(\d\d)((?:(?:\.\.=?|/| to (?:\1-)?)\d\d\b)*)")
IN_NAME = re.compile(rf"(?:^|_)({PREFIX})((?:_\d\d)+(?:_to_\d\d)?)(?=_)", re.IGNORECASE)
FUNCTION = re.compile(r"^\s*(?:pub )?(?:async )?(?:fn|def) (\w+)")
# Files whose every line is test code, besides what follows `#[cfg(test)]`.
TEST_PATH = re.compile(r"/tests?/|/benches/|_tests?\.rs$|/tests\.rs$|^compose/e2e/|^tools/demo\.py$")


def spread(area, first, rest):
    """The ids of one mention."""
    numbers = [int(first)]
    for joint, number in re.findall(r"(\.\.=?|/|_| to |_to_)\D*?(\d\d)", rest):
        span = joint.strip(" _") in ("..", "..=", "to")
        numbers += range(numbers[-1] + 1, int(number) + 1) if span else [int(number)]
    return [f"{area.upper()}-{n:02d}" for n in numbers]


def ids_of(line, function):
    found = [i for m in MENTION.finditer(line) for i in spread(*m.groups())]
    if function:
        for area, numbers in IN_NAME.findall(function):
            found += spread(area, numbers[1:3], numbers[3:])
    return found


def mentions(path, text):
    """(id, test name or None) of each mention in the test code of one file."""
    lines = text.splitlines()
    start = 0
    if not TEST_PATH.search(path):
        marks = [n for n, line in enumerate(lines) if line.strip() == "#[cfg(test)]"]
        start = marks[0] if marks else len(lines)
    inside, is_test = None, False
    for number, line in enumerate(lines[start:], start):
        is_test |= bool(re.match(r"\s*#\[.*test", line))
        here = FUNCTION.match(line)
        if here:
            inside, is_test = (here.group(1) if is_test else None), False
        about = inside
        if re.match(r"\s*(//|#)", line):
            about = below(lines[number:]) or inside
        if line.lstrip().startswith(("//!", '"""')):
            about = None
        for found in ids_of(line, here.group(1) if here else None):
            yield found, about


def below(lines):
    """The test right below a comment, if there is one."""
    marked = False
    for line in lines:
        if here := FUNCTION.match(line):
            return here.group(1) if marked else None
        if not re.match(r"\s*(//|#)", line):
            return None
        marked |= bool(re.match(r"\s*#\[.*test", line))
    return None


def main():
    rows = [line.split("\t") for line in LIST.read_text().splitlines()]
    titles = {number: title for number, title in rows}
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True, capture_output=True, text=True,
    ).stdout
    proofs, strangers = {}, []
    for path in sorted(p for p in listed.split("\0") if p.endswith((".rs", ".py"))):
        if not (ROOT / path).is_file() or path == "tools/proofs.py":
            continue
        for number, test in mentions(path, (ROOT / path).read_text()):
            if number not in titles:
                strangers.append(f"{path}: {number} is no requirement")
            proofs.setdefault(number, {}).setdefault(path, set()).add(test)
    if strangers:
        sys.exit("\n".join(strangers))
    page = render(titles, proofs)
    if "--check" not in sys.argv:
        PAGE.write_text(page)
    elif not PAGE.exists() or PAGE.read_text() != page:
        sys.exit("docs/requirements.md is not up to date: run `make docs`")


def render(titles, proofs):
    proven = sum(number in proofs for number in titles)
    out = [
        "# Requirements",
        "",
        "Made by `tools/proofs.py` (`make docs`) from `docs/requirements.tsv` and from the tests, which",
        "name the promise that they prove. `not yet`: no test names it. A test may prove a promise in",
        "part; what it says of itself is in the test.",
        "",
        f"{proven} of {len(titles)} promises are named by a test.",
    ]
    for area, heading in AREAS.items():
        out += ["", f"## {area}: {heading}", "", "| Id | Promise | Tests |", "|---|---|---|"]
        for number, title in titles.items():
            if number.startswith(area + "-"):
                out.append(f"| {number} | {title} | {cell(proofs.get(number))} |")
    return "\n".join(out) + "\n"


def cell(files):
    if not files:
        return "not yet"
    parts = []
    for path, tests in files.items():
        names = sorted(test for test in tests if test)
        parts.append(f"[{path}](../{path})" + (f" `{'`, `'.join(names)}`" if names else ""))
    return "; ".join(parts)


if __name__ == "__main__":
    main()
