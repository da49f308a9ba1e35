"""Run the notebooks as tests, each in a process of its own, and count those that really ran.

    python .ci/test_notebooks.py [--jobs 2] [--timeout 600] [--flags "slow cuda"] [NOTEBOOK ...]

Cells are chosen as nbdev_test chooses them: not those with `#| eval: false`, nor those with a flag of `tst_flags` that is
not named by --flags. A notebook fails if a cell raises, if it takes too long, or if a cell shows something now but has
nothing saved. The last line is `N passed, N failed`.
"""
import argparse, json, os, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common
from common import root


def one(path, flags, out):
    "Run one notebook in this process; write to `out` whether it passed, how many cells ran, which lack their output."
    import nbdev.test
    from nbdev.config import get_config

    shown = lambda outputs: any(o["output_type"] in ("display_data", "execute_result") or o.get("name") == "stdout" for o in outputs or [])
    ran, unsaved = [], []

    class Shell(nbdev.test.CaptureShell):
        def cell(self, cell, *args, **kw):
            if cell.cell_type != "code" or not cell.source.strip(): return
            saved, cell.outputs = cell.get("outputs"), []
            super().cell(cell, *args, **kw)
            ran.append(cell.idx_)
            d = cell.directives_
            seen = not ((common.exported | {"hide"}) & d.keys()) and not any(d.get(k) == ["false"] for k in ("include:", "output:"))
            if seen and shown(cell.outputs) and not shown(saved): unsaved.append(f"cell {cell.idx_} ({cell.get('id')})")

    nbdev.test.CaptureShell = Shell
    passed, _ = nbdev.test.test_nb(path, skip_flags=get_config().tst_flags.split(), force_flags=flags.split(), basepath=root)
    Path(out).write_text(json.dumps(dict(passed=bool(passed), cells=len(ran), unsaved=unsaved)))


def test(path, flags, timeout):
    "Run one notebook in a new process; a dictionary with `status` (passed, failed, skipped), `seconds`, `cells` and `message`."
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dfml_nb_") as tmp:
        out = Path(tmp)/"out.json"
        command = [sys.executable, __file__, "--one", str(path), "--flags", flags, "--out", str(out)]
        try: p = subprocess.run(command, cwd=common.nbs, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=timeout)
        except subprocess.TimeoutExpired: return dict(status="failed", seconds=timeout, cells=0, message=f"not done after {timeout} s")
        res = json.loads(out.read_text()) if out.exists() else dict(passed=False, cells=0, unsaved=[])
    res.update(seconds=time.monotonic() - start, message="", status="passed")
    if p.returncode or not res["passed"]: res.update(status="failed", message=f"{p.stdout[-2000:]}{p.stderr[-6000:]}\nexit code {p.returncode}")
    elif res["unsaved"]: res.update(status="failed", message="shows something, but nothing is saved: " + ", ".join(res["unsaved"]))
    elif not res["cells"]: res.update(status="skipped", message="no cell to run")
    return res


def chosen(paths):
    "The notebooks to run; a folder that holds a file `.notest` is left out, as by nbdev_test."
    found = [Path(p).resolve() for p in paths] or common.notebooks()
    return [p for p in found if not (p.parent/".notest").exists()]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("paths", nargs="*"); p.add_argument("--jobs", type=int, default=2); p.add_argument("--timeout", type=float, default=600)
    p.add_argument("--flags", default=""); p.add_argument("--one"); p.add_argument("--out")
    p.add_argument("--checks-failed", type=int, default=0, help="other checks that failed before; they count as failed")
    a = p.parse_args()
    if a.one: return one(Path(a.one), a.flags, a.out)
    before, count = common.digests(), dict(passed=0, failed=0, skipped=0)
    paths = chosen(a.paths)
    with ThreadPoolExecutor(a.jobs) as pool:
        for path, r in zip(paths, pool.map(lambda q: test(q, a.flags, a.timeout), paths)):
            count[r["status"]] += 1
            print(f"{r['status']} {os.path.relpath(path, root)}: {r['cells']} cells, {r['seconds']:.1f} s", flush=True)
            if r["message"]: print("    " + r["message"].strip().replace("\n", "\n    "), flush=True)
    after = common.digests()
    touched = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    if touched: print("failed: the notebooks wrote into the project: " + ", ".join(touched)); count["failed"] += 1
    if a.checks_failed: print(f"failed: {a.checks_failed} of the checks before the notebooks"); count["failed"] += a.checks_failed
    if not count["passed"]: print("failed: no notebook ran"); count["failed"] += 1
    print(f"{count['skipped']} skipped")
    print(f"{count['passed']} passed, {count['failed']} failed", flush=True)
    return 1 if count["failed"] else 0


if __name__ == "__main__": sys.exit(main())
