"""Write nbs/sidebar.yml: all notebooks, in the sections and the order that .ci/rooms.json says.

    python .ci/sidebar.py           write the file
    python .ci/sidebar.py --check   complain if it is not what would be written
"""
import sys

from common import nbs, notebooks, rooms


def pages(section, all_sections, names):
    "The pages of a section, in order; `*` stands for those of its folder that no section lists."
    prefix = section["folder"] + "/" if section["folder"] else ""
    listed = sum((s["pages"] for s in all_sections if s["folder"] == section["folder"]), [])
    here = [n[len(prefix):] for n in names if n.startswith(prefix)]
    others = [n for n in here if "/" not in n and n not in listed]
    for page in section["pages"]:
        found = others if page == "*" else [page]
        yield from (prefix + n for n in found if prefix + n in names)


def reading_order():
    "The title and the notebooks of each section, as `pool/pretrain`; sections without a page are left out."
    names = [p.relative_to(nbs).with_suffix("").as_posix() for p in notebooks()]
    found = [(s["title"], list(pages(s, rooms["sections"], names))) for s in rooms["sections"]]
    return [(title, listed) for title, listed in found if listed]


def sidebar():
    "The text of sidebar.yml."
    lines = ["# Written by .ci/sidebar.py", "website:", "  sidebar:", "    contents:"]
    for title, names in reading_order():
        lines += [f"      - section: {title}", "        contents:"]
        lines += [f"          - {name}.ipynb" for name in names]
    return "\n".join(lines) + "\n"


def main():
    path = nbs/"sidebar.yml"
    want = sidebar()
    if "--check" not in sys.argv:
        path.write_text(want, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != want:
        sys.exit("nbs/sidebar.yml is out of date: run python .ci/sidebar.py")


if __name__ == "__main__": main()
