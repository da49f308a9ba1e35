"""Run the notebooks as tests, each in a process of its own, and count those that really ran.

    python .ci/test_notebooks.py [--jobs 2] [--timeout 600] [--flags "slow cuda"] [NOTEBOOK or FOLDER ...]

Cells are chosen as nbdev_test chooses them: not those with `#| eval: false`, nor those with a flag of `tst_flags`
that is not named by --flags. A notebook fails if a cell raises, if it takes too long, or if a cell shows something
now but has nothing saved. The last line is `N passed, N failed`.
"""
import argparse, json, os, subprocess, sys, tempfile, textwrap, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common
from common import root


def shown(outputs):
    "Do these outputs of a cell show a reader something?"
    kinds = "display_data", "execute_result"
    return any(o["output_type"] in kinds or o.get("name") == "stdout" for o in outputs or [])


def one(path, flags, out):
    "Run one notebook in this process; write to `out` if it passed, how many cells ran, which lack output."
    import nbdev.test
    from nbdev.config import get_config

    ran = []
    unsaved = []

    class Shell(nbdev.test.CaptureShell):
        def cell(self, cell, *args, **kw):
            if cell.cell_type != "code" or not cell.source.strip(): return
            saved = cell.get("outputs")
            cell.outputs = []
            super().cell(cell, *args, **kw)
            ran.append(cell.idx_)
            told = {k.rstrip(":"): " ".join(v) for k, v in cell.directives_.items()}
            seen = common.is_shown(told, "output")
            if seen and shown(cell.outputs) and not shown(saved):
                unsaved.append(f"cell {cell.idx_} ({cell.get('id')})")

    nbdev.test.CaptureShell = Shell
    skip = get_config().tst_flags.split()
    passed, _ = nbdev.test.test_nb(path, skip_flags=skip, force_flags=flags.split(), basepath=root)
    Path(out).write_text(json.dumps(dict(passed=bool(passed), cells=len(ran), unsaved=unsaved)))


def test(path, flags, timeout):
    """Run one notebook in a new process; a dictionary with `status` (passed, failed, skipped), `seconds`, `cells`
    and `message`."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dfml_nb_") as tmp:
        out = Path(tmp)/"out.json"
        command = [sys.executable, __file__, "--one", str(path), "--flags", flags, "--out", out]
        try:
            p = subprocess.run(command, cwd=common.nbs, capture_output=True, text=True,
                               errors="replace", stdin=subprocess.DEVNULL, timeout=timeout)
        except subprocess.TimeoutExpired:
            said = f"not done after {timeout} s"
            return dict(status="failed", seconds=timeout, cells=0, message=said)
        res = dict(passed=False, cells=0, unsaved=[])
        if out.exists():
            res = json.loads(out.read_text())
    res.update(seconds=time.monotonic() - start, message="", status="passed")
    if p.returncode or not res["passed"]:
        said = f"{p.stdout[-2000:]}{p.stderr[-6000:]}\nexit code {p.returncode}"
        res.update(status="failed", message=said)
    elif res["unsaved"]:
        said = "shows something, but nothing is saved: " + ", ".join(res["unsaved"])
        res.update(status="failed", message=said)
    elif not res["cells"]:
        res.update(status="skipped", message="no cell to run")
    return res


def chosen(paths):
    "The notebooks to run; a folder that holds a file `.notest` is left out, as by nbdev_test."
    found = [] if paths else common.notebooks()
    for p in map(Path, paths):
        found += common.notebooks(p.resolve()) if p.is_dir() else [p.resolve()]
    return [p for p in found if not (p.parent/".notest").exists()]


def run_all(paths, a, count):
    "Run notebooks, several at a time; say of each how it went."
    with ThreadPoolExecutor(a.jobs) as pool:
        results = pool.map(lambda p: test(p, a.flags, a.timeout), paths)
        for path, r in zip(paths, results):
            count[r["status"]] += 1
            name = os.path.relpath(path, root)
            print(f"{r['status']} {name}: {r['cells']} cells, {r['seconds']:.1f} s", flush=True)
            if r["message"]:
                print(textwrap.indent(r["message"].strip(), "    "), flush=True)


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("paths", nargs="*")
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--timeout", type=float, default=600)
    p.add_argument("--flags", default="")
    p.add_argument("--one")
    p.add_argument("--out")
    p.add_argument("--checks-failed", type=int, default=0)   # other checks that failed; they count
    return p.parse_args()


def main():
    a = arguments()
    if a.one: return one(Path(a.one), a.flags, a.out)
    before = common.digests()
    count = dict(passed=0, failed=0, skipped=0)
    run_all(chosen(a.paths), a, count)
    after = common.digests()
    touched = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    if touched:
        print("failed: the notebooks wrote into the project: " + ", ".join(touched))
        count["failed"] += 1
    if a.checks_failed:
        print(f"failed: {a.checks_failed} of the checks before the notebooks")
        count["failed"] += a.checks_failed
    if not count["passed"]:
        print("failed: no notebook ran")
        count["failed"] += 1
    print(f"{count['skipped']} skipped")
    print(f"{count['passed']} passed, {count['failed']} failed", flush=True)
    return 1 if count["failed"] else 0


if __name__ == "__main__": sys.exit(main())
