"""What the checks share: the files of the project, copies of it, notebooks as plain dictionaries.
Standard library only."""
import base64, hashlib, json, re, shutil, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent
nbs = root/"nbs"
# the order of the pages, and the floors of the modules
rooms = json.loads((root/".ci"/"rooms.json").read_text(encoding="utf-8"))
exported = {"export", "exports", "exporti"}   # directives of cells that go into a module
unshown = {"export", "exporti", "hide", "default_exp"}   # of cells that nbdev leaves out of a page
ignored = re.compile(r"^(\.git|\.venv|_proc|_docs|build|dist|__pycache__|\.ipynb_checkpoints"
                     r"|.*\.egg-info|.*\.dist-info)$")


def settings():
    "settings.ini as a dictionary, with its %(names)s filled in."
    ini = ConfigParser(delimiters=["="])
    ini.read(root/"settings.ini", encoding="utf-8")
    return ini["DEFAULT"]


def _git(*args):
    "The output of a git command in the project; None if this is no repository, or git is missing."
    try:
        p = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True)
    except OSError:
        return None
    return p.stdout if p.returncode == 0 else None


def is_ignored(path):
    "Is this path, relative to the project, a build product?"
    return any(ignored.match(part) for part in path.parts)


def files():
    """All files of the project, relative to its root: what git tracks or would track; in a bare folder, all but
    build products."""
    top = _git("rev-parse", "--show-toplevel")
    if top is not None and Path(top.strip()).resolve() == root:
        names = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
        return sorted({Path(n) for n in names if n and (root/n).is_file()})
    found = (p.relative_to(root) for p in root.rglob("*") if p.is_file())
    return sorted(p for p in found if not is_ignored(p))


def copy_to(dest):
    "Copy the files of the project into the folder `dest`."
    for name in files():
        (dest/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root/name, dest/name)


def digests():
    "The checksum of every file of the project, by name."
    return {str(n): hashlib.sha256((root/n).read_bytes()).hexdigest() for n in files()}


def notebooks(folder=nbs):
    "The notebooks nbdev sees: none whose name, or whose folder's name, starts with `_` or `.`."
    hidden = lambda p: any(part[0] in "_." for part in p.relative_to(folder).parts)
    return sorted(p for p in folder.rglob("*.ipynb") if not hidden(p))


def modules():
    "The files of the library's modules, in all of its folders."
    lib = root/settings()["lib_path"]
    return sorted(p for p in lib.rglob("*.py") if not is_ignored(p.relative_to(lib)))


def load(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))
def text(source):
    return source if isinstance(source, str) else "".join(source or [])


def directives(source):
    "The `#| key` and `#| key: value` lines at the top of a code cell, as a dictionary."
    found = {}
    for line in source.splitlines():
        if not line.strip() or line.startswith("%%"): continue
        m = re.match(r"#\s*\|\s*([\w-]+)\s*(:?)\s*(.*)", line)
        if not m: break
        found[m[1]] = m[3].strip()
    return found


def is_shown(told, part="echo"):
    """Does the site show a part of a code cell with these directives: `echo`, its code, or `output`? A cell that
    is exported with `exports` is shown, too, but is no example of what it defines."""
    return not told.keys() & unshown and "false" not in (told.get("include"), told.get(part))


def python_of(source):
    "The code of a cell as Python can parse it: magics and shell commands become `pass`."
    return "\n".join("pass" if re.match(r"\s*[%!]", line) else line for line in source.splitlines())


def picture_of(output):
    "The picture that an output shows, as (ending of its file, bytes): a PNG, or an SVG in Markdown; or None."
    data = output.get("data", {})
    if "image/png" in data: return ".png", base64.b64decode(text(data["image/png"]))
    inside = re.search(r"\(data:image/svg\+xml;base64,([^)]+)\)", text(data.get("text/markdown", "")))
    return (".svg", base64.b64decode(inside[1])) if inside else None


def where(path, i, cell):
    "How a message names a cell."
    return f"{path}: cell {i} ({cell.get('id', 'no id')})"


def page_name(path):
    "The file name nbdev gives to the page of a notebook: lower case, without a number in front."
    path = Path(path)
    return path.with_name(re.sub(r"^\d+[a-zA-Z0-9]*_", "", path.name.lower())).with_suffix(".html")


def prose(markdown):
    "Markdown without fenced blocks, code spans, comments and formulas: text with its links."
    out = []
    fence = None
    for line in markdown.splitlines():
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if mark and fence is None:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and not line.strip().strip("`~"):
            fence = None
        elif fence is None:
            out.append(line)
    s = "\n".join(out)
    for pattern in (r"(`+)(?!`).+?(?<!`)\1(?!`)", r"<!--.*?-->", r"\$\$.*?\$\$",
                    r"\$(?!\s)[^$\n]+?(?<!\s)\$(?!\d)"):
        s = re.sub(pattern, lambda m: "\n" * m[0].count("\n"), s, flags=re.S)
    return s


def report(name, problems, summary):
    "One line a problem, then one line of summary; the exit code."
    for p in problems:
        print(f"{name}: {p}")
    print(f"{name}: {summary}, {len(problems)} problems", flush=True)
    return 1 if problems else 0


if __name__ == "__main__":   # python common.py FOLDER: copy the project there
    copy_to(Path(sys.argv[1]))
