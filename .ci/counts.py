"""Counts of what makes code hard to read, over all notebooks: what is exported and what tests it.

    python .ci/counts.py                     compare with .ci/counts.json; what got worse is a problem
    python .ci/counts.py --where NAME ...    the places of these counts, e.g. long_lines; or of `all`
    python .ci/counts.py --write [--force]   write .ci/counts.json; worse counts only with --force

Import circles are never allowed.
"""
import argparse, ast, io, itertools, json, re, sys, tokenize
from collections import Counter
from fnmatch import fnmatch

import common
from common import directives, exported, is_shown, load, nbs, notebooks, root, text, where

saved = root/".ci"/"counts.json"
max_line = 100
max_shown = 80   # columns of the site's text
max_function = 30
max_notebook = 250
comprehensions = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp
leaves = ast.Return, ast.Raise, ast.Continue, ast.Break   # of a guard
relative = {"lambdas", "tuple_assignments"}   # counted per 100 lines of code
meaning = dict(
    long_lines=f"lines over {max_line} characters",
    nested_comprehensions="comprehensions with two loops, or inside one another",
    lambdas="lambdas per 100 lines",
    tuple_assignments="unrelated things assigned as tuples, per 100 lines",
    joined_statements="statements that share a line with another",
    wide_source=f"lines over {max_shown} columns in code that the site shows",
    wide_output=f"printed lines over {max_shown} columns",
    long_functions=f"functions over {max_function} lines",
    long_notebooks=f"notebooks over {max_notebook} lines of code",
    hidden_returns="public functions that tell what they return in the comment of a parameter",
    upward_imports="imports from a higher floor",
    import_circles="modules that import each other in a circle")


def code_cells():
    "The code of each cell, as (how a message names it, notebook, source, its tree, is it exported)."
    for path in notebooks():
        name = path.relative_to(nbs).as_posix()
        for i, cell in enumerate(load(path)["cells"]):
            source = common.python_of(text(cell["source"]))
            if cell["cell_type"] != "code" or "nbdev_export()" in source: continue
            is_exported = bool(exported & directives(source).keys())
            yield where(name, i, cell), name, source, ast.parse(source), is_exported


def code_lines(source):
    "The lines of a cell that are neither empty nor a comment."
    lines = (line.strip() for line in source.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def long_lines(source, tree):
    "The numbers of lines that are too long; those that speak to Quarto are text."
    lines = enumerate(source.splitlines(), 1)
    return [n for n, line in lines if len(line) > max_line and not line.startswith("#|")]


def nested_comprehensions(source, tree):
    "Where a comprehension has two loops or another comprehension inside."
    for n in ast.walk(tree):
        if not isinstance(n, comprehensions): continue
        inside = (isinstance(m, comprehensions) for m in ast.walk(n) if m is not n)
        if len(n.generators) > 1 or any(inside):
            yield n.lineno


def lambdas(source, tree):
    return [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Lambda)]


def tuple_assignments(source, tree):
    "Where several names get a value of their own in one statement: a tuple on both sides."
    for n in ast.walk(tree):
        if not isinstance(n, ast.Assign) or not isinstance(n.value, ast.Tuple): continue
        if isinstance(n.targets[0], ast.Tuple):
            yield n.lineno


def is_guard(n):
    "Is this `if not found: return None`?"
    if not isinstance(n, ast.If) or n.orelse or len(n.body) > 1: return False
    return isinstance(n.body[0], leaves)


def joined_statements(source, tree):
    "Where a statement begins on a line on which another began; a guard may stand on one line."
    statements = [n for n in ast.walk(tree) if isinstance(n, ast.stmt)]
    allowed = {id(n.body[0]) for n in statements if is_guard(n)}
    begun = Counter(n.lineno for n in statements if id(n) not in allowed)
    for line, n in sorted(begun.items()):
        yield from [line] * (n - 1)


def long_functions(source, tree):
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    return [n.lineno for n in functions if n.end_lineno - n.lineno >= max_function]


def parameters(function):
    "The parameters of a function, in any of the five ways to write one."
    a = function.args
    return [p for p in [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg] if p]


def hidden_returns(source, tree):
    "Where a `→ what is returned` stands in a comment that belongs to a parameter."
    tokens = tokenize.generate_tokens(io.StringIO(source + "\n").readline)
    comments = {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}
    for n in ast.walk(tree):
        if not isinstance(n, ast.FunctionDef) or n.name.startswith("_"): continue
        lines = {p.lineno for p in parameters(n)} - {n.returns.lineno if n.returns else 0}
        if any(re.search(r"(^#\s*|;\s*)→", comments.get(line, "")) for line in lines):
            yield n.lineno


everywhere = [   # the counts that are made in tests too
    long_lines, nested_comprehensions, lambdas, tuple_assignments, joined_statements, long_functions]


def wide(lines):
    "The numbers of lines that run off the page; those that speak to Quarto are not shown."
    lines = enumerate(lines, 1)
    return [n for n, line in lines if len(line) > max_shown and not line.startswith("#|")]


def shown_code(cell):
    "The lines of code of a cell that the site shows as they are: its source, or the fenced blocks of a text."
    source = text(cell["source"])
    if cell["cell_type"] == "markdown":
        return [l for b in re.findall(r"^```.*?^```", source, re.M | re.S) for l in b.splitlines()]
    return source.splitlines() if is_shown(directives(source)) else []


def printed(cell):
    "The lines that a cell prints on its page, or shows as Python writes them."
    if not is_shown(directives(text(cell["source"])), "output"): return
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        shown = output.get("text") or (data["text/plain"] if data.keys() == {"text/plain"} else "")
        yield from text(shown).splitlines()


def wide_lines():
    "The places of lines that run off the page: of code, and of what is printed."
    found = dict(wide_source=[], wide_output=[])
    for path in notebooks():
        name = path.relative_to(nbs).as_posix()
        for i, cell in enumerate(load(path)["cells"]):
            for kind, lines in (("wide_source", shown_code(cell)), ("wide_output", printed(cell))):
                found[kind] += [f"{where(name, i, cell)}, line {n}" for n in wide(lines)]
    return found


def in_notebooks():
    "The places of all counts over notebooks, and the number of lines of code."
    found = {name: [] for name in meaning} | wide_lines()
    sizes = Counter()
    for at, name, source, tree, is_exported in code_cells():
        sizes[name] += len(code_lines(source))
        for count in (*everywhere, hidden_returns) if is_exported else everywhere:
            found[count.__name__] += [f"{at}, line {n}" for n in count(source, tree)]
    long = [name for name in sorted(sizes) if sizes[name] > max_notebook]
    found["long_notebooks"] = [f"{name}: {sizes[name]} lines" for name in long]
    return found, sum(sizes.values())


def module_trees():
    "The trees of each module, by name as `pool.pretrain`: of its file, and of the cells exported to it."
    lib = root/common.settings()["lib_path"]
    trees = {}
    for path in common.modules():
        name = ".".join(path.relative_to(lib).with_suffix("").parts)
        if path.stem != "_modidx":
            trees[name] = [ast.parse(path.read_text(encoding="utf-8"))]
    target = {}   # notebook → module
    for _, notebook, source, tree, is_exported in code_cells():
        if "default_exp" in directives(source):
            target[notebook] = directives(source)["default_exp"]
        if is_exported and notebook in target:
            trees.setdefault(target[notebook], []).append(tree)
    return trees


def imported(node, module, names):
    "The modules of the library, among `names`, that an import statement of `module` reads."
    lib = common.settings()["lib_name"]
    if isinstance(node, ast.Import):
        paths = [a.name.split(".") for a in node.names]
    else:
        above = [lib, *module.split(".")][:-node.level] if node.level else []
        base = above + (node.module.split(".") if node.module else [])
        paths = [base, *([*base, a.name] for a in node.names)]
    found = {".".join(p[1:]) for p in paths if p[0] == lib}
    found |= {f"{name}.__init__" for name in found}
    return found & names - {module}


def imports():
    "The modules that each module imports, at the top or inside of its functions."
    trees = module_trees()
    found = {}
    for module in sorted(trees):
        found[module] = set()
        for node in itertools.chain(*map(ast.walk, trees[module])):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found[module] |= imported(node, module, trees.keys())
    return found


def floor(module):
    "The number of the floor on which a module stands, from the ground up: the highest that names it."
    name = module.replace(".", "/")
    found = 0
    for i, floor in enumerate(common.rooms["floors"]):
        if any(fnmatch(name, pattern) for pattern in floor["rooms"]):
            found = i
    return found


def upward_imports(graph):
    "Imports from a higher floor."
    for module, used in graph.items():
        yield from (f"{module} imports {u}" for u in sorted(used) if floor(u) > floor(module))


def reachable(module, graph):
    "All modules that a module needs, directly or through others."
    found = set()
    todo = [module]
    while todo:
        new = graph.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return found


def import_circles(graph):
    "Modules that need themselves, each circle as one."
    needs = {module: reachable(module, graph) for module in graph}
    circles = set()
    for module in graph:
        circle = [u for u in sorted(needs[module]) if module in needs[u]]
        if circle:
            circles.add(" and ".join(circle))
    return sorted(circles)


def places():
    "The places of every count, and the counts themselves."
    found, lines = in_notebooks()
    graph = imports()
    found["upward_imports"] = list(upward_imports(graph))
    found["import_circles"] = import_circles(graph)
    counts = {k: len(found[k]) for k in meaning}
    for k in relative:
        counts[k] = round(100 * counts[k] / lines, 2)
    return found, counts


def worse(counts, before):
    "One line for each count that got worse."
    for name, n in counts.items():
        at = f"see python .ci/counts.py --where {name}"
        if name == "import_circles" and n:
            yield f"{n} {meaning[name]}, 0 are allowed: {at}"
        elif n > before.get(name, n):
            yield f"{n} {meaning[name]}, there were {before[name]}: {at}"


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--where", nargs="+", default=[], choices=[*meaning, "all"])
    p.add_argument("--write", action="store_true")
    p.add_argument("--force", action="store_true")
    return p.parse_args()


def main():
    a = arguments()
    found, counts = places()
    for name in meaning if "all" in a.where else a.where:
        print(f"{counts[name]} {meaning[name]}", *found[name], sep="\n  ")
    if a.where: return 0
    before = load(saved) if saved.exists() else {}
    problems = list(worse(counts, before))
    if a.write and (a.force or not problems):
        saved.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    elif a.write:
        problems.append("nothing written; --force writes these counts all the same")
    elif before.keys() != counts.keys():
        problems.append(".ci/counts.json does not have these counts; --write writes them")
    return common.report("counts", problems, ", ".join(f"{n} {k}" for k, n in counts.items()))


if __name__ == "__main__": sys.exit(main())
