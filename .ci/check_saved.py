"""The saved files belong together: modules and notebooks are what nbdev_export and nbdev_clean make of the
notebooks, README.md is what .ci/readme.py makes of nbs/index.ipynb, each figure is saved in its cell and no
error is, no two cells of a notebook have one id, each public name has an example, each module has the names
that it uses, and so has the code that a tutorial shows. Works on a copy."""
import ast, builtins, os, re, subprocess, symtable, sys, tempfile
from collections import Counter
from pathlib import Path

import common, readme
from common import directives, exported, is_shown, load, notebooks, picture_of, root, text, where


def saved_files(base, lib):
    "Modules and notebooks in a copy of the project, relative to it."
    found = [*(base/lib).rglob("*.py"), *(base/"nbs").rglob("*.ipynb")]
    return {p.relative_to(base) for p in found if not common.is_ignored(p.relative_to(base))}


def contents(path):
    "The bytes of a file; None if there is none."
    return path.read_bytes() if path.exists() else None


def remade(module, name, change=lambda copy: None):
    "Run an nbdev command in a copy; one line for each file it changed, made or no longer makes."
    with tempfile.TemporaryDirectory(prefix="dfml_nb_") as tmp:
        copy = Path(tmp)/"project"
        copy.mkdir()
        common.copy_to(copy)
        change(copy)
        env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {"PYTHONPATH": str(copy)}
        command = f"from {module} import {name}; {name}.__wrapped__()"
        run = [sys.executable, "-c", command]
        p = subprocess.run(run, cwd=copy, env=env, capture_output=True, text=True)
        if p.returncode: return [f"{name} failed: {p.stderr.strip().splitlines()[-1]}"]
        lib = common.settings()["lib_path"]
        names = saved_files(root, lib) & set(common.files()) | saved_files(copy, lib)
        differ = [n for n in sorted(names) if contents(root/n) != contents(copy/n)]
        return [f"{n}: differs after {name}" for n in differ]


def forget_modules(copy):
    "Remove all that an export writes: so a module, or a folder of them, without a notebook is noticed."
    lib = copy/common.settings()["lib_path"]
    for p in lib.rglob("*.py"):
        if p != lib/"__init__.py":
            p.unlink()


def figures():
    "Each cell that declares a figure has one saved."
    for path in notebooks():
        for i, cell in enumerate(load(path)["cells"]):
            if cell["cell_type"] != "code": continue
            label = directives(text(cell["source"])).get("label", "")
            if label.startswith("fig-") and not any(map(picture_of, cell["outputs"])):
                at = where(path.relative_to(root), i, cell)
                yield f"{at}: {label} has no picture saved; run the notebook and save it"


def errors():
    "No cell has an error saved that it once ended with."
    for path in notebooks():
        for i, cell in enumerate(load(path)["cells"]):
            if any(o["output_type"] == "error" for o in cell.get("outputs", [])):
                yield f"{where(path.relative_to(root), i, cell)}: an error is saved; run the notebook again"


def twins():
    "No two cells of a notebook have one id: whoever names a cell by it would change the other."
    for path in notebooks():
        ids = Counter(cell["id"] for cell in load(path)["cells"])
        for name in [i for i, n in ids.items() if n > 1]:
            yield f"{path.relative_to(root)}: {ids[name]} cells have the id {name}; give each its own"


def is_patch(node):
    "Is this function put into a class by `patch`?"
    return any(re.match(r"patch\b", ast.unparse(d)) for d in node.decorator_list)


def defined(source):
    "The public functions and classes that a cell defines; those patched into a class belong to it."
    nodes = ast.parse(common.python_of(source)).body
    found = [n for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not is_patch(n)]
    return [n.name for n in found if not n.name.startswith("_")]


def examples():
    "Each public function and class is used in a cell of its notebook that readers see and that always runs."
    for path in notebooks():
        cells = [text(c["source"]) for c in load(path)["cells"] if c["cell_type"] == "code"]
        kinds = list(map(directives, cells))
        no_example = exported | {"slow", "cuda"}
        seen = [c for c, k in zip(cells, kinds) if is_shown(k) and not k.keys() & no_example]
        shown = "\n".join(seen)
        public = [defined(c) for c, k in zip(cells, kinds) if k.keys() & {"export", "exports"}]
        for name in sum(public, []):
            if re.search(rf"\b{name}\b", shown): continue
            yield (f"{path.relative_to(root)}: {name} is public and has no example; "
                   "add a cell that uses it, or export it with exporti")


def scopes_in(table):
    "A symbol table, and all inside it."
    found = [table]
    for child in table.get_children():
        found += scopes_in(child)
    return found


def unknown_names(source, name):
    "The global names that a module uses and neither defines nor imports."
    scopes = scopes_in(symtable.symtable(source, name, "exec"))
    known = {s.get_name() for s in scopes[0].get_symbols() if s.is_assigned() or s.is_imported()}
    used = set()
    for scope in scopes:
        symbols = scope.get_symbols()
        known |= {s.get_name() for s in symbols if s.is_declared_global()}
        used |= {s.get_name() for s in symbols if s.is_global() and s.is_referenced()}
    return sorted(used - known - {"__file__", "__name__", *dir(builtins)})


def unbound():
    "Each global name that a module uses is its own: an import for a test may hide that the module lacks it."
    for path in common.modules():
        for name in unknown_names(path.read_text(encoding="utf-8"), path.name):
            yield f"{path.relative_to(root)}: uses {name}, which it neither defines nor imports"


def typed():
    "Whoever types the code that a tutorial shows has every name that it uses."
    for path in notebooks(common.nbs/"tutorials"):
        cells = [text(c["source"]) for c in load(path)["cells"] if c["cell_type"] == "code"]
        shown = "\n".join(common.python_of(c) for c in cells if is_shown(directives(c)))
        for name in unknown_names(shown, path.name):
            yield (f"{path.relative_to(root)}: the code that is shown uses {name}, which none of it "
                   "defines; show where it comes from, or hide that cell too")


def main():
    problems = remade("nbdev.doclinks", "nbdev_export", forget_modules)
    problems += remade("nbdev.clean", "nbdev_clean")
    problems += [*figures(), *errors(), *twins(), *examples(), *unbound(), *typed(), *readme.differences()]
    return common.report("saved", problems, f"{len(notebooks())} notebooks")


if __name__ == "__main__": sys.exit(main())
