"""Write nbs/sidebar.yml: every notebook is in the sidebar, in the section its folder says, in reading order.

    python .ci/sidebar.py           write the file
    python .ci/sidebar.py --check   complain if it is not what would be written
"""
import sys

from common import nbs, notebooks

sections = {"Start": lambda p: p.name == "index.ipynb" and p.parent == nbs,
            "Tutorials": lambda p: p.parent == nbs/"tutorials",
            "Reference": lambda p: p.parent == nbs and p.name[0].isdigit(),
            "Results": lambda p: p.parent == nbs/"results"}

reading = """quick_start own_models what_a_teacher_remembers gradient_alignment curriculum calibration own_method
             methods beyond free purer scenarios ablations switches five_speed icfil bad_teachers audit bench""".split()   # pages without a number


def place(page):
    "Where a page stands in its section: numbered ones by number, the others as listed, then by name."
    return (reading.index(page.stem) if page.stem in reading else len(reading), page.name)


def sidebar():
    "The text of sidebar.yml; sections without a page are left out."
    lines = ["# Written by .ci/sidebar.py", "website:", "  sidebar:", "    contents:"]
    for title, belongs in sections.items():
        pages = [p.relative_to(nbs).as_posix() for p in sorted(notebooks(), key=place) if belongs(p)]
        if pages: lines += [f"      - section: {title}", "        contents:"] + [f"          - {p}" for p in pages]
    return "\n".join(lines) + "\n"


def main():
    path, want = nbs/"sidebar.yml", sidebar()
    if "--check" not in sys.argv: path.write_text(want, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != want:
        sys.exit("nbs/sidebar.yml is out of date: run python .ci/sidebar.py")


if __name__ == "__main__": main()
