"""The saved files belong together: modules and notebooks are what nbdev_export and nbdev_clean make of the notebooks,
README.md is what .ci/readme.py makes of nbs/index.ipynb, each figure is saved in its cell, each public name has an example,
each module has the names that it uses. Works on a copy."""
import ast, builtins, os, re, subprocess, symtable, sys, tempfile
from pathlib import Path

import common, readme
from common import directives, exported, load, notebooks, picture_of, root, text, where


def remade(module, name, change=lambda copy: None):
    "Run an nbdev command in a copy of the project; one line for each file it changed, made or no longer makes."
    with tempfile.TemporaryDirectory(prefix="dfml_nb_") as tmp:
        copy = Path(tmp)/"project"; copy.mkdir()
        common.copy_to(copy); change(copy)
        env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {"PYTHONPATH": str(copy)}
        command = f"from {module} import {name}; {name}.__wrapped__()"
        p = subprocess.run([sys.executable, "-c", command], cwd=copy, env=env, capture_output=True, text=True)
        if p.returncode: return [f"{name} failed: {p.stderr.strip().splitlines()[-1]}"]
        lib = Path(common.settings()["lib_path"])
        mine = lambda base: {q.relative_to(base) for part, kind in ((lib, "*.py"), ("nbs", "*.ipynb")) for q in (base/part).rglob(kind)
                             if not any(common.ignored.match(s) for s in q.relative_to(base).parts)}
        before, after = mine(root) & set(common.files()), mine(copy)
        read = lambda base, n: (base/n).read_bytes() if (base/n).exists() else None
        return [f"{n}: differs after {name}" for n in sorted(before | after) if read(root, n) != read(copy, n)]


def forget_modules(copy):
    "Remove all that an export writes, so that a module without a notebook is noticed."
    for p in (copy/common.settings()["lib_path"]).rglob("*.py"):
        if p.name != "__init__.py": p.unlink()


def figures():
    "Each cell that declares a figure has one saved."
    for path in notebooks():
        for i, cell in enumerate(load(path)["cells"]):
            if cell["cell_type"] != "code": continue
            label = directives(text(cell["source"])).get("label", "")
            if label.startswith("fig-") and not any(map(picture_of, cell["outputs"])):
                yield f"{where(path.relative_to(root), i, cell)}: {label} has no picture saved; run the notebook and save it"


def defined(source):
    "The public functions and classes that a cell defines."
    code = "\n".join(line for line in source.splitlines() if not line.startswith(("#|", "%", "!")))
    return [n.name for n in ast.parse(code).body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]


def examples():
    "Each public function and class is used in a cell of its notebook that readers see and that is always run."
    for path in notebooks():
        cells = [text(c["source"]) for c in load(path)["cells"] if c["cell_type"] == "code"]
        kinds = [directives(c).keys() for c in cells]
        shown = "\n".join(c for c, k in zip(cells, kinds) if not k & (exported | {"hide", "slow", "cuda"}))
        for name in (n for c, k in zip(cells, kinds) if k & (exported - {"exporti"}) for n in defined(c)):
            if not re.search(rf"\b{name}\b", shown):
                yield f"{path.relative_to(root)}: {name} is public and has no example; add a cell that uses it, or export it with exporti"


def unbound():
    "Each global name that a module uses is one of its own: in a notebook, an import for a test hides that the module lacks it."
    inside = lambda t: [t, *(i for c in t.get_children() for i in inside(c))]
    for path in sorted((root/common.settings()["lib_path"]).glob("*.py")):
        scopes = inside(symtable.symtable(path.read_text(encoding="utf-8"), path.name, "exec"))
        known = {s.get_name() for s in scopes[0].get_symbols() if s.is_assigned() or s.is_imported()} | {"__file__", *dir(builtins)}
        known |= {s.get_name() for t in scopes for s in t.get_symbols() if s.is_declared_global()}
        for name in sorted({s.get_name() for t in scopes for s in t.get_symbols() if s.is_global() and s.is_referenced()} - known):
            yield f"{path.relative_to(root)}: uses {name}, which it neither defines nor imports"


def main():
    problems = remade("nbdev.doclinks", "nbdev_export", forget_modules) + remade("nbdev.clean", "nbdev_clean") + list(figures()) + list(examples()) + list(unbound()) + readme.differences()
    return common.report("saved", problems, f"{len(notebooks())} notebooks")


if __name__ == "__main__": sys.exit(main())
