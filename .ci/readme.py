"""README.md is nbs/index.ipynb in Markdown; its pictures lie in nbs/images/index/.

    python .ci/readme.py           write them
    python .ci/readme.py --check   complain if they are not what would be written
    python .ci/readme.py --run     run the commands of README.md: its `sh` blocks, in a temporary folder

Cells and directives are treated as nbdev treats them on the site. A block of commands that is only to be read is
marked `bash` instead of `sh`; lines that install or fetch the project, or run the notebooks, are not run again.
"""
import os, re, subprocess, sys, tempfile
from pathlib import Path

import common
from common import directives, is_shown, load, nbs, notebooks, page_name, picture_of
from common import root, text, where

source = nbs/"index.ipynb"
target = root/"README.md"
images = nbs/"images"/"index"


def no_directives(code):
    "A cell's code without the lines that speak to nbdev and Quarto."
    lines = code.splitlines()
    while lines and (not lines[0].strip() or re.match(r"#\s*\|", lines[0])):
        lines.pop(0)
    return "\n".join(l for l in lines if not re.search(r"#\|\s*hide_line\s*$", l)).rstrip()


def github_link(link):
    "A link as it must be on GitHub, where README.md lies one folder above the notebooks."
    if re.match(r"[a-z][a-z0-9+.-]*:|#|/", link): return link
    path, sep, anchor = link.partition("#")
    if path.endswith(".html"):
        names = [p.relative_to(nbs) for p in notebooks()]
        pages = {page_name(n).as_posix(): n.as_posix() for n in names}
        path = pages.get(Path(os.path.normpath(path)).as_posix(), path)
    return Path(os.path.normpath(Path("nbs")/path)).as_posix() + sep + anchor


def relink(markdown):
    "Rewrite all links outside fenced blocks and code spans."
    keep = re.compile(r"(^```.*?^```|`[^`\n]+`)", flags=re.S | re.M)
    link = re.compile(r'(\]\(|(?:href|src)=")([^)\s"]+)')
    fix = lambda s: link.sub(lambda m: m[1] + github_link(m[2]), s)
    return "".join(s if i % 2 else fix(s) for i, s in enumerate(keep.split(markdown)))


def fenced(body, language=""):
    return f"```{language}\n{body.rstrip()}\n```"


def unquoted(s):
    "A YAML string without the quotes around it."
    return s[1:-1] if s and s[:1] == s[-1:] and s[:1] in ("'", '"') else s


def as_picture(found, options, i, pictures):
    "A picture in Markdown; it is put into `pictures`."
    ending, data = found
    name = options.get("label", f"cell-{i}")
    if name + ending in pictures:
        name += f"-{len(pictures)}"
    pictures[name + ending] = data
    alt, caption = (unquoted(options.get(k, "")) for k in ("fig-alt", "fig-cap"))
    file = (images/(name + ending)).relative_to(root).as_posix()
    return f"![{alt or caption}]({file})" + (f"\n\n*{caption}*" if caption else "")


def outputs(cell, options, i, pictures):
    "The outputs of a cell in Markdown; pictures are put into `pictures`."
    for o in cell.get("outputs", []):
        data = o.get("data", {})
        if o["output_type"] == "stream":
            if o["name"] == "stdout":
                yield fenced(text(o["text"]), "text")
        elif found := picture_of(o):
            yield as_picture(found, options, i, pictures)   # links in a drawing: on the site only
        elif "text/markdown" in data:
            yield relink(text(data["text/markdown"]))
        elif "text/plain" in data:
            yield fenced(text(data["text/plain"]), "text")


def make():
    "The text of README.md and its pictures by name."
    head = "Made from nbs/index.ipynb by .ci/readme.py: edit the notebook, not this file."
    parts = [f"<!-- {head} -->"]
    pictures = {}
    for i, cell in enumerate(load(source)["cells"]):
        code = text(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(relink(code.strip()))
        if cell["cell_type"] != "code": continue
        options = directives(code)
        code = no_directives(code)
        if code and is_shown(options):
            parts.append(fenced(code, "python"))
        if is_shown(options, "output"):
            parts += outputs(cell, options, i, pictures)
    return "\n\n".join(p for p in parts if p) + "\n", pictures


def unfit(made):
    "What Quarto would understand and GitHub does not."
    quarto = re.compile(r"(?<![\w@.])@[A-Za-z][\w:-]+|^:::.*$|\{#[\w-]+\}|\{\.[\w-]+.*?\}", re.M)
    for i, cell in enumerate(load(source)["cells"]):
        if cell["cell_type"] != "markdown": continue
        body = common.prose(text(cell["source"]))
        for m in quarto.finditer(body):
            at = where("nbs/index.ipynb", i, cell)
            yield f"{at}: GitHub cannot show {m[0]!r}, and this page is README.md too"
    for link in re.findall(r'(?:\]\(|(?:href|src)=")([^)\s"#]+)', common.prose(made)):
        if not re.match(r"[a-z][a-z0-9+.-]*:", link) and not (root/link).exists():
            yield f"README.md: link to {link}, which does not exist"


def differences():
    "One line for each thing that is not as it would be made."
    if not source.exists():
        return ["README.md: exists without nbs/index.ipynb"] if target.exists() else []
    made, pictures = make()
    out = list(unfit(made))
    if not target.exists() or target.read_text(encoding="utf-8") != made:
        out.append("README.md: differs from nbs/index.ipynb; run python .ci/readme.py")
    have = {p.name: p.read_bytes() for p in images.glob("*.*")} if images.exists() else {}
    differ = [n for n in sorted(have.keys() | pictures.keys()) if have.get(n) != pictures.get(n)]
    said = "differs from nbs/index.ipynb; run python .ci/readme.py"
    return out + [f"nbs/images/index/{n}: {said}" for n in differ]


def write():
    made, pictures = make()
    target.write_text(made, encoding="utf-8")
    for old in images.glob("*.*"):
        old.unlink()
    if pictures:
        images.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        (images/name).write_bytes(data)


def commands():
    "The lines of the `sh` blocks of README.md that are run."
    written = target.read_text(encoding="utf-8") if target.exists() else ""
    blocks = re.findall(r"^```sh\n(.*?)^```", written, flags=re.S | re.M)
    skip = re.compile(r"\s*(?:\w+=\S+ )*(pip install|git clone|cd dfml_nb\b|nbdev_test\b)")
    return [line for line in "".join(blocks).splitlines() if not skip.match(line)]


def run():
    "Run the commands of README.md; the exit code."
    lines = commands()
    script = ["bash", "-euxo", "pipefail", "-c", "\n".join(lines)]
    with tempfile.TemporaryDirectory(prefix="dfml_nb_") as tmp:
        code = subprocess.run(script, cwd=tmp, stdin=subprocess.DEVNULL).returncode
    n = sum(bool(l.strip()) for l in lines)
    print(f"README.md: {n} lines of commands, exit code {code}", flush=True)
    return 1 if code else 0


def main():
    if "--run" in sys.argv: return run()
    if "--check" in sys.argv: return common.report("readme", differences(), "README.md")
    write()


if __name__ == "__main__": sys.exit(main())
